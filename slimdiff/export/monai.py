"""The slices of a fold with a datalist that `monai.data.load_decathlon_datalist` reads.

    datalist.json                keys training, validation, test; every entry has image, label, synthetic, class, z_bin
                                 and participant or sample; paths are relative to the datalist
    images/{case}.nii.gz         float32 (W, H, 1) in [-1, 1]
    labels/{case}.nii.gz         uint8 (W, H, 1), {0, 1}

Synthetic slices are in `training` only, and come from this fold's own model.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import slimdiff
from slimdiff.export.cases import Case, ModelSamples, unique_names
from slimdiff.export.dataset_card import write_card
from slimdiff.export.folder import INDEX, folder_of, replacing_folder
from slimdiff.files import write_text


def write(model: ModelSamples) -> Path:
    """Write one variant and fold; returns its folder.

    Raises FileExistsError, FileNotFoundError or DataError with the file.
    """
    folder = folder_of(model.study, "monai", model.variant, model.fold)
    with replacing_folder(folder) as draft:
        for name in ("images", "labels"):
            (draft / name).mkdir()
        entries = {
            "training": [*_write_cases(draft, model.real("train")), *_write_cases(draft, model.synthetic())],
            "validation": _write_cases(draft, model.real("val")),
            "test": _write_cases(draft, model.real("test")),
        }
        unique_names([entry["image"] for part in entries.values() for entry in part])
        notice, modality = model.study.report.notice, model.study.data.modality_name
        content = {
            "name": f"{model.study.study}, variant {model.variant}, fold {model.fold}",
            "description": (
                f"Real and synthetic {modality} slices with lesion masks. {model.about_samples} {notice}".strip()
            ),
            "generated_by": f"slimdiff {slimdiff.__version__}",
            "modality": {"0": modality},
            "labels": {"0": "background", "1": "lesion"},
            "numTraining": len(entries["training"]),
            "numTest": len(entries["test"]),
            **entries,
        }
        write_card(draft, model, "monai")
        write_text(draft / INDEX["monai"], json.dumps(content, indent=1) + "\n")
    return folder


def _write_cases(draft: Path, cases: Iterable[Case]) -> list[dict]:
    entries = []
    for case in cases:
        image, label = f"images/{case.name}.nii.gz", f"labels/{case.name}.nii.gz"
        case.write(draft / image, draft / label)
        origin = {"sample": case.sample["id"]} if case.sample else {"participant": case.participant}
        entries.append(
            {
                "image": image,
                "label": label,
                "synthetic": case.sample is not None,
                "class": case.label,
                "z_bin": case.z_bin,
                **origin,
            }
        )
    return entries
