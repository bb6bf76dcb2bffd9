"""Folders that are whole or not there, and that replace only what an export wrote.

Each holds `.slimdiff-export.json`, the list of its own files. A folder with any other file in it is left alone.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import slimdiff
from slimdiff.config import Study
from slimdiff.files import write_text

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


RECORD = ".slimdiff-export.json"


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that takes its place at the end, and is removed if anything raises.

    Raises FileExistsError where `folder` holds a file that no earlier export wrote.
    """
    folder = Path(folder)
    check_own(folder)
    draft = folder.with_name(f".{folder.name}.partial")
    _remove(draft)
    draft.mkdir(parents=True)
    try:
        yield draft
        files = sorted(str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file())
        record = {"made_by": f"slimdiff {slimdiff.__version__}", "files": files}
        write_text(draft / RECORD, json.dumps(record, indent=1) + "\n")
        # Again, because writing takes its time.
        check_own(folder)
        _remove(folder)
        draft.rename(folder)
    finally:
        _remove(draft)


def check_own(folder: Path) -> None:
    """Raise FileExistsError where `folder` is none, or holds a file that no earlier export wrote."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder}: a file stands where the export makes a folder; move it away")
    # Empty folders are no content: a workflow engine makes those of its outputs beforehand.
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    foreign = sorted(found - _written(folder))
    if foreign:
        raise FileExistsError(
            f"{folder}: {len(foreign)} files in it are not the export's, the first is {foreign[0]}; "
            "move them away, or remove the folder"
        )


def _written(folder: Path) -> set[str]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {RECORD, *record["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
