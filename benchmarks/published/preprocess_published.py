"""The reference side of preprocess.py: its own transforms, slice writer and data loader. Started by `turns.Side`.

The reference's wheel contains no configuration. Grid, spacing, z-range, bins and minimum lesion size are ours;
percentiles, tissue threshold and tissue share are those of its own tests and of the paper.
"""

import logging
import os
import time
import traceback
import warnings
from pathlib import Path

import torch
from omegaconf import OmegaConf
from src.diffusion.data.caching import get_registry
from src.diffusion.data.dataset import create_dataloader
from src.diffusion.data.splits import SubjectInfo
from turns import Wire, options, peak_memory_mb


def configuration(folder: str, facts: dict):
    """Configuration of its cache builder and loader; `facts` describe grid and slices of our study."""
    return OmegaConf.create(
        {
            "dataset_type": "epilepsy",
            "cache_dir": folder,
            "z_bins": facts["n_bins"],
            "slice_sampling": {
                "z_range": facts["z_range"],
                "filter_empty_brain": True,
                "brain_threshold": -0.9,
                "brain_min_fraction": 0.05,
            },
            "lesion_area_min_pixels": facts["min_lesion_px"],
            "drop_healthy_patients": False,
            "datasets": {
                "epilepsy": {
                    # Volumes are passed one by one: its own discovery expects other file names.
                    "root_dir": folder,
                    "epilepsy_dataset": {"name": "Dataset210_MRIe_none", "modality_index": 0},
                    "splits": {"use_predefined_test": True, "val_fraction": 0.0, "seed": 42},
                }
            },
            "transforms": {
                "target_spacing": [facts["spacing_mm"]] * 3,
                "roi_size": facts["grid"],
                "intensity_norm": {
                    "type": "percentile",
                    "lower": 0.5,
                    "upper": 99.5,
                    "b_min": -1.0,
                    "b_max": 1.0,
                    "clip": True,
                },
            },
            # For the loader.
            "data": {"cache_dir": folder, "lesion_oversampling": {"enabled": False}},
            "training": {"batch_size": facts["batch"], "num_workers": 0, "pin_memory": False},
        }
    )


def volumes(config, participants: list[dict]) -> list[dict]:
    """Index rows of the slices of these volumes; each slice is written as a compressed npz."""
    builder = get_registry().create("epilepsy", config)
    folder = Path(config.cache_dir, "slices")
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for one in participants:
        subject = SubjectInfo(
            subject_id=one["name"],
            image_path=Path(one["image"]),
            label_path=Path(one["mask"]) if one["mask"] else None,
            source="epilepsy" if one["mask"] else "control",
            split="train",
        )
        found = builder.process_subject(subject, folder)
        if not found:
            # It only logs the errors of transforms.
            raise RuntimeError(f"{one['name']}: the reference's cache builder kept no slice")
        rows += found
    return rows


def epoch(config, workers: int) -> dict:
    """Seconds and slices of one pass over its loader."""
    config.training.num_workers = workers
    loader = create_dataloader(config, "train", shuffle=True)
    slices, total = 0, 0.0
    started = time.perf_counter()
    for batch in loader:
        slices += len(batch["image"])
        total += float(batch["image"][0, 0, 80, 80] + batch["mask"][0, 0, 80, 80])
    return {"seconds": time.perf_counter() - started, "slices": slices, "looked_at": total}


def answer(config, question: dict) -> dict:
    """Answer one question."""
    if question["what"] == "volumes":
        return {"rows": volumes(config, question["participants"])}
    if question["what"] == "index":
        get_registry().create("epilepsy", config).write_index_csv(question["rows"], "train")
        return {}
    return epoch(config, question["workers"])


def main() -> None:
    """Answer questions until there are no more."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    wire, given = Wire(), options()
    try:
        for question in wire.questions():
            before = sum(os.times()[:4])
            found = answer(configuration(question["folder"], given["facts"]), question)
            cpu = sum(os.times()[:4]) - before
            wire.answer(memory_mb=peak_memory_mb(torch, "cpu"), cpu_s=cpu, **found)
    except Exception as error:
        traceback.print_exc()
        wire.answer(failed=f"reference: {str(error).splitlines()[0] if str(error) else repr(error)}")


if __name__ == "__main__":
    main()
