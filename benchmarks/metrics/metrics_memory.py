"""Memory and time of the metrics by the number of samples: python benchmarks/metrics/metrics_memory.py

Writes sample files of made slices (`metrics_inputs.py`) for each number in --samples, and runs the stages of
`slimdiff-metrics` on them, each in its own process:

- features: AlexNet's features of the samples, written to the cache; only up to --extract-up-to samples, because every
  sample takes the same time;
- image: spectra, histograms, outlines, LPIPS, and KID, FID, precision and recall of made features;
- mask: the mask, pair and control axes;
- memorisation: nearest training slices, in made features and in pixels.

Prints TSV: seconds, processor seconds per 1,000 samples, and peak memory, beside the size of the samples.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from metrics_inputs import FEATURES, N_BINS, PER_SUBJECT, _features, _slices

from slimdiff.config.evaluation import EvaluationConfig
from slimdiff.evaluation.axes import control, image, mask, memorisation, pair
from slimdiff.evaluation.axes.fold_evaluation import FoldEvaluation
from slimdiff.evaluation.metrics.features import FeatureCache
from slimdiff.files import replacing
from slimdiff.generation.samples import bin_name, read_samples, write_samples
from slimdiff.stored_rows import ArrayWriter, stored_npy

COLUMNS = ("samples", "stage", "samples_mb", "wall_s", "cpu_s_per_1000", "peak_mb")
STAGES = {
    "features": (lambda evaluation: evaluation.features(evaluation.samples.images, "alexnet"),),
    "image": (
        image.profile_distances,
        image.outline_shares,
        image.feature_distances,
        image.lpips_distances,
    ),
    "mask": (mask.mask_axis, pair.pair_axis, control.control_axis),
    "memorisation": (memorisation.memorisation_axis,),
}
SPACING_MM, FEWEST_PX = 1.25, 5
_BLOCK = 250


class MadeFeatures(FeatureCache):
    """Features made from a seed instead of by a network, kept as the cache keeps them."""

    def stored(self, images, extractor, **_):
        seed = int(np.asarray(images[:1]).sum())
        file = self.folder / f"made-{len(images)}-{seed}.npy"
        if not file.is_file():
            rng = np.random.default_rng(seed)
            with replacing(file) as temporary, ArrayWriter(temporary, (FEATURES,), np.float32) as writer:
                for start in range(0, len(images), _BLOCK):
                    for vector in _features(min(_BLOCK, len(images) - start), 0.1, rng):
                        writer.append(vector)
        return stored_npy(file)


def write_made(folder: Path, samples: int, side: int) -> None:
    """Write the sample files: equal numbers of each z-bin, every second sample with a lesion."""
    rng = np.random.default_rng(1)
    for z_bin, own in enumerate(np.array_split(np.arange(samples), N_BINS)):
        images, masks = (np.empty((len(own), side, side), np.float16) for _ in range(2))
        label = np.arange(len(own)) % 2
        for start in range(0, len(own), _BLOCK):
            rows = slice(start, min(start + _BLOCK, len(own)))
            bins = np.full(len(label[rows]), z_bin)
            images[rows], masks[rows] = _slices(bins, label[rows], side, 0.1, rng)
        rows = [
            {"id": f"base_f0_z{z_bin:02d}_c{kind}_{number:06d}", "key": "", "z_bin": z_bin, "class": kind}
            | {"replica": 0, "index": number, "acquisition": "n/a", "lesion_px": 0}
            for number, kind in enumerate(label.tolist())
        ]
        write_samples(folder / bin_name(z_bin), images, masks, rows)


def real_store(slices: int, side: int) -> SimpleNamespace:
    """Held-out and training slices in the form of a slice store: a third is held out, 50 slices per subject."""
    rng, order = np.random.default_rng(2), np.arange(slices)
    z_bin, label = order // 2 % N_BINS, order % 2
    images, masks = np.empty((slices, side, side), np.float16), np.empty((slices, side, side), np.uint8)
    for start in range(0, slices, _BLOCK):
        rows = slice(start, start + _BLOCK)
        images[rows], lesion = _slices(z_bin[rows], label[rows], side, 0.0, rng)
        masks[rows] = lesion > 0
    subject = np.array([f"sub-{number:03d}" for number in order // PER_SUBJECT])
    return SimpleNamespace(
        images=images,
        masks=masks,
        z_bin=z_bin,
        label=label,
        acquisition=np.full(len(label), "n/a"),
        participant=subject,
        person=subject,
        n_bins=N_BINS,
        spacing_mm=SPACING_MM,
        facts={"bin_centres": [2.7 * (number + 0.5) for number in range(N_BINS)], "min_lesion_px": FEWEST_PX},
    )


def measure(folder: Path, stage: str, options: argparse.Namespace) -> None:
    """Run one stage; print its wall and processor seconds, and the peak of this process in MB."""
    store = real_store(options.real, options.side)
    test = np.flatnonzero(np.arange(options.real) // PER_SUBJECT % 3 == 0)
    train = np.setdiff1d(np.arange(options.real), test)
    wall, cpu = time.perf_counter(), time.process_time()
    samples = read_samples(folder / "samples", N_BINS, on_disk=True)
    config = EvaluationConfig(extractors=("alexnet",), bootstrap=options.bootstrap, seed=0, tau=0.0)
    cache = (FeatureCache if stage == "features" else MadeFeatures)(folder / "features")
    names = {"study": "made", "variant": "base", "fold": 0}
    evaluation = FoldEvaluation(store, test, train, samples, config, cache, names)
    for add_metrics in STAGES[stage]:
        add_metrics(evaluation)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(time.perf_counter() - wall, time.process_time() - cpu, peak)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--side", type=int, default=64, help="side of a slice, in px")
    parser.add_argument(
        "--real", type=int, default=3000, help="real slices, 50 per subject; a third is held out"
    )
    parser.add_argument("--bootstrap", type=int, default=1000)
    parser.add_argument(
        "--extract-up-to", type=int, default=1000, help="samples whose features a network makes"
    )
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--work", type=Path, help="folder for the sample files; default: a temporary one")
    parser.add_argument("--child", nargs=2, metavar=("FOLDER", "STAGE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(Path(options.child[0]), options.child[1], options)
        return
    print(*COLUMNS, sep="\t")
    shared = ["--side", options.side, "--real", options.real, "--bootstrap", options.bootstrap]
    for samples in options.samples:
        with tempfile.TemporaryDirectory(dir=options.work) as name:
            folder = Path(name)
            write_made(folder / "samples", samples, options.side)
            for stage in options.stages:
                if stage == "features" and samples > options.extract_up_to:
                    continue
                command = [sys.executable, __file__, *shared, "--child", folder, stage]
                done = subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True)
                wall, cpu, peak = map(float, done.stdout.split())
                size = 4 * samples * options.side**2 / 1e6
                numbers = f"{size:.0f}\t{wall:.1f}\t{1000 * cpu / samples:.2f}\t{peak:.0f}"
                print(samples, stage, numbers, sep="\t", flush=True)


if __name__ == "__main__":
    main()
