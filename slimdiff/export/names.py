"""Where an export lies and which file of it is written last: the stage and the rules share this."""

from pathlib import Path

from slimdiff.config import Study

INDEX = {
    "bids": "dataset_description.json",
    "nnunet": "dataset.json",
    "monai": "datalist.json",
    "png": "sheet.png",
}


def nnunet_id(study: Study, variant: str, fold: int) -> int:
    """nnU-Net's number of a variant and fold, counted over the whole study."""
    return study.export.nnunet_first_id + list(study.variants).index(variant) * study.folds.k + fold


def nnunet_name(study: Study, variant: str, fold: int) -> str:
    """nnU-Net's name of a variant and fold: `Dataset501_demo_base_fold0`."""
    return f"Dataset{nnunet_id(study, variant, fold):03d}_{study.study}_{variant}_fold{fold}"


def folder_of(study: Study, form: str, variant: str, fold: int) -> Path:
    """The folder that an export makes and replaces as a whole."""
    folder = study.paths.export(form, variant, fold)
    return folder / "nnUNet_raw" / nnunet_name(study, variant, fold) if form == "nnunet" else folder


def split_file(study: Study, variant: str, fold: int) -> Path:
    """nnU-Net's split, which it looks for beside its preprocessed data."""
    root = study.paths.export("nnunet", variant, fold) / "nnUNet_preprocessed"
    return root / nnunet_name(study, variant, fold) / "splits_final.json"


def index_file(study: Study, form: str, variant: str, fold: int) -> Path:
    """The file without which an export is not complete."""
    return folder_of(study, form, variant, fold) / INDEX[form]
