"""The synthetic pairs as a BIDS derivative dataset, one subject a sample; no participant's data is in it.

dataset_description.json  README  participants.{tsv,json}  descriptions.{tsv,json}
sub-zbin00class1replica000007/anat/sub-…_desc-synth_FLAIR.nii.gz               float32 in [-1, 1]
sub-zbin00class1replica000007/anat/sub-…_desc-synth_FLAIR.json
sub-zbin00class1replica000007/anat/sub-…_label-lesion_desc-synth_mask.nii.gz   uint8 {0, 1}
sub-zbin00class1replica000007/anat/sub-…_label-lesion_desc-synth_mask.json
"""

import json
import re
from pathlib import Path

import slimdiff
from slimdiff.data.participants import DataError, Participant, read_participants
from slimdiff.export.cases import Case, ModelSamples, unique_names
from slimdiff.export.folder import INDEX, folder_of, replacing_folder
from slimdiff.files import write_table, write_text

BIDS_VERSION = "1.10.0"
NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]")

COLUMNS = {
    "participant_id": "Name of the sample as a BIDS subject; it is nobody",
    "sample_id": "Name of the sample in the study",
    "z_bin": "Axial position: number of the z-bin, 0 is the lowest",
    "class": {
        "Description": "What the model was asked for",
        "Levels": {"0": "a slice without lesion", "1": "a slice with lesion"},
    },
    "lesion_px": {"Description": "Area of the mask", "Units": "pixel"},
    "lesion_mm2": {"Description": "Area of the mask", "Units": "mm^2"},
    "noise_key": "Name of the noise stream that the sample was drawn from",
    "checkpoint_sha256": "sha256 of the model file that drew the sample",
}

DESCRIPTION = {
    "desc_id": "desc-synth",
    "description": "drawn by a diffusion model; see GeneratedBy in dataset_description.json",
}

README = """\
# Synthetic FLAIR slices with lesion masks

Study {study}, variant {variant}, fold {fold}: {count} pairs drawn by a diffusion model with slimdiff {version}.
{notice}
Every subject here is one synthetic sample: an axial slice as a volume of {width} x {height} x 1 voxels of
{spacing:g} mm. No participant is in this dataset. The model was trained on participants of the study's fold {fold}, and
what it draws may resemble them; the study's metrics measure how much. {suspects}

- `*_desc-synth_FLAIR.nii.gz`: intensities between -1 and 1, the range of the preprocessed volumes.
- `*_label-lesion_desc-synth_mask.nii.gz`: 1 where the drawn mask is above {tau:g}. It may be empty, also where a
  lesion was asked for; `lesion_px` in participants.tsv tells.
- Coordinates: the study's grid with its middle at the origin, at the height of the sample's z-bin. They are nobody's
  scanner coordinates and no template's.

Samples of one model are not independent subjects. Train on them; do not test on them.
"""


def write(cell: ModelSamples) -> Path:
    """Write one variant and fold's samples; returns the dataset's folder.

    Raises FileExistsError, FileNotFoundError or DataError, naming the file.
    """
    folder = folder_of(cell.study, "bids", cell.variant, cell.fold)
    facts = {"SkullStripped": _skull_stripped(cell)}
    rows: list[dict] = []
    with replacing_folder(folder) as draft:
        for case in cell.synthetic():
            rows.append(_row(case, cell))
            anat = draft / rows[-1]["participant_id"] / "anat"
            _write_case(anat, rows[-1]["participant_id"], case, facts)
        unique_names([row["participant_id"] for row in rows])
        if not rows:
            raise DataError(f"{folder}: no sample is left to export; see export.without_suspects")
        write_table(draft / "participants.tsv", rows, list(COLUMNS))
        described = {
            name: text if isinstance(text, dict) else {"Description": text} for name, text in COLUMNS.items()
        }
        about = {"Description": "One row a synthetic sample"}
        _write_json(draft / "participants.json", about | described)
        write_table(draft / "descriptions.tsv", [DESCRIPTION], list(DESCRIPTION))
        _write_json(draft / "descriptions.json", {"Description": "What the desc- labels of file names mean"})
        write_text(draft / "README", _readme(cell, len(rows)))
        _write_json(draft / INDEX["bids"], _description(cell, {row["checkpoint_sha256"] for row in rows}))
    return folder


