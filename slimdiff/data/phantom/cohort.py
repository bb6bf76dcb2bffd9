"""A cohort of phantom subjects, written as a BIDS dataset.

    .slimdiff-phantom.json                  the files of this cohort, written first: what a killed run left is ours
    dataset_description.json  README  .bidsignore  participants.tsv  participants.json
    sub-001/anat/sub-001_FLAIR.nii.gz       int16, 0 outside the brain, RAS affine in mm
    sub-001/anat/sub-001_FLAIR.json
    sub-001/anat/sub-001_FLAIR_roi.nii.gz   uint8 {0, 1}; group fcd only

Every file is written under a temporary name and renamed. participants.tsv is written last and marks a complete
cohort. The same arguments give the same bytes. A subject does not depend on the size of the cohort.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from slimdiff.files import remove_partials, write_text
from slimdiff.locks import alone

DATASET_NAME = "slimdiff phantom (synthetic lesions on a brain atlas; no patients)"
GENERATOR = "slimdiff phantom"
RECORD = ".slimdiff-phantom.json"
OWN_FILE = (
    r"dataset_description\.json|README|\.bidsignore|participants\.(tsv|json)"
    r"|(sub-\d{3})/anat/\2_FLAIR(_roi\.nii\.gz|\.nii\.gz|\.json)"
)
"""Names that a file of a cohort can have, relative to its folder."""

README = """\
This dataset is a phantom. It contains no patients and no measured data.

Each image starts from the ICBM152 2009a grey- and white-matter maps, an average of 152 heads that ships with
nilearn. A random warp, FLAIR-like tissue contrasts, coil shading and noise turn it into one subject. Subjects
of the group "fcd" have one synthetic lesion that looks like a focal cortical dysplasia; *_FLAIR_roi.nii.gz is
its mask. Subjects of the group "control" have no lesion and no mask.

It exists to run and test the slimdiff workflow. Results on it do not apply to patients.
"""

COLUMNS = {
    "participant_id": "Name of the phantom subject",
    "group": {
        "Description": "Whether the phantom has a drawn lesion",
        "Levels": {"fcd": "one drawn lesion that looks like a focal cortical dysplasia", "control": "none"},
    },
    "acquisition": "Always phantom: no scanner was used",
    "lobe": "Lobe in which the lesion was placed",
    "hemisphere": "Side on which the lesion was placed: left or right",
    "transmantle": "Whether a tail runs from the lesion towards the ventricle: yes or no",
}


def subject_ids(patients: int, controls: int) -> list[tuple[str, str]]:
    """Names and groups of a cohort, patients first: ("sub-001", "fcd"), …, ("sub-009", "control").

    Raises:
        ValueError: a negative number, no subject, or more than 999 subjects.
    """
    if patients < 0 or controls < 0 or not 1 <= patients + controls <= 999:
        raise ValueError(
            f"phantom: expected 1 to 999 subjects in all, found {patients} patients and {controls} controls"
        )
    groups = ["fcd"] * patients + ["control"] * controls
    return [(f"sub-{number:03d}", group) for number, group in enumerate(groups, start=1)]


def subject_volumes(
    participant_id: str, group: str, seed: int, voxel_mm: float = 2.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, lesion mask and affine of one subject; see `slimdiff.data.phantom.anatomy.make_subject`."""
    from slimdiff.data.phantom import anatomy

    return anatomy.make_subject(participant_id, group, seed, voxel_mm)


def write_cohort(
    root: Path, patients: int, controls: int, seed: int = 0, voxel_mm: float = 2.0, progress: bool = True
) -> None:
    """Write a cohort as a BIDS dataset; an existing phantom cohort, or what a killed run left of one, is replaced.

    Args:
        root: folder of the dataset, created if missing.
        patients: subjects with one lesion each.
        controls: subjects without a lesion.
        seed: study seed, ≥ 0.
        voxel_mm: isotropic voxel size, mm, in [1, 6].
        progress: show a bar on stderr.

    Raises:
        FileExistsError: root holds files that are not a slimdiff phantom.
        ValueError: invalid number of subjects or voxel size.
    """
    from slimdiff.data.phantom.anatomy import grid

    root = Path(root)
    subjects = subject_ids(patients, controls)
    grid(voxel_mm)  # raises for an invalid voxel size before files are removed
    with alone(root.with_name(f".{root.name}.lock"), "phantom"):
        make_room(root, files_of(subjects))
        parameters = {"patients": patients, "controls": controls, "seed": seed, "voxel_mm": voxel_mm}
        _write_files(root, subjects, parameters, progress)


