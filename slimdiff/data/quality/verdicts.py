"""Who takes part: every participant's flags, those that stop it and those that are only shown.

A flag stops a participant unless `quality.accept` waves it through. What then follows is `quality.policy`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from slimdiff.config.data import DataConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import EMPTY_MASK, DataError, Flag, Participant
from slimdiff.data.quality.flags import ACCEPTABLE
from slimdiff.data.quality.limits import doubts, duplicates
from slimdiff.data.quality.measure import Measured

Word = Literal["ok", "shown", "excluded", "error"]


@dataclass(frozen=True)
class Verdict:
    """What is said about one participant."""

    participant: Participant
    """As it goes on: excluded with the reason, or a control where its mask is empty and that means one."""
    stopping: tuple[Flag, ...]
    shown: tuple[Flag, ...]
    measured: Measured | None
    """None for those who were left out before a file was read."""
    policy: Literal["error", "exclude"]

    @property
    def word(self) -> Word:
        if self.stopping:
            return "error" if self.policy == "error" else "excluded"
        if not self.participant.included:
            return "excluded"
        return "shown" if self.shown else "ok"


def verdicts(
    participants: Sequence[Participant],
    measured: dict[str, Measured],
    config: QualityConfig,
    data: DataConfig,
    table: Path | None = None,
) -> list[Verdict]:
    """Judge everybody and hold to the policy.

    measured: participant_id, what `measure` found; everybody who is included and has no flag from discovery.
    table: where the whole table lies, for the message.
    Raises DataError naming everybody that is flagged, where the policy wants it or nobody with a lesion is left.
    """
    judged = judge(participants, measured, config, data)
    enforce(judged, config, table)
    return judged


def judge(
    participants: Sequence[Participant],
    measured: dict[str, Measured],
    config: QualityConfig,
    data: DataConfig,
) -> list[Verdict]:
    """One verdict a participant, in their order. Raises DataError only where `quality.accept` names nobody."""
    refuse_unknown_names(participants, config)
    included = [participant for participant in participants if participant.included]
    same = duplicates(included, measured)
    found = []
    for participant in participants:
        name = participant.participant_id
        facts = measured.get(name) if participant.included else None
        flags = list(participant.flags)
        if participant.included and facts is None and not flags:
            raise ValueError(f"{name} was not measured")
        if facts is not None:
            flags += [*facts.flags, *doubts(participant, facts, config)]
            flags += [same[name]] if name in same else []
            participant, flags = _empty_mask_as_control(participant, flags, data)
        stopping = tuple(flag for flag in flags if not _accepted(flag, name, config, data))
        shown = tuple(flag for flag in flags if flag not in stopping)
        if not participant.included:
            # By name, group or the 2-D rule: nobody was asked about its flags.
            if participant.excluded != reason_of(stopping):
                shown, stopping = (*shown, *stopping), ()
        elif stopping and config.policy == "exclude":
            participant = participant.without(reason_of(stopping))
        found.append(Verdict(participant, stopping, shown, facts, config.policy))
    return found


def enforce(judged: Sequence[Verdict], config: QualityConfig, table: Path | None = None) -> None:
    """Raise DataError where the policy does not let these verdicts pass."""
    flagged = {verdict.participant.participant_id: verdict.stopping for verdict in judged if verdict.stopping}
    _enforce(flagged, len(judged), config, table)
    left = [verdict.participant for verdict in judged if verdict.participant.included]
    if not any(participant.is_patient for participant in left):
        raise DataError(
            _listed("no subject with a lesion mask is left", flagged, config, table)
            if flagged
            else f"no subject with a lesion mask is left of {len(judged)}"
        )


def settle_discovery(participants: Sequence[Participant], config: QualityConfig) -> list[Participant]:
    """Hold to the policy about the flags of discovery alone, before a file is read.

    Raises DataError naming everybody that is flagged, for policy `error` or for more than `max_excluded`.
    """
    refuse_unknown_names(participants, config)
    flagged = {row.participant_id: row.flags for row in participants if row.included and row.flags}
    _enforce(flagged, len(participants), config, None)
    return leave_out(participants)


def leave_out(participants: Iterable[Participant]) -> list[Participant]:
    """The participants, those with flags from discovery excluded for them."""
    return [row.without(reason_of(row.flags)) if row.included and row.flags else row for row in participants]


def reason_of(flags: Sequence[Flag]) -> str:
    """Flags as they stand in participants.tsv."""
    return "; ".join(f"{flag.name}: {flag.reason}" for flag in flags)


def refuse_unknown_names(participants: Sequence[Participant], config: QualityConfig) -> None:
    """Raise DataError where `quality.accept` names somebody who is not in the source."""
    known = {participant.participant_id for participant in participants}
    for flag, names in config.accept.items():
        for name in () if names == "all" else names:
            if name not in known:
                raise DataError(f"quality.accept: {flag}: no participant {name!r} in the source")


def _accepted(flag: Flag, name: str, config: QualityConfig, data: DataConfig) -> bool:
    if flag.name == "thick_slices" and data.two_dimensional == "include":
        return True
    return config.accepts(flag.name, name)


def _empty_mask_as_control(
    participant: Participant, flags: list[Flag], data: DataConfig
) -> tuple[Participant, list[Flag]]:
    if data.empty_mask != "control" or not any(flag.name == "empty_mask" for flag in flags):
        return participant, flags
    group = "control" if participant.group == "patient" else participant.group
    further = {**participant.further, EMPTY_MASK: str(participant.mask)}
    control = replace(participant, mask=None, group=group, further=further)
    return control, [flag for flag in flags if flag.name != "empty_mask"]


def _enforce(
    flagged: dict[str, Sequence[Flag]], count: int, config: QualityConfig, table: Path | None
) -> None:
    if not flagged:
        return
    if config.policy == "error":
        raise DataError(
            _listed(f"{len(flagged)} of {count} participants are flagged", flagged, config, table)
        )
    if len(flagged) > config.max_excluded:
        first = (
            f"{len(flagged)} of {count} participants would be left out, but quality.max_excluded is "
            f"{config.max_excluded}"
        )
        raise DataError(_listed(first, flagged, config, table))


def _listed(first: str, flagged: dict[str, Sequence[Flag]], config: QualityConfig, table: Path | None) -> str:
    lines = [f"{first}:"]
    lines += [f"  {name}: {flag.name}: {flag.reason}" for name, flags in flagged.items() for flag in flags]
    doubtful = sorted({flag.name for flags in flagged.values() for flag in flags} & ACCEPTABLE)
    ways = ["mend the files", "leave participants out by name (data.exclude)"]
    if doubtful:
        ways.append(f"accept what you have looked at (quality.accept: {', '.join(doubtful)})")
    ways.append(
        "leave flagged participants out (quality.policy: exclude)"
        if config.policy == "error"
        else "raise quality.max_excluded"
    )
    lines.append(f"What can be done: {'; '.join(ways)}.")
    if table is not None:
        lines.append(f"Everybody, with what was measured: {table}")
    return "\n".join(lines)
