"""Tables, descriptions and folders of a source that cannot be read as they are: the file, the line and the cause."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from bad_input.cases import Workplace
from helpers.synthetic import head, save_nifti


@dataclass(frozen=True)
class Bad:
    """What is spoilt in the folder, and what the refusal says."""

    spoil: Callable[[Path], object]
    wanted: tuple[str, ...]
    """Regular expressions, all of them in the message."""


def text(name: str, content: str | bytes) -> Callable[[Path], object]:
    """A file with this content in the place of the right one."""
    return lambda folder: (folder / name).write_bytes(
        content.encode() if isinstance(content, str) else content
    )


def with_line(name: str, line: str) -> Callable[[Path], object]:
    """One more line at the end of a file."""
    return lambda folder: (folder / name).write_text((folder / name).read_text() + line)


def changed(name: str, old: str, new: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        before = (folder / name).read_text(encoding="utf-8-sig")
        assert old in before
        (folder / name).write_text(before.replace(old, new))

    return spoil


def removed(name: str) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoil


def copied(name: str, other: str) -> Callable[[Path], object]:
    """A second file of the same content."""

    def spoil(folder: Path) -> None:
        (folder / other).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, folder / other)

    return spoil


def folder_in_place_of(name: str) -> Callable[[Path], object]:
    return lambda folder: [(folder / name).unlink(), (folder / name).mkdir()]


HEADER = "participant_id\timage\tmask\n"
ROW = "p1\tvolumes/p1.nii.gz\tvolumes/p1_roi.nii.gz\n"

TABLES = {
    "not there": Bad(removed("table.tsv"), ("not found",)),
    "a folder": Bad(folder_in_place_of("table.tsv"), ("not found|folder|no file",)),
    "empty": Bad(text("table.tsv", ""), ("empty", "header")),
    "a header alone": Bad(text("table.tsv", HEADER), ("no (row|participant|line)|no subject",)),
    "no column mask": Bad(
        text("table.tsv", "participant_id\timage\np1\tvolumes/p1.nii.gz\n"), ("no column mask",)
    ),
    "commas in a TSV": Bad(
        text("table.tsv", (HEADER + ROW).replace("\t", ",")), ("no column", "participant_id,image")
    ),
    "a column twice": Bad(
        text("table.tsv", "participant_id\timage\tmask\tmask\n" + ROW[:-1] + "\tn/a\n"), ("mask", "duplicate")
    ),
    "a row too short": Bad(with_line("table.tsv", "p9\tvolumes/p1.nii.gz\n"), ("line 5", "found 2", "3")),
    "a row too long": Bad(with_line("table.tsv", ROW[:-1] + "\tn/a\n"), ("line 5", "found 4", "3")),
    "a quote that does not close": Bad(
        text("table.tsv", HEADER + '"p1\tvolumes/p1.nii.gz\tn/a\n' + ROW), ("line 2", "p1")
    ),
    "an endless cell": Bad(
        text("table.tsv", HEADER + "p1\t" + "x" * 200_000 + "\tn/a\n"), ("line 2|field|long",)
    ),
    "another encoding": Bad(
        text("table.tsv", (HEADER + ROW.replace("p1\t", "é\t")).encode("latin-1")), ("UTF-8",)
    ),
    "a spreadsheet": Bad(
        text("table.tsv", b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xb5\xd0"), ("UTF-8|column",)
    ),
    "a participant twice": Bad(with_line("table.tsv", ROW), ("p1", "duplicate")),
    "a participant without a name": Bad(
        with_line("table.tsv", ROW.replace("p1\t", "\t", 1)), ("line 5", "participant_id ''")
    ),
    "a name with a slash": Bad(
        with_line("table.tsv", ROW.replace("p1", "p/9", 1)), ("line 5", "'p/9'", "expected")
    ),
    "a name that leads elsewhere": Bad(
        with_line("table.tsv", ROW.replace("p1", "../p9", 1)), ("line 5", r"'\.\./p9'")
    ),
    "an image that is not there": Bad(
        changed("table.tsv", "volumes/c1.nii.gz", "volumes/gone.nii.gz"), ("c1", r"gone\.nii\.gz")
    ),
    "a mask that is not there": Bad(
        changed("table.tsv", "volumes/p2_roi.nii.gz", "volumes/gone_roi.nii.gz"), ("p2", r"gone_roi\.nii\.gz")
    ),
    "no image": Bad(changed("table.tsv", "volumes/c1.nii.gz", "n/a"), ("line 4", "c1", "column image")),
    "no patient": Bad(
        text("table.tsv", HEADER + "c1\tvolumes/c1.nii.gz\tn/a\n"), ("no subject with a lesion mask",)
    ),
    "a brain mask that is not there": Bad(
        text(
            "table.tsv",
            HEADER.replace("\n", "\tbrain_mask\n") + ROW.replace("\n", "\tvolumes/brain.nii.gz\n"),
        ),
        ("p1", r"brain\.nii\.gz", "not found"),
    ),
}

BIDS = {
    "participants.tsv in another encoding": Bad(
        text("bids/participants.tsv", "participant_id\tsite\nsub-01\tKöln\n".encode("latin-1")),
        (r"participants\.tsv", "UTF-8"),
    ),
    "participants.tsv with a ragged row": Bad(
        with_line("bids/participants.tsv", "sub-09\tfcd\n"), (r"participants\.tsv", "line 7", "found 2")
    ),
    "participants.tsv without names": Bad(
        text("bids/participants.tsv", "subject\tgroup\nsub-01\tfcd\n"),
        (r"participants\.tsv", "no column participant_id"),
    ),
    "an empty participants.tsv": Bad(text("bids/participants.tsv", ""), (r"participants\.tsv", "empty")),
    "a participant described twice": Bad(
        with_line("bids/participants.tsv", "sub-01\thc\tbonn\tn/a\n"),
        (r"participants\.tsv", "sub-01", "duplicate"),
    ),
    "a described name with a slash": Bad(
        with_line("bids/participants.tsv", "sub-01/ses-2\tfcd\tbonn\tn/a\n"), ("bids", "sub-01/ses-2")
    ),
    "a sidecar cut off": Bad(
        text("bids/sub-02/anat/sub-02_FLAIR.json", '{"MRAcquisitionType": "3'),
        (r"sub-02_FLAIR\.json", "JSON"),
    ),
    "a sidecar with a list": Bad(
        text("bids/sub-02/anat/sub-02_FLAIR.json", "[1]"), (r"sub-02_FLAIR\.json", "object", "list")
    ),
    "a sidecar in another encoding": Bad(
        text("bids/sub-02/anat/sub-02_FLAIR.json", '{"Site": "Köln"}'.encode("latin-1")),
        (r"sub-02_FLAIR\.json", "UTF-8|JSON"),
    ),
    "a patient's mask is missing": Bad(
        removed("bids/sub-02/anat/sub-02_FLAIR_roi.nii.gz"), ("sub-02", "mask", "fcd")
    ),
    "two images": Bad(
        copied("bids/sub-02/anat/sub-02_FLAIR.nii.gz", "bids/sub-02/anat/sub-02_run-2_FLAIR.nii.gz"),
        ("sub-02", "2 images", r"sub-02_run-2_FLAIR\.nii\.gz"),
    ),
    "two sessions": Bad(
        copied("bids/sub-02/anat/sub-02_FLAIR.nii.gz", "bids/sub-02/ses-2/anat/sub-02_ses-2_FLAIR.nii.gz"),
        ("sub-02", "2 images", r"sub-02_ses-2_FLAIR\.nii\.gz"),
    ),
    "two masks": Bad(
        copied("bids/sub-02/anat/sub-02_FLAIR_roi.nii.gz", "bids/sub-02/anat/sub-02_run-2_FLAIR_roi.nii.gz"),
        ("sub-02", "2 masks"),
    ),
    "packed and unpacked": Bad(
        lambda folder: save_nifti(folder / "bids/sub-02/anat/sub-02_FLAIR.nii", head(2)),
        ("sub-02", "2 images", r"sub-02_FLAIR\.nii"),
    ),
}

NNUNET = {
    "no dataset": Bad(removed("nnunet/imagesTr"), ("nnunet", "imagesTr")),
    "no labels": Bad(removed("nnunet/labelsTr"), ("nnunet", "labelsTr")),
    "a label is missing": Bad(removed("nnunet/labelsTr/case_002.nii.gz"), ("case_002", "label|mask")),
    "dataset.json cut off": Bad(
        text("nnunet/dataset.json", '{"channel_names": {"0": "FL'), (r"dataset\.json", "JSON")
    ),
    "dataset.json with a list": Bad(text("nnunet/dataset.json", "[]"), (r"dataset\.json", "object")),
    "a case in both parts": Bad(
        copied("nnunet/imagesTr/case_001_0000.nii.gz", "nnunet/imagesTs/case_001_0000.nii.gz"),
        ("case_001", "imagesTs"),
    ),
}

BRATS = {
    "a case without a mask": Bad(removed("brats/BraTS_002/BraTS_002_seg.nii.gz"), ("BraTS_002", "seg")),
    "no mask at all": Bad(
        lambda folder: [path.unlink() for path in folder.glob("brats/*/*_seg.nii.gz")], ("brats", "seg|mask")
    ),
    "no case": Bad(
        lambda folder: [shutil.rmtree(path) for path in folder.glob("brats/*")], ("brats", "flair|case")
    ),
    "two images of a case": Bad(
        copied("brats/BraTS_001/BraTS_001_flair.nii.gz", "brats/BraTS_001/BraTS_001_flair.nii"),
        ("BraTS_001", "2 images|twice|several"),
    ),
}


def check(place: Workplace, bad: Bad, *named: str) -> None:
    assert place.run("participants")[0] == 0, "the case has to be right before it is spoilt"
    bad.spoil(place.folder)
    place.refuses(*named, *bad.wanted)


@pytest.mark.parametrize("case", TABLES)
def test_a_table_that_cannot_be_meant_is_refused_by_name(case, place):
    place.configure({"data": {"source": "table", "table": "table.tsv"}})
    check(place, TABLES[case], r"table\.tsv")


@pytest.mark.parametrize("case", BIDS)
def test_a_bids_dataset_that_cannot_be_meant_is_refused(case, place):
    check(place, BIDS[case])


@pytest.mark.parametrize("case", NNUNET)
def test_an_nnunet_dataset_that_cannot_be_meant_is_refused(case, place):
    place.configure({"data": {"source": "nnunet", "root": "nnunet"}})
    check(place, NNUNET[case])


def test_an_nnunet_channel_that_no_image_has_is_refused(place):
    place.configure({"data": {"source": "nnunet", "root": "nnunet", "channel": 3}})
    place.refuses(r"data\.channel|channel 3", "0003|FLAIR")


def test_nnunet_labels_that_the_dataset_does_not_have_are_refused(place):
    place.configure({"data": {"source": "nnunet", "root": "nnunet", "lesion_labels": [7]}})
    place.refuses("case_001", "label 7|lesion_labels")


@pytest.mark.parametrize("case", BRATS)
def test_a_brats_folder_that_cannot_be_meant_is_refused(case, place):
    place.configure({"data": {"source": "brats", "root": "brats"}})
    check(place, BRATS[case])


def test_brats_labels_that_the_masks_do_not_have_are_refused(place):
    place.configure({"data": {"source": "brats", "root": "brats", "lesion_labels": [9]}})
    place.refuses("BraTS_001", "label 9")


def test_labels_of_a_brats_folder_are_no_single_lesion(place):
    place.configure({"data": {"source": "brats", "root": "brats", "lesion_labels": "binary"}})
    place.refuses(r"BraTS_001_seg\.nii\.gz", "1, 2, 4|3 values", r"data\.lesion_labels")


def test_all_broken_participants_are_named_at_once(place):
    for name in ("sub-01", "sub-03"):
        place.mask(name).write_bytes(b"")
    facts = {"MRAcquisitionType": "3D"}
    place.image("sub-02").with_name("sub-02_FLAIR.json").write_text(json.dumps(facts))
    message = place.refuses(r"sub-01_FLAIR_roi\.nii\.gz", r"sub-03_FLAIR_roi\.nii\.gz", "empty")
    assert "sub-02_" not in message