def subject_label(sample_id: str) -> str:
    """`sub-` and the letters and digits of a sample's name: BIDS labels have no others."""
    return f"sub-{NOT_ALPHANUMERIC.sub('', sample_id)}"


def _row(case: Case, cell: ModelSamples) -> dict:
    return {
        "participant_id": subject_label(case.sample["id"]),
        "sample_id": case.sample["id"],
        "z_bin": case.z_bin,
        "class": case.label,
        "lesion_px": case.lesion_px,
        "lesion_mm2": case.lesion_px * cell.store.spacing_mm**2,
        "noise_key": case.sample["key"],
        "checkpoint_sha256": case.sample.get("checkpoint_sha256"),
    }


def _write_case(anat: Path, subject: str, case: Case, facts: dict) -> None:
    # Where two samples have one label, `unique_names` says so at the end.
    anat.mkdir(parents=True, exist_ok=True)
    image, mask = f"{subject}_desc-synth_FLAIR", f"{subject}_label-lesion_desc-synth_mask"
    case.write(anat / f"{image}.nii.gz", anat / f"{mask}.nii.gz")
    about = f"class {case.label}, z-bin {case.z_bin}, sample {case.sample['id']}"
    _write_json(anat / f"{image}.json", {"Description": f"Synthetic FLAIR slice, {about}", **facts})
    _write_json(
        anat / f"{mask}.json",
        {
            "Description": f"Lesion mask drawn with the slice, {about}",
            "Type": "Lesion",
            "Sources": [f"bids::{subject}/anat/{image}.nii.gz"],
            "SpatialReference": f"bids::{subject}/anat/{image}.nii.gz",
        },
    )


def _skull_stripped(cell: ModelSamples) -> bool:
    """As configured, or true where the sidecars of all training images say so; BIDS demands a yes or no."""
    if cell.study.export.skull_stripped is not None:
        return cell.study.export.skull_stripped
    people = _training(cell)
    return bool(people) and all(_sidecar(person).get("SkullStripped") is True for person in people)


def _training(cell: ModelSamples) -> list[Participant]:
    path = cell.study.paths.participants
    if not path.is_file():
        return []
    return [row for row in read_participants(path) if row.participant_id in cell.parts["train"]]


def _sidecar(person: Participant) -> dict:
    return _read_json(person.image.with_name(f"{person.image.name.split('.')[0]}.json"))


def _read_json(path: Path) -> dict:
    """A JSON object, empty where there is none: what a source does not say is not known."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _source_datasets(cell: ModelSamples) -> list[dict]:
    """DOIs of the BIDS datasets that the training images lie in, where these state one."""
    roots = {parent for person in _training(cell) for parent in person.image.parents}
    descriptions = [_read_json(root / "dataset_description.json") for root in sorted(roots)]
    return [{"DOI": found["DatasetDOI"]} for found in descriptions if found.get("DatasetDOI")]


def _description(cell: ModelSamples, checkpoints: set[str | None]) -> dict:
    known = ", ".join(sorted(name for name in checkpoints if name)) or "unknown"
    content = {
        "Name": f"slimdiff synthetic slices: study {cell.study.study}, variant {cell.variant}, fold {cell.fold}",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "slimdiff",
                "Version": slimdiff.__version__,
                "Description": (
                    f"Samples of a diffusion model, sha256 of model.safetensors {known}; trained on "
                    f"{len(cell.parts['train'])} participants of fold {cell.fold}. {cell.study.report.notice}"
                ).strip(),
            }
        ],
    }
    if sources := _source_datasets(cell):
        content["SourceDatasets"] = sources
    return content


def _readme(cell: ModelSamples, count: int) -> str:
    height, width = cell.store.size
    notice = cell.study.report.notice
    return README.format(
        study=cell.study.study,
        variant=cell.variant,
        fold=cell.fold,
        count=count,
        version=slimdiff.__version__,
        notice=f"Notice: {notice}.\n" if notice else "",
        width=width,
        height=height,
        spacing=cell.store.spacing_mm,
        tau=cell.study.export.tau,
        suspects=cell.about_suspects,
    )


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
