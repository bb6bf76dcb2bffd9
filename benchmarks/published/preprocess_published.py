"""The reference's side of preprocess.py: its own transforms, slice writer and data loader. Started by `turns.Side`.

Its wheel brings no configuration. Grid, spacing, z-range, bins and smallest lesion are ours; the percentiles, tissue
threshold and share are those of its own tests, which are the paper's too.
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
    """What its cache builder and loader read; `facts` are our study's grid and slices."""
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
                    # The volumes are named to it one by one: its own discovery wants other file names.
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
            # Of the loader.
            "data": {"cache_dir": folder, "lesion_oversampling": {"enabled": False}},
            "training": {"batch_size": facts["batch"], "num_workers": 0, "pin_memory": False},
        }
    )


def volumes(config, participants: list[dict]) -> list[dict]:
    """Its rows of the slices of these volumes, each slice written as a compressed npz."""
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
            # It logs what a transform raises and goes on.
            raise RuntimeError(f"{one['name']}: its builder kept no slice")
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
    """What one question asks for."""
    if question["what"] == "volumes":
        return {"rows": volumes(config, question["participants"])}
    if question["what"] == "index":
        get_registry().create("epilepsy", config).write_index_csv(question["rows"], "train")
        return {}
    return epoch(config, question["workers"])


def main() -> None:
    """Answer until no more is asked."""
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
