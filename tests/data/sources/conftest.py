"""Trees of empty files: discovery looks at names, tables and sidecars, never at a voxel."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def tree(tmp_path) -> Callable[..., Path]:
    """Makes empty files, paths relative to a folder of the test's own, and returns that folder."""

    def make(*paths: str) -> Path:
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).touch()
        return tmp_path

    return make


@pytest.fixture
def dataset(tree) -> Path:
    """sub-1: with mask; sub-2: in a session, other acquisition; sub-3: no mask; other files that must not match."""
    root = tree(
        "sub-1/anat/sub-1_acq-T2sel_FLAIR.nii.gz",
        "sub-1/anat/sub-1_acq-T2sel_FLAIR_roi.nii.gz",
        "sub-1/anat/sub-1_T1w.nii.gz",
        "sub-1/anat/sub-1_desc-xFLAIR.nii.gz",
        "sub-1/anat/._sub-1_FLAIR.nii.gz",
        "sub-1/extra/sub-1_FLAIR.nii.gz",
        "sub-2/ses-a/anat/sub-2_ses-a_acq-tse_FLAIR.nii",
        "sub-2/ses-a/anat/sub-2_ses-a_FLAIR_roi.nii",
        "sub-3/anat/sub-3_FLAIR.nii.gz",
        "sub-3/anat/sub-9_FLAIR.nii.gz",
        "derivatives/sub-9/anat/sub-9_FLAIR.nii.gz",
    )
    (root / "sub-1/anat/sub-1_acq-T2sel_FLAIR.json").write_text('{"MRAcquisitionType": "3D"}')
    (root / ".bidsignore").write_text("*_roi.nii.gz\n")
    (root / "participants.tsv").write_text(
        "participant_id\tgroup\tsplit\tlobe\tage\n"
        "sub-1\tfcd\ttrain\tTL,OL\t31\nsub-2\tfcd\ttest\tn/a\t\nsub-3\thc\ttrain\tn/a\t40\n",
        encoding="utf-8-sig",
    )
    return root