def _write_files(root: Path, subjects: list[tuple[str, str]], parameters: dict, progress: bool) -> None:
    from tqdm import tqdm

    from slimdiff.data.phantom.anatomy import lesion_site
    from slimdiff.data.volumes.nifti import write_nifti  # imported here: naming subjects needs no nibabel

    seed, voxel_mm = parameters["seed"], parameters["voxel_mm"]
    write_json(
        root / "dataset_description.json",
        {
            "Name": DATASET_NAME,
            "BIDSVersion": "1.10.0",
            "DatasetType": "raw",
            "GeneratedBy": [
                {
                    "Name": GENERATOR,
                    "Description": "Synthetic lesions on warped ICBM152 tissue maps. A phantom: no patients.",
                    "Parameters": parameters,
                }
            ],
        },
    )
    write_text(root / "README", README)
    write_text(root / ".bidsignore", "*_roi.nii.gz\n")

    rows = []
    for participant_id, group in tqdm(subjects, desc="phantom", unit="subject", disable=not progress):
        image, mask, affine = subject_volumes(participant_id, group, seed, voxel_mm)
        stem = root / participant_id / "anat" / f"{participant_id}_FLAIR"
        write_nifti(Path(f"{stem}.nii.gz"), image.astype(np.int16), affine)
        write_json(
            Path(f"{stem}.json"),
            {"MRAcquisitionType": "3D", "Manufacturer": GENERATOR, "SkullStripped": True},
        )
        site = ["n/a"] * 3
        if group == "fcd":
            write_nifti(Path(f"{stem}_roi.nii.gz"), mask, affine)
            drawn = lesion_site(participant_id, seed)
            site = [drawn.lobe, drawn.hemisphere, "yes" if drawn.transmantle else "no"]
        rows.append([participant_id, group, "phantom", *site])

    write_json(
        root / "participants.json",
        {name: text if isinstance(text, dict) else {"Description": text} for name, text in COLUMNS.items()},
    )
    table = "".join("\t".join(row) + "\n" for row in [list(COLUMNS), *rows])
    write_text(root / "participants.tsv", table)


def files_of(subjects: Iterable[tuple[str, str]]) -> list[str]:
    """Files of a cohort, relative to its folder; `subjects` as `subject_ids` gives them."""
    files = ["dataset_description.json", "README", ".bidsignore", "participants.tsv", "participants.json"]
    for name, group in subjects:
        stem = f"{name}/anat/{name}_FLAIR"
        files += [f"{stem}.nii.gz", f"{stem}.json", *([f"{stem}_roi.nii.gz"] if group == "fcd" else [])]
    return files


def make_room(root: Path, files: list[str]) -> None:
    """Remove the files of an earlier phantom cohort, and record the `files` of the next one.

    Raises FileExistsError, and removes no file, if the folder holds files of which neither the record nor the dataset's
    description says that they are of a phantom.
    """
    remove_partials(root / RECORD)
    earlier = _recorded(root) or _described(root)
    # Empty folders do not count: Snakemake creates the folders of its outputs in advance.
    others = (name for name in files if (root / name).exists()) if earlier else root.rglob("*")
    foreign = [root / name for name in others if name not in earlier and (root / name).is_file()]
    if foreign:
        raise FileExistsError(
            f"{root}: expected an empty folder or a slimdiff phantom, found other files, first {foreign[0]}; choose "
            "another folder, or move them away"
        )
    # First the record of both, so that a run that is killed from here on leaves recorded files only.
    write_json(root / RECORD, {"made_by": GENERATOR, "files": sorted({*earlier, *files})})
    # The table first: without it a cohort is not complete.
    remove_partials(*(root / name for name in earlier))
    for name in sorted(earlier, key=lambda name: name != "participants.tsv"):
        (root / name).unlink(missing_ok=True)
    for folder in [*root.glob("sub-*/anat"), *root.glob("sub-*")]:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    write_json(root / RECORD, {"made_by": GENERATOR, "files": files})


def _recorded(root: Path) -> set[str]:
    """Files of the cohort that the record names; empty without a record."""
    try:
        named = json.loads((root / RECORD).read_text(encoding="utf-8"))["files"]
        # Only names that a cohort can have: a record can be edited.
        return {name for name in named if re.fullmatch(OWN_FILE, name)}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _described(root: Path) -> set[str]:
    """Files of a cohort of an earlier version, without a record, by its description; else empty."""
    try:
        text = (root / "dataset_description.json").read_text(encoding="utf-8")
        made = {entry["Name"]: entry for entry in json.loads(text)["GeneratedBy"]}[GENERATOR]["Parameters"]
        return set(files_of(subject_ids(made["patients"], made["controls"])))
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def write_json(path: Path, content: dict) -> None:
    """Write indented JSON with a final newline."""
    write_text(path, json.dumps(content, indent=2) + "\n")
