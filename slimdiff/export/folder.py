"""Folders that are complete or absent, and replace only what an earlier export wrote.

Each has `.slimdiff-export.json`, the list of its files. A folder with any other file is an error and is not changed.
"""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import slimdiff
from slimdiff.config import Study
from slimdiff.files import write_text
from slimdiff.locks import alone

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
    """nnU-Net's split, which it reads beside its preprocessed data."""
    root = study.paths.export("nnunet", variant, fold) / "nnUNet_preprocessed"
    return root / nnunet_name(study, variant, fold) / "splits_final.json"


def index_file(study: Study, form: str, variant: str, fold: int) -> Path:
    """The index file of an export, which the workflow checks for."""
    return folder_of(study, form, variant, fold) / INDEX[form]


RECORD = ".slimdiff-export.json"


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` that replaces it at the end, and is removed if anything raises.

    Raises FileExistsError if `folder` has a file that no earlier export wrote.
    """
    folder = Path(folder)
    draft, earlier = (folder.with_name(f".{folder.name}.{part}") for part in ("partial", "earlier"))
    with alone(folder.with_name(f".{folder.name}.lock"), "export"):
        check_own(folder)
        _remove(draft)
        draft.mkdir(parents=True)
        try:
            yield draft
            files = sorted(str(path.relative_to(draft)) for path in draft.rglob("*") if path.is_file())
            record = {"made_by": f"slimdiff {slimdiff.__version__}", "files": files}
            write_text(draft / RECORD, json.dumps(record, indent=1) + "\n")
            # Again, because writing takes time.
            check_own(folder)
            _remove(earlier)
            # Under another name first: a folder that was removed in part would have files without their record.
            if folder.exists():
                folder.rename(earlier)
            draft.rename(folder)
        finally:
            _remove(draft)
            if earlier.exists() and not folder.exists():
                earlier.rename(folder)
            _remove(earlier)


def check_own(folder: Path) -> None:
    """Raise FileExistsError if `folder` is a link or a file, or has a file that no earlier export wrote."""
    if folder.is_symlink():
        raise FileExistsError(f"{folder}: expected a folder, found a link; remove the link")
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FileExistsError(f"{folder}: expected a folder, found a file; move it away")
    # Empty folders do not count: Snakemake makes those of its outputs before the job.
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    foreign = sorted(found - _written(folder))
    if foreign:
        raise FileExistsError(
            f"{folder}: expected files of an earlier export only, found {len(foreign)} others, first {foreign[0]}; "
            "move them away, or remove the folder"
        )


def _written(folder: Path) -> set[str]:
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return {RECORD, *record["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _remove(folder: Path) -> None:
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
