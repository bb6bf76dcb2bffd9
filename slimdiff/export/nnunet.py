"""The slices of a fold as an nnU-Net v2 dataset: real and synthetic to train on, only real ones to judge by.

Below `export/nnunet/{variant}/fold-{k}/`, which serves as the root of nnU-Net's three folders:

    nnUNet_raw/Dataset501_{study}_{variant}_fold{k}/
        dataset.json  README.md
        imagesTr/{case}_0000.nii.gz  labelsTr/{case}.nii.gz    training and validation subjects, and the samples
        imagesTs/{case}_0000.nii.gz  labelsTs/{case}.nii.gz    the fold's test subjects
    nnUNet_preprocessed/Dataset501_…/splits_final.json         one split: train = training subjects + samples,
                                                               val = validation subjects

Samples of another fold are never in it: their model has seen this fold's test subjects.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import slimdiff
from slimdiff.export.cases import Case, ModelSamples, unique_names
from slimdiff.export.dataset_card import write_card
from slimdiff.export.folder import (
    INDEX,
    folder_of,
    nnunet_id,
    nnunet_name,
    replacing_folder,
    split_file,
)
from slimdiff.files import write_text
from slimdiff.redaction import markdown_text

ENDING = ".nii.gz"

README = """\
# {name}

Study {study}, variant {variant}, fold {fold}, written by slimdiff {version}.{notice}

- imagesTr, labelsTr: {train} real slices of training subjects, {val} of validation subjects, {synthetic} synthetic
  slices (`synth-…`) of the model trained on this fold. {samples}
- imagesTs, labelsTs: {test} real slices of the fold's test subjects. Neither that model nor nnU-Net is trained on them.
- splits_final.json (in nnUNet_preprocessed): one split; synthetic slices are in `train` only.
{without_val}
Continue in the folder that has nnUNet_raw and nnUNet_preprocessed:

    export nnUNet_raw=$PWD/nnUNet_raw nnUNet_preprocessed=$PWD/nnUNet_preprocessed nnUNet_results=$PWD/nnUNet_results
    nnUNetv2_plan_and_preprocess -d {number} -c 2d --verify_dataset_integrity
    nnUNetv2_train {number} 2d 0

The last 0 is the number of the split, the only one.
"""

WITHOUT_VAL = """\
- This fold has no validation subjects, which nnU-Net requires: `val` repeats the real training slices. Its scores only
  measure the fit to the training data; evaluate on imagesTs.
"""


def write(model: ModelSamples) -> Path:
    """Write one variant and fold; returns the raw dataset's folder.

    Raises FileExistsError, FileNotFoundError or DataError with the file.
    """
    study, variant, fold = model.study, model.variant, model.fold
    folder, split_path = folder_of(study, "nnunet", variant, fold), split_file(study, variant, fold)
    _check_split(split_path)
    with replacing_folder(folder) as draft:
        parts = {split: _write_cases(draft, "Tr", model.real(split)) for split in ("train", "val")}
        synthetic = _write_cases(draft, "Tr", model.synthetic())
        test = _write_cases(draft, "Ts", model.real("test"))
        unique_names([*parts["train"], *parts["val"], *synthetic, *test])
        split = {
            "train": sorted([*parts["train"], *synthetic]),
            "val": sorted(parts["val"] or parts["train"]),
            "generated_by": _maker(),
        }
        counts = {"train": len(parts["train"]), "val": len(parts["val"]), "test": len(test)}
        write_text(draft / "README.md", _readme(model, counts, len(synthetic)))
        write_card(draft, model, "nnunet")
        write_text(
            draft / INDEX["nnunet"], json.dumps(_dataset(model, counts, len(synthetic)), indent=2) + "\n"
        )
        write_text(split_path, json.dumps([split], indent=1) + "\n")
    return folder


def _write_cases(draft: Path, part: str, cases: Iterable[Case]) -> list[str]:
    images, labels = draft / f"images{part}", draft / f"labels{part}"
    for folder in (images, labels):
        folder.mkdir(exist_ok=True)
    names = []
    for case in cases:
        case.write(images / f"{case.name}_0000{ENDING}", labels / f"{case.name}{ENDING}")
        names.append(case.name)
    return names


def _dataset(model: ModelSamples, counts: dict[str, int], synthetic: int) -> dict:
    return {
        "channel_names": {"0": model.study.data.modality_name},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": counts["train"] + counts["val"] + synthetic,
        "file_ending": ENDING,
        "name": nnunet_name(model.study, model.variant, model.fold),
        "description": (
            f"{counts['train']} training, {counts['val']} validation and {counts['test']} test slices, and {synthetic} "
            f"synthetic slices for training only. {model.study.report.notice}"
        ).strip(),
        "generated_by": _maker(),
    }


def _readme(model: ModelSamples, counts: dict[str, int], synthetic: int) -> str:
    notice = model.study.report.notice
    return README.format(
        name=nnunet_name(model.study, model.variant, model.fold),
        number=nnunet_id(model.study, model.variant, model.fold),
        study=model.study.study,
        variant=model.variant,
        fold=model.fold,
        version=slimdiff.__version__,
        notice=f" Notice: {markdown_text(notice)}." if notice else "",
        synthetic=synthetic,
        samples=model.about_samples,
        without_val="" if counts["val"] else WITHOUT_VAL,
        **counts,
    )


def _maker() -> str:
    return f"slimdiff {slimdiff.__version__}"


def _check_split(path: Path) -> None:
    """Raise FileExistsError if the split was not written by slimdiff."""
    if not path.is_file():
        return
    try:
        own = all(part["generated_by"].startswith("slimdiff ") for part in json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError):
        own = False
    if not own:
        raise FileExistsError(f"{path}: expected a split that slimdiff wrote, found another; move it away")
