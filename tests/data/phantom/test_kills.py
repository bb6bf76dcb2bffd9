"""A phantom that was killed, at any moment, is made again by the same command; files of the user stay."""

import shutil

import pytest
from helpers.kills import KILL, partials, run_until

from slimdiff.config import StudyPaths
from slimdiff.data.phantom.cohort import RECORD, files_of, subject_ids, write_cohort

WRITE = """
import numpy as np
from slimdiff.data.phantom import anatomy, cohort

# Volumes that need no atlas.
anatomy.make_subject = lambda name, group, seed, voxel_mm: (
    np.full((4, 4, 4), int(name[-3:]) + seed), np.ones((4, 4, 4), np.uint8), np.eye(4)
)
anatomy.lesion_site = lambda name, seed: anatomy.Site
class Site:
    lobe, hemisphere, transmantle = "frontal", "left", False
anatomy.Site = Site
patients, controls, seed = map(int, sys.argv[5:8])
cohort.write_cohort(Path(sys.argv[4]), patients, controls, seed, voxel_mm=6.0, progress=False)
"""


def write(folder, patients=2, controls=1, seed=0, moment=("never", 1), number=0):
    if moment[0] == "never":
        moment = ("replace", 10**6)
    return run_until(moment, number, WRITE, str(folder), *map(str, (patients, controls, seed)))


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "phantom"
    done = write(folder)
    assert done.returncode == 0, done.stderr
    assert sorted(contents(folder)) == sorted([RECORD, *files_of(subject_ids(2, 1))])
    return folder


def delete_outputs(folder):
    """As a workflow engine does when a job fails."""
    from slimdiff.stages import phantom

    paths = StudyPaths(folder.parent)
    for path in phantom.outputs(paths, []):
        path.unlink(missing_ok=True)
    for path in folder.glob("sub-*/anat/*.nii.gz"):
        path.unlink()


# The record twice, description, README, .bidsignore, then volumes and sidecars; the table is the last of fourteen.
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6, 9, 14])
@pytest.mark.parametrize("engine", [False, True])
def test_a_killed_phantom_is_made_again(tmp_path, whole, count, engine):
    folder = tmp_path / "phantom"
    done = write(folder, moment=("replace", count), number=KILL)
    assert done.returncode == -KILL, done.stderr
    assert partials(folder)
    if engine:
        delete_outputs(folder)
    done = write(folder)
    assert done.returncode == 0, done.stderr
    assert contents(folder) == contents(whole)
    assert partials(tmp_path) == []


@pytest.mark.parametrize("moment", [("unlink", 1), ("unlink", 6), ("replace", 2), ("replace", 5)])
def test_a_phantom_that_is_killed_while_it_replaces_a_larger_one_leaves_the_user_s_files(
    tmp_path, whole, moment
):
    folder = tmp_path / "phantom"
    assert write(folder, patients=3, controls=2, seed=5).returncode == 0
    mine = {
        "notes.txt": b"mine",
        "sub-001/anat/sub-001_FLAIR_mine.nii.gz": b"drawn",
        ".README.draft": b"text",
    }
    for name, text in mine.items():
        (folder / name).write_bytes(text)
    done = write(folder, moment=moment, number=KILL)
    assert done.returncode == -KILL, done.stderr
    done = write(folder)
    assert done.returncode == 0, done.stderr
    assert contents(folder) == contents(whole) | mine


def test_a_file_that_is_not_of_the_cohort_before_is_not_overwritten(tmp_path, whole):
    folder = tmp_path / "phantom"
    shutil.copytree(whole, folder)
    own = folder / "sub-004" / "anat" / "sub-004_FLAIR.nii.gz"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"precious")
    before = contents(folder)
    with pytest.raises(FileExistsError, match="sub-004_FLAIR"):
        write_cohort(folder, 3, 1, voxel_mm=6.0, progress=False)
    assert contents(folder) == before


def test_a_cohort_of_an_earlier_version_is_replaced(tmp_path, whole):
    folder = tmp_path / "phantom"
    assert write(folder, patients=3, controls=2, seed=5).returncode == 0
    (folder / RECORD).unlink()
    assert write(folder).returncode == 0
    assert contents(folder) == contents(whole)
