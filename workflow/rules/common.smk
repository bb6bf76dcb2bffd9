# The study behind this run, checked before the first job; helpers for inputs, parameters and resources.

import os
import re
import shlex
from base64 import urlsafe_b64encode
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.types import DeploymentMethod

from slimdiff import stages
from slimdiff.cards import GRANTED
from slimdiff.config import (
    ConfigError,
    check_acquisitions,
    check_fold_count,
    read_mapping,
    study_from_mapping,
)
from slimdiff.data.folds import check_split, one_of_each
from slimdiff.data.participants import DataError
from slimdiff.data.quality.exclusion import settle_discovery
from slimdiff.data.sources import discover
from slimdiff.files import dropped_below, printable
from slimdiff.generation.requests import counts_of
from slimdiff.preflight.machine import environment_of_jobs
from slimdiff.stages.weights import needed, needed_by_metrics, needed_by_training


def check_generation(study):
    """Raise before the first job if a variant's sampler cannot start from noise, or its counts cannot be read."""
    # They import torch: 500 MB and seconds, which each job of a cluster would pay twice.
    from slimdiff.diffusion.chain import sigmas_for
    from slimdiff.diffusion.schedule import make_schedule

    for name in study.variants:
        own = study.variant(name)
        diffusion, generation = own.diffusion, own.generation
        try:
            # Snakemake would take a missing input for an old one where outputs exist. The store's own table is made.
            if (
                generation.counts
                and Path(generation.counts).resolve() != (study.paths.store / "slices.tsv").resolve()
            ):
                counts_of(generation, study.slices.n_bins)
            schedule = make_schedule(diffusion.schedule, diffusion.timesteps)
            sigmas_for(schedule, generation.sampler, generation.spacing, generation.evaluations, quiet=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"variants.{name}: generation: {error}")


def check_paths(study, rows):
    """Raise for braces in a file's path, which Snakemake would read as a wildcard, and for <name>, its variable."""
    tables = [study.data.table, *(study.variant(name).generation.counts for name in study.variants)]
    for path in [*filter(None, tables), *(path for row in rows for path in row.files)]:
        if re.search("[{}]|<[a-z]", str(path)):
            raise DataError(
                f"{path}: braces in a path are wildcards to Snakemake, and so is <name>; rename the folder, or link it "
                "under another name"
            )


def forget_unfinished(records):
    """Delete records whose job was killed after it wrote them, so that Snakemake misses them instead of forcing the job.

    Behind a forced job, Snakemake (9.27) leaves out all jobs that have its files as `ancient` inputs.
    """
    state = Path(".snakemake")
    # An engine that runs marks its outputs in the same way.
    if any(state.glob("locks/*")):
        return
    for record in map(str, records):
        if (state / "incomplete" / urlsafe_b64encode(record.encode()).decode()).is_file():
            Path(record).unlink(missing_ok=True)


try:
    # Snakemake itself takes the last of two equal keys, and knows no limits.
    for file in workflow.configfiles if workflow.is_main_process else ():
        read_mapping(file)
    STUDY = study_from_mapping(config, ", ".join(map(str, workflow.configfiles)) or "config")
    PATHS = STUDY.paths
    ROWS = settle_discovery(discover(STUDY.data, PATHS.phantom), STUDY.quality)
    PARTICIPANTS = {row.participant_id: row for row in ROWS if row.included}
    # The jobs are the same before and after a dataset is fetched.
    FETCHED = [ancient(str(PATHS.fetched))] if STUDY.data.fetch.dataset else []
    split_unknown = FETCHED and not all(
        path.is_file() for path in (PATHS.fetched, Path(STUDY.data.root) / "participants.tsv")
    )
    if STUDY.folds.use_split:
        if not split_unknown:
            check_split(one_of_each(PARTICIPANTS.values()), STUDY.folds.k)
    else:
        persons = one_of_each(PARTICIPANTS.values())
        patients = sum(row.is_patient for row in persons)
        check_fold_count(STUDY.folds.k, patients, len(persons) - patients)
    check_acquisitions(STUDY, {row.acquisition for row in PARTICIPANTS.values()})
    if workflow.is_main_process:
        check_generation(STUDY)
    check_paths(STUDY, PARTICIPANTS.values())
except (ConfigError, DataError) as error:
    raise WorkflowError(printable(error))

if workflow.is_main_process:
    forget_unfinished([PATHS.fetched, *map(PATHS.weights, needed(STUDY))])

