"""Who takes part: every participant's flags, those that stop it and those that are only shown.

A flag stops a participant unless `quality.accept` waves it through. What then follows is `quality.policy`.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from slimdiff.config.data import DataConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import EMPTY_MASK, DataError, Flag, Participant
from slimdiff.data.quality.flags import ACCEPTABLE
from slimdiff.data.quality.measure import Measured
from slimdiff.files import MISSING, read_table

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


FLIP_SD = 0.3
"""`flip_suspected`: so much more contrast when turned over. On 20 phantoms and two patients of open_ms every mask that
was mirrored in the file lies above it and no true one; of masks over no lesion at all 3 in 100 do."""
CLIPPED_SHARE = 1e-4
"""`intensity_overflow`: more voxels than this exactly at the type's end."""


def doubts(participant: Participant, measured: Measured, config: QualityConfig) -> list[Flag]:
    """What is doubtful about one participant by itself."""
    flags = []
    image, mask = participant.image, participant.mask
    spacing = measured.spacing_mm or ()
    if spacing and max(spacing) > config.max_spacing_mm:
        sizes = " x ".join(f"{size:.3g}" for size in spacing)
        flags.append(
            Flag(
                "thick_slices",
                f"{image}: voxels of {sizes} mm; at most {config.max_spacing_mm:g} mm are allowed along an axis, "
                "which quality.max_spacing_mm can raise",
            )
        )
    share = measured.lesion_outside_share or 0.0
    if share > config.max_lesion_outside:
        flags.append(
            Flag(
                "lesion_outside_brain",
                f"{mask}: {100 * share:.3g} % of the lesion lies outside of the {measured.outside_of}; at most "
                f"{100 * config.max_lesion_outside:.3g} % may (quality.max_lesion_outside)",
            )
        )
    if measured.flip_contrast is not None and measured.flip_contrast - measured.lesion_contrast > FLIP_SD:
        flags.append(
            Flag(
                "flip_suspected",
                f"{mask}: {measured.flip}, the mask would lie on a place {measured.flip_contrast:+.2f} SD of the brain "
                f"brighter than its surroundings; as it is stored {measured.lesion_contrast:+.2f} SD",
            )
        )
    if measured.wrapped_voxels:
        flags.append(
            Flag(
                "intensity_overflow",
                f"{image}: {measured.wrapped_voxels} voxels jump from one end of {measured.dtype} to the other (values "
                f"{measured.minimum:g} to {measured.maximum:g}), so they wrapped; convert it again as a wider type",
            )
        )
    elif (measured.clipped_share or 0.0) >= CLIPPED_SHARE:
        flags.append(
            Flag(
                "intensity_overflow",
                f"{image}: {100 * measured.clipped_share:.2g} % of the voxels are exactly at the end of "
                f"{measured.dtype} (values {measured.minimum:g} to {measured.maximum:g}), so they were cut off there",
            )
        )
    if not measured.placed:
        flags.append(
            Flag(
                "orientation_unknown",
                f"{image}: sform and qform code are 0, so its axes are only assumed to be {measured.orientation}; look "
                "at it and set its sform",
            )
        )
    return flags


def duplicates(participants: Sequence[Participant], measured: dict[str, Measured]) -> dict[str, Flag]:
    """Participants whose images have the same voxels, each with a flag that names the others."""
    alike = defaultdict(list)
    for participant in participants:
        facts = measured.get(participant.participant_id)
        if facts and facts.voxel_sha256:
            alike[facts.voxel_sha256].append(participant)
    flags = {}
    for same in alike.values():
        for one in same if len(same) > 1 else ():
            others = [other for other in same if other is not one]
            apart = [
                other for other in others if other.split not in (one.split, MISSING) and one.split != MISSING
            ]
            named = ", ".join(f"{other.participant_id} ({other.image})" for other in others)
            said = f"{one.image}: the same voxels as {named}"
            if apart:
                splits = " and ".join(dict.fromkeys([one.split, *(other.split for other in apart)]))
                said += f", in different splits ({splits})"
            flags[one.participant_id] = Flag("duplicate_image", said)
    return flags


def left_out_for_flags(quality: Path) -> dict[str, str]:
    """participant_id: flags with their reasons, of those whom quality control left out; not of those left out by name.

    quality: quality.tsv, which need not be there.
    """
    if not quality.is_file():
        return {}
    rows = read_table(quality, ("participant_id", "verdict", "flags", "reasons"))
    flagged = [row for row in rows if row["verdict"] == "excluded" and row["flags"] != MISSING]
    return {row["participant_id"]: row["reasons"] for row in flagged}


def enforce_policy(failed: dict[str, str], flagged: dict[str, str], quality: QualityConfig) -> None:
    """Hold to `quality.policy` about those who could not be preprocessed.

    failed, flagged: as `not_preprocessed` and `left_out_for_flags` give them; together they count towards
    `quality.max_excluded`.
    Raises DataError naming everybody concerned: for policy `error`, and for more than `max_excluded`.
    """
    everybody = {**flagged, **failed}
    if not failed or (quality.policy == "exclude" and len(everybody) <= quality.max_excluded):
        return
    if quality.policy == "error":
        first = f"{len(failed)} participants could not be preprocessed"
        ways = "make the stage preprocess again, leave them out by name (data.exclude) or with quality.policy: exclude"
    else:
        first = f"{len(everybody)} participants would be left out, but quality.max_excluded is {quality.max_excluded}"
        ways = "mend the files, leave them out by name (data.exclude), or raise quality.max_excluded"
    listed = [f"  {name}: {reason}" for name, reason in everybody.items()]
    raise DataError("\n".join([f"{first}:", *listed, f"What can be done: {ways}."]))
