"""nnU-Net v2 (Isensee et al. 2021), two-dimensional, on the slices of the export, with few steps on a CPU.

Its plans, augmentation, loss and rates are its own; the batch has BATCH_SIZE slices instead of the hundreds that it
plans for a GPU, and there are EPOCHS x ITERATIONS steps instead of 250,000. Its validation patients decide nothing:
nnU-Net keeps its last weights.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

BATCH_SIZE, EPOCHS, ITERATIONS, VALIDATION_ITERATIONS = 12, 20, 50, 2


def write_samples_of(study, store, more) -> None:
    """Write additional training pairs as the samples of the study's variant `base`, where the export reads them."""
    from slimdiff.generation.samples import write_samples

    # Two-dimensional training takes no account of heights: all in the first z-bin.
    for z_bin in range(store.n_bins):
        chosen = np.arange(len(more) if z_bin == 0 else 0)
        rows = [
            {"id": f"{n:05d}", "key": f"{n}", "z_bin": z_bin, "class": int(more.masks[n].any())}
            for n in chosen
        ]
        masks = np.where(more.masks[chosen], np.float16(1), np.float16(-1))
        stem = study.paths.samples_stem("base", 0, z_bin)
        stem.parent.mkdir(parents=True, exist_ok=True)
        write_samples(stem, more.images[chosen], masks, rows)


def exported(study, store, parts: dict[str, list[str]], more, folder: Path) -> Path:
    """Export the slices of these participants, and more pairs to train on, below `folder`; returns the dataset."""
    from slimdiff.export import nnunet
    from slimdiff.export.cases import ModelSamples

    own = study.model_copy(update={"results_dir": str(folder)})
    there, here = (one.paths.volume(parts["train"][0], "image").parent for one in (study, own))
    here.parent.mkdir(parents=True)
    here.symlink_to(there)
    write_samples_of(own, store, more)
    return nnunet.write(ModelSamples(own, "base", 0, store, parts))


def nnunet_masks(
    study, store, parts: dict[str, list[str]], more, folder: Path, seed: int
) -> tuple[np.ndarray, dict]:
    """Masks (N, H, W) bool that nnU-Net predicts for the held-out slices, in the store's order, and facts.

    Args:
        parts: participants for training, validation and test.
        more: pairs to train on beside the real slices.
        folder: of all its files; it is emptied first.
    """
    import nibabel

    from slimdiff.export.cases import ModelSamples

    if importlib.util.find_spec("nnunetv2") is None:
        raise SystemExit("nnU-Net: expected the package nnunetv2, found none; pip install -e '.[test]'")
    shutil.rmtree(folder, ignore_errors=True)
    dataset = exported(study, store, parts, more, folder)
    root = dataset.parents[1]
    environment = {
        **os.environ,
        **{f"nnUNet_{name}": str(root / f"nnUNet_{name}") for name in ("raw", "preprocessed", "results")},
        "nnUNet_n_proc_DA": "1",
        "nnUNet_compile": "false",
    }
    started = os.times()
    given = [str(dataset), str(root / "predicted"), *(str(number) for number in (seed, EPOCHS, ITERATIONS))]
    command = [sys.executable, str(Path(__file__).resolve()), *given]
    path = folder / "nnunet.log"
    with path.open("w") as log:
        ended = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    if ended.returncode:
        raise SystemExit(f"nnU-Net ended with the status {ended.returncode}; the end of {path} says why")
    after = os.times()
    seconds = after.children_user + after.children_system - started.children_user - started.children_system
    cases = ModelSamples(study, "base", 0, store, parts).real("test")
    masks = [
        np.asarray(nibabel.load(root / "predicted" / f"{case.name}.nii.gz").dataobj)[:, ::-1, 0].T > 0
        for case in cases
    ]
    steps = EPOCHS * ITERATIONS
    return np.stack(masks), {"best_step": steps, "steps": steps, "seconds": seconds}


def main(dataset: Path, out: Path, seed: int, epochs: int, iterations: int) -> None:
    """Plan, preprocess, train and predict in the process with nnU-Net's folders in its environment."""
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.set_num_threads(1)
    number = int(dataset.name[len("Dataset") :].split("_")[0])
    extract_fingerprints([number], num_processes=1)
    plan_experiments([number])
    plans = dataset.parents[1] / "nnUNet_preprocessed" / dataset.name / "nnUNetPlans.json"
    content = json.loads(plans.read_text())
    content["configurations"]["2d"]["batch_size"] = BATCH_SIZE
    plans.write_text(json.dumps(content))
    preprocess([number], configurations=("2d",), num_processes=(1,))
    # The planner requires at least one; with none, batches are made in the same process.
    os.environ.update({"nnUNet_n_proc_DA": "0"})
    # nnU-Net draws from the global generators.
    np.random.seed(seed)  # noqa: NPY002
    torch.manual_seed(seed)
    trainer = get_trainer_from_args(dataset.name, "2d", 0, device=torch.device("cpu"))
    trainer.num_epochs, trainer.num_iterations_per_epoch = epochs, iterations
    trainer.num_val_iterations_per_epoch = VALIDATION_ITERATIONS
    started = time.process_time()
    trainer.run_training()
    print(f"training: {time.process_time() - started:.0f} s")
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(trainer.output_folder_base, (0,), "checkpoint_final.pth")
    out.mkdir(parents=True, exist_ok=True)
    predictor.predict_from_files_sequential(str(dataset / "imagesTs"), str(out))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *(int(number) for number in sys.argv[3:]))