# To Snakemake such a file is missing: it would train again for hours where a download is enough.
if workflow.is_main_process and (dropped := dropped_below(PATHS.root)):
    logger.warning(
        f"{len(dropped)} results have no content on this machine (DataLad, git-annex). They are made again where they are "
        f"needed, unless you get them first: datalad get {' '.join(shlex.quote(str(path)) for path in dropped[:20])}"
        + (f", and {len(dropped) - 20} more below {PATHS.root}" if len(dropped) > 20 else "")
    )

VARIANTS = list(STUDY.variants)
FOLDS = list(range(STUDY.folds.k))
RUNS = STUDY.runs()
Z_BINS = [f"{number:02d}" for number in range(STUDY.slices.n_bins)]
LOGS = PATHS.root / "logs"
BENCHMARKS = PATHS.root / "benchmarks"
# Jobs on other machines, which a profile asks for with --jobs; with --cores they run here.
REMOTE = workflow.resource_settings.nodes is not None
# Trainings in parallel with fewer threads each are faster than one after the other with all threads
# (benchmarks/speed/train_side_by_side.py); more than eight threads bring little. Other machines share no cores.
TRAINING_THREADS = min(
    8,
    (
        workflow.resource_settings.max_threads or 8
        if REMOTE
        else max(1, (workflow.resource_settings.cores or 8) // len(RUNS))
    ),
)
GPUS = getattr(workflow.resource_settings.resources.get("gpu"), "value", None)
if workflow.is_main_process:
    # Every job learns whether it was given a card (slimdiff/cards.py), and has the same environment as this process.
    if GPUS is not None and not REMOTE:
        os.environ[GRANTED] = str(GPUS)
CONDA = f"../../envs/{environment_of_jobs(STUDY, REMOTE or bool(GPUS), workflow.is_main_process)}.yaml"
CONTAINER = os.environ.get("SLIMDIFF_CONTAINER")
if not CONTAINER and DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method:
    raise WorkflowError(
        "--sdm apptainer: expected an image in the variable SLIMDIFF_CONTAINER, found none; build one (docs/machine.md) "
        "and run: SLIMDIFF_CONTAINER=/path/of/slimdiff.sif snakemake --sdm apptainer ..."
    )


wildcard_constraints:
    participant="|".join(map(re.escape, PARTICIPANTS)),
    variant="|".join(map(re.escape, VARIANTS)),
    fold="|".join(map(str, FOLDS)),
    zbin="|".join(Z_BINS),
    extractor="|".join(needed(STUDY)),


def needs(stage):
    """Parameter function: the keys of the study that a stage reads, as JSON for --config; a change runs it again."""

    def of(wildcards):
        return stages.compared_config_of(stage, STUDY, getattr(wildcards, "variant", None))

    return of


def with_logging(stage):
    """Parameter function: `needs` with keys that only log. Snakemake compares no parameter that may depend on inputs."""

    def of(wildcards, input):
        return stages.config_of(stage, STUDY, getattr(wildcards, "variant", None))

    return of


def outputs(stage, *arguments, **wildcards):
    """The files that a stage leaves; without arguments as patterns of its wildcards."""
    return [str(path) for path in stages.module_of(stage).outputs(PATHS, *arguments, **wildcards)]


# What stages read of the slices, as Snakemake sees it: store.json has the hashes of the other files and is written last.
# It is small, so that it counts as changed only if its content does.
STORE = outputs("cache")[0]


def every(stage, *arguments):
    """The files that a stage leaves for all variants and folds."""
    return [path for run in RUNS for path in outputs(stage, *run, *arguments)]


def gpus(section):
    """Resource function: one GPU unless the section is bound to the CPU."""

    def of(wildcards):
        resolved = STUDY.variant(wildcards.variant) if hasattr(wildcards, "variant") else STUDY
        return 0 if getattr(resolved, section).device in ("cpu", "mps") else 1

    return of


def volumes_of(kind):
    """Preprocessed image or mask of every participant."""
    return [str(PATHS.volume(name, kind)) for name in PARTICIPANTS]


def volume_records():
    """Preprocessing record of every participant."""
    return [str(PATHS.volume_json(name)) for name in PARTICIPANTS]


def shown(path, category, caption, **labels):
    """An output that the report shows under `category`, with its caption and labels."""
    return report(path, category=category, caption=f"../report/{caption}.rst", labels=labels)
