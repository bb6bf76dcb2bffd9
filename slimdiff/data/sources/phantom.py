"""The phantom's own dataset, known from the configuration before a file exists."""

from pathlib import Path

from slimdiff.config.data import DataConfig
from slimdiff.data import phantom
from slimdiff.data.participants import Participant
from slimdiff.data.phantom_anatomy import lesion_site
from slimdiff.files import MISSING


def phantom_participants(config: DataConfig, root: Path) -> list[Participant]:
    """The phantom's participants, by the names that `slimdiff-phantom` will write."""
    rows = []
    for name, group in phantom.subject_ids(config.phantom.patients, config.phantom.controls):
        stem = root / name / "anat" / f"{name}_FLAIR"
        mask = stem.with_name(f"{name}_FLAIR_roi.nii.gz") if group == "fcd" else None
        image = stem.with_name(f"{name}_FLAIR.nii.gz")
        lobe = lesion_site(name, config.phantom.seed).lobe if mask else MISSING
        rows.append(Participant(name, group, image, mask, acquisition="phantom", lobe=lobe))
    return rows
