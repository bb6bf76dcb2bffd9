# Requested memory in MB: measured (docs/performance.md, benchmarks/speed/rule_memory.py), with a margin,
# and as much again at each further attempt.

from slimdiff.preflight.estimate import samples_of_model, slices_of_volume, step_memory
from slimdiff.preflight.network_cost import network_cost, trunk_cost

# Pixels of a slice, and slices of all participants, in millions of pixels.
PIXELS = STUDY.preprocess.grid[0] * STUDY.preprocess.grid[1] / 1e6
SLICES = len(PARTICIPANTS) * slices_of_volume(STUDY) * PIXELS
# What CUDA takes of the main memory in one process, at most: the CUDA libraries of torch's wheel have 3600 MB, mapped
# whole, and a context takes some hundred (docs/performance.md). No GPU was available for a measurement.
OF_A_CARD = 4000


# The two processes of Snakemake around a job on another machine, of 130 MB each.
OF_A_SUBMISSION = 300 if REMOTE else 0


def growing(megabytes):
    """Resource function: a number of MB, or what a function of the wildcards gives."""

    def of(wildcards, attempt):
        return attempt * round(megabytes(wildcards) if callable(megabytes) else megabytes) + OF_A_SUBMISSION

    return of


def longer(minutes):
    """Resource function: a number of minutes, and as much again at each further attempt."""

    def of(wildcards, attempt):
        return attempt * minutes

    return of


def has_card(section):
    """Whether a job of this section runs on a GPU: asked for, and not refused by --resources gpu=0 on this machine."""

    def of(wildcards):
        return bool(gpus(section)(wildcards)) and (REMOTE or bool(GPUS))

    return of


def samples_in(wildcards):
    """Samples of a model in millions of pixels, and of one of its z-bins."""
    names = [wildcards.variant] if hasattr(wildcards, "variant") else VARIANTS
    samples = max(samples_of_model(STUDY.variant(name)) for name in names) * PIXELS
    return samples, samples / STUDY.slices.n_bins


def cache_mb(wildcards):
    """One participant's volume and mask at a time, 20 bytes per voxel."""
    return 500 + 20 * PIXELS * STUDY.preprocess.grid[2]


def priors_mb(wildcards):
    """The fold's slices once, as masks."""
    return 500 + 3 * SLICES


def train_mb(wildcards):
    """On a CPU the values of a step's layers, and a gradient for each thread; beside them the slices as float16 and
    uint8."""
    own = STUDY.variant(wildcards.variant)
    network = network_cost(own.model, PIXELS * 1e6)
    on_cpu = 1200 + (1.3 * step_memory(own, network) + 4 * network.parameters * TRAINING_THREADS) / 1e6
    return (4000 + OF_A_CARD if has_card("training")(wildcards) else on_cpu) + 3 * SLICES


def generate_mb(wildcards):
    """A network and one evaluation of it; the samples of a z-bin, and copies of them while they are written."""
    own = STUDY.variant(wildcards.variant)
    network = network_cost(own.model, PIXELS * 1e6)
    drawing = 1000 + (8 * network.parameters + 8 * network.activations) / 1e6
    card = OF_A_CARD if has_card("generation")(wildcards) else 0
    return drawing + card + 12 * samples_in(wildcards)[1]


def metrics_mb(wildcards):
    """One file of samples while it is checked, 10 kB of numbers for each sample, distances of all held-out slices."""
    samples, of_bin = samples_in(wildcards)
    slices, held_out = SLICES / PIXELS, SLICES / PIXELS / max(STUDY.folds.k, 3)
    numbers = (10_000 * samples / PIXELS + 24 * held_out * slices) / 1e6
    card = OF_A_CARD if has_card("evaluation")(wildcards) else 0
    config = STUDY.evaluation
    # VGG16 took 2000 more than AlexNet; Inception, which was not measured, is taken for as large.
    large = {"vgg16", "inception"} & set(config.extractors) or config.lpips_net == "vgg" or config.reference
    return 2500 + (2000 if large else 0) + card + 6 * of_bin + numbers


def segmenter_mb(wildcards):
    """A step of the segmenter on a CPU, and the training slices."""
    config = STUDY.utility
    side = config.patch**2
    network = trunk_cost(config.channels, 1, (False,) * len(config.channels), side, side, PIXELS * 1e6 / side)
    step = (20 * network.parameters + 12 * network.activations * config.batch_size) / 1e6
    return 1500 + (OF_A_CARD if has_card("utility")(wildcards) else 1.2 * step) + 6 * SLICES


def utility_mb(wildcards):
    """As the segmenter, and all samples of the model."""
    return segmenter_mb(wildcards) + 10 * samples_in(wildcards)[0]


def export_mb(wildcards):
    """One file of samples, and copies of it."""
    return 1000 + 12 * samples_in(wildcards)[1]
