"""Which participants are included: each one's flags, those that stop it and those that are only shown.

A flag stops a participant unless `quality.accept` accepts it. `quality.policy` decides between error and exclusion.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from slimdiff.config.data import DataConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import EMPTY_MASK, DataError, Flag, Participant
from slimdiff.data.quality.field_of_view import Slicing, other_heights
from slimdiff.data.quality.flags import ACCEPTABLE
from slimdiff.data.quality.image_quality import outliers
from slimdiff.data.sources.columns import PATIENT, role_of, same_word
from slimdiff.files import MISSING, read_table

if TYPE_CHECKING:
    from slimdiff.data.quality.measure import Measured

Word = Literal["ok", "shown", "excluded", "error"]
ON_A_GRID = Slicing()


@dataclass(frozen=True)
class Verdict:
    """Result of quality control for one participant."""

    participant: Participant
    """For the later stages: excluded with the reason, or a control if `data.empty_mask` makes it one."""
    stopping: tuple[Flag, ...]
    shown: tuple[Flag, ...]
    measured: "Measured | None"
    """None if the participant was excluded before a file was read."""
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
    measured: "dict[str, Measured]",
    config: QualityConfig,
    data: DataConfig,
    table: Path | None = None,
    slicing: Slicing = ON_A_GRID,
) -> list[Verdict]:
    """Judge all participants and apply the policy.

    measured: participant_id: result of `measure`, for all included participants without a flag from discovery.
    table: path of the whole table, for the message. slicing: what becomes of the slices.
    Raises DataError that lists all flagged participants if the policy requires it, or if no patient is left.
    """
    judged = judge(participants, measured, config, data, slicing)
    enforce(judged, config, table)
    return judged


def judge(
    participants: Sequence[Participant],
    measured: "dict[str, Measured]",
    config: QualityConfig,
    data: DataConfig,
    slicing: Slicing = ON_A_GRID,
) -> list[Verdict]:
    """One verdict per participant, in their order. Raises DataError only for unknown names in `quality.accept`."""
    refuse_unknown_names(participants, config)
    included = [participant for participant in participants if participant.included]
    same = duplicates(included, measured)
    known = {label for facts in measured.values() if facts.lesion_voxels for label in facts.mask_labels}
    cohort = {
        row.participant_id: measured[row.participant_id] for row in included if row.participant_id in measured
    }
    worse, elsewhere = outliers(cohort), other_heights(cohort, slicing)
    with_lesion = {
        same_word(row.group)
        for row in included
        if row.participant_id in cohort and cohort[row.participant_id].lesion_voxels
    }
    found = []
    for participant in participants:
        name = participant.participant_id
        facts = measured.get(name) if participant.included else None
        flags = list(participant.flags)
        if participant.included and facts is None and not flags:
            raise ValueError(f"{name} was not measured")
        if facts is not None:
            flags += [*facts.flags, *doubts(participant, facts, config, slicing.native)]
            flags += [same[name]] if name in same else []
            if name in worse:
                flags.append(
                    Flag("image_quality", f"{participant.image}: {'; '.join(worse[name])}; inspect the image")
                )
            if name in elsewhere:
                flags.append(Flag("field_of_view", f"{participant.image}: {elsewhere[name]}"))
            participant, flags = _empty_mask_as_control(participant, flags, facts, known, with_lesion, data)
        stopping = tuple(flag for flag in flags if not _accepted(flag, name, config, data, slicing.native))
        shown = tuple(flag for flag in flags if flag not in stopping)
        if not participant.included:
            # Excluded by name, group or the 2-D rule: its flags stop nothing.
            if participant.excluded != reason_of(stopping):
                shown, stopping = (*shown, *stopping), ()
        elif stopping and config.policy == "exclude":
            participant = participant.without(reason_of(stopping))
        found.append(Verdict(participant, stopping, shown, facts, config.policy))
    return found


def enforce(judged: Sequence[Verdict], config: QualityConfig, table: Path | None = None) -> None:
    """Raise DataError if the policy rejects these verdicts."""
    flagged = {verdict.participant.participant_id: verdict.stopping for verdict in judged if verdict.stopping}
    _enforce(flagged, len(judged), config, table)
    left = [verdict.participant for verdict in judged if verdict.participant.included]
    if not any(participant.is_patient for participant in left):
        raise DataError(
            _listed("no subject with a lesion mask is left", flagged, config, table)
            if flagged
            else f"no subject with a lesion mask is left of {len(judged)} participants"
        )


def settle_discovery(participants: Sequence[Participant], config: QualityConfig) -> list[Participant]:
    """Apply the policy to the flags from discovery alone, before a file is read.

    Raises DataError that lists all flagged participants, for policy `error` or for more than `max_excluded`.
    """
    refuse_unknown_names(participants, config)
    flagged = {row.participant_id: row.flags for row in participants if row.included and row.flags}
    _enforce(flagged, len(participants), config, None)
    return leave_out(participants)


def leave_out(participants: Iterable[Participant]) -> list[Participant]:
    """The participants, with those flagged at discovery excluded."""
    return [row.without(reason_of(row.flags)) if row.included and row.flags else row for row in participants]


def reason_of(flags: Sequence[Flag]) -> str:
    """Flags as text for participants.tsv."""
    return "; ".join(f"{flag.name}: {flag.reason}" for flag in flags)


def refuse_unknown_names(participants: Sequence[Participant], config: QualityConfig) -> None:
    """Raise DataError if `quality.accept` names a participant that is not in the source."""
    known = {participant.participant_id for participant in participants}
    for flag, names in config.accept.items():
        for name in () if names == "all" else names:
            if name not in known:
                raise DataError(f"quality.accept: {flag}: no participant {name!r} in the source")


def _accepted(flag: Flag, name: str, config: QualityConfig, data: DataConfig, native: bool) -> bool:
    wanted = data.source == "slices" or (data.two_dimensional == "include" and not native)
    if flag.name == "thick_slices" and wanted:
        return True
    return config.accepts(flag.name, name)


def _empty_mask_as_control(
    participant: Participant,
    flags: list[Flag],
    facts: "Measured",
    known: set[float],
    with_lesion: set[str],
    data: DataConfig,
) -> tuple[Participant, list[Flag]]:
    """The participant as a control, if its mask says that it has no lesion.

    A mask with other labels than the lesion's says so only if these labels are `known` from masks with a lesion: labels
    that occur nowhere else may be the lesion in another coding. A participant of a stated group of patients, or of one
    of `with_lesion`, is a patient without a visible lesion: `data.patients_without_mask` settles it.
    """
    meant = {"empty_mask", "other_labels"} if known.issuperset(facts.mask_labels) else {"empty_mask"}
    if data.empty_mask != "control" or not any(flag.name in meant for flag in flags):
        return participant, flags
    others = [flag for flag in flags if flag.name not in meant]
    group = participant.group
    of_patients = same_word(group) in with_lesion or role_of(group) == PATIENT
    if of_patients and not participant.group_by_mask and data.on_patients_without_mask != "control":
        why = (
            f"{participant.mask}: no lesion, but group {group} is one of patients, so a lesion may be visible"
        )
        if data.on_patients_without_mask == "exclude":
            return participant.without(f"{why} (data.patients_without_mask: exclude)"), others
        to_do = (
            f"draw the lesion, exclude {participant.participant_id} by name, or set data.patients_without_mask: "
            "exclude (control: there is no lesion to see)"
        )
        return participant, [*others, Flag("empty_mask", f"{why}; {to_do}")]
    group = "control" if participant.group_by_mask else group
    further = {**participant.further, EMPTY_MASK: str(participant.mask)}
    control = replace(participant, mask=None, more_masks=(), group=group, further=further)
    return control, others


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
            f"{len(flagged)} of {count} participants would be excluded, but quality.max_excluded is "
            f"{config.max_excluded}"
        )
        raise DataError(_listed(first, flagged, config, table))


def _listed(first: str, flagged: dict[str, Sequence[Flag]], config: QualityConfig, table: Path | None) -> str:
    lines = [f"{first}:"]
    lines += [f"  {name}: {flag.name}: {flag.reason}" for name, flags in flagged.items() for flag in flags]
    doubtful = sorted({flag.name for flags in flagged.values() for flag in flags} & ACCEPTABLE)
    ways = ["fix the files", "exclude participants by name (data.exclude)"]
    if doubtful:
        ways.append(f"inspect the files and accept the flags (quality.accept: {', '.join(doubtful)})")
    ways.append(
        "exclude flagged participants (quality.policy: exclude)"
        if config.policy == "error"
        else "raise quality.max_excluded"
    )
    lines.append(f"Options: {'; '.join(ways)}.")
    if table is not None:
        lines.append(f"All participants with their measurements: {table}")
    return "\n".join(lines)


FLIP_SD = 0.3
"""`flip_suspected`: minimum gain in contrast by a flip, in SD of the brain. On 20 phantoms and two patients of open_ms
all masks mirrored in the file exceed it and no correct mask does; of masks placed on no lesion 3 in 100 exceed it."""
LARGEST_LESION_ML, LARGEST_LESION_SHARE = 300.0, 0.3
"""`implausible_lesion`: the volume, and the share of the brain mask or head."""
SMALLEST_LESION_VOXELS = 3
"""`implausible_lesion`: fewer voxels are a slip of the pen rather than a drawn lesion."""
CLIPPED_SHARE = 1e-4
"""`intensity_overflow`: minimum share of voxels exactly at an end of the type."""


def doubts(
    participant: Participant, measured: "Measured", config: QualityConfig, native: bool = False
) -> list[Flag]:
    """Doubts about one participant, without comparison to others; native: the volume keeps its own slices."""
    flags = []
    image, mask = participant.image, participant.mask
    spacing = measured.spacing_mm or ()
    resampled = (
        [
            size
            for size, way in zip(spacing, measured.orientation or "???", strict=True)
            if not native or way not in "SI"
        ]
        if spacing
        else []
    )
    if resampled and max(resampled) > config.max_spacing_mm:
        sizes = " x ".join(f"{size:.3g}" for size in spacing)
        along = "in plane, because only axial slices stay as they are," if native else "along every axis,"
        flags.append(
            Flag(
                "thick_slices",
                f"{image}: expected voxels of at most {config.max_spacing_mm:g} mm {along} found {sizes} mm; "
                "exclude the participant or raise quality.max_spacing_mm",
            )
        )
    share = measured.lesion_outside_share or 0.0
    if share > config.max_lesion_outside:
        flags.append(
            Flag(
                "lesion_outside_brain",
                f"{mask}: expected at most {100 * config.max_lesion_outside:.3g} % of the lesion outside the "
                f"{measured.outside_of} (quality.max_lesion_outside), found {100 * share:.3g} %",
            )
        )
    size = measured.lesion_ml or 0.0
    if size > LARGEST_LESION_ML or (measured.lesion_share or 0.0) > LARGEST_LESION_SHARE:
        flags.append(
            Flag(
                "implausible_lesion",
                f"{mask}: expected a lesion of at most {LARGEST_LESION_ML:g} ml and {100 * LARGEST_LESION_SHARE:g} % "
                f"of the {measured.outside_of}, found {size:.3g} ml and {100 * (measured.lesion_share or 0):.3g} %; is "
                "it the mask of the brain?",
            )
        )
    if 0 < (measured.lesion_voxels or 0) < SMALLEST_LESION_VOXELS:
        flags.append(
            Flag(
                "implausible_lesion",
                f"{mask}: expected a lesion of at least {SMALLEST_LESION_VOXELS} voxels, found "
                f"{measured.lesion_voxels}; was the lesion lost, or is it a slip of the pen?",
            )
        )
    if measured.background_within is not None:
        flags.append(
            Flag(
                "background_within",
                f"{image}: the background has the value {measured.background_within:g}, and parts of the brain are "
                "darker; it counts as the darkest",
            )
        )
    if spacing and (measured.forms_apart_mm or 0.0) > max(spacing):
        flags.append(
            Flag(
                "forms_differ",
                f"{image}: sform and qform of the header place a voxel up to {measured.forms_apart_mm:.3g} mm apart; "
                "the sform counts",
            )
        )
    if measured.flip_contrast is not None and measured.flip_contrast - measured.lesion_contrast > FLIP_SD:
        flags.append(
            Flag(
                "flip_suspected",
                f"{mask}: {measured.flip}, the mask has a contrast of {measured.flip_contrast:+.2f} SD of the brain, "
                f"but as stored only {measured.lesion_contrast:+.2f} SD; compare mask and image"
                + (
                    ": the mask was resampled by its header, which is wrong if the mask was drawn on the image's voxels"
                    if measured.mask_moved
                    else ""
                ),
            )
        )
    if measured.wrapped_voxels:
        flags.append(
            Flag(
                "intensity_overflow",
                f"{image}: {measured.wrapped_voxels} voxels jump from one end of {measured.dtype} to the other (values "
                f"{measured.minimum:g} to {measured.maximum:g}), so they wrapped; convert it again to a wider type",
            )
        )
    elif (measured.clipped_share or 0.0) >= CLIPPED_SHARE:
        flags.append(
            Flag(
                "intensity_overflow",
                f"{image}: {100 * measured.clipped_share:.2g} % of the voxels are exactly at the end of "
                f"{measured.dtype} (values {measured.minimum:g} to {measured.maximum:g}), so they were clipped",
            )
        )
    if not measured.placed:
        flags.append(
            Flag(
                "orientation_unknown",
                f"{image}: sform and qform code are 0, so the axes are assumed to be {measured.orientation}; inspect "
                "the image and set its sform",
            )
        )
    return flags


def duplicates(participants: Sequence[Participant], measured: "dict[str, Measured]") -> dict[str, Flag]:
    """Flags for participants whose images have the same voxels; each flag names the others."""
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
    """participant_id: flags and reasons, of participants excluded by quality control; not of those excluded by name.

    quality: path of quality.tsv, which may be missing.
    """
    if not quality.is_file():
        return {}
    rows = read_table(quality, ("participant_id", "verdict", "flags", "reasons"))
    flagged = [row for row in rows if row["verdict"] == "excluded" and row["flags"] != MISSING]
    return {row["participant_id"]: row["reasons"] for row in flagged}


def enforce_policy(failed: dict[str, str], flagged: dict[str, str], quality: QualityConfig) -> None:
    """Apply `quality.policy` to participants that could not be preprocessed.

    failed, flagged: results of `not_preprocessed` and `left_out_for_flags`; both count towards
    `quality.max_excluded`.
    Raises DataError that lists these participants, for policy `error` or for more than `max_excluded`.
    """
    excluded = {**flagged, **failed}
    if not failed or (quality.policy == "exclude" and len(excluded) <= quality.max_excluded):
        return
    if quality.policy == "error":
        first = f"{len(failed)} participants could not be preprocessed"
        ways = "run the preprocess stage again, exclude them by name (data.exclude), or set quality.policy: exclude"
    else:
        first = f"{len(excluded)} participants would be excluded, but quality.max_excluded is {quality.max_excluded}"
        ways = "fix the files, exclude them by name (data.exclude), or raise quality.max_excluded"
    listed = [f"  {name}: {reason}" for name, reason in excluded.items()]
    raise DataError("\n".join([f"{first}:", *listed, f"Options: {ways}."]))
