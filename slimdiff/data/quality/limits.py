"""Flags that come from what was measured and from what the configuration allows."""

from collections import defaultdict
from collections.abc import Sequence

from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import Flag, Participant
from slimdiff.data.quality.measure import Measured
from slimdiff.files import MISSING

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
