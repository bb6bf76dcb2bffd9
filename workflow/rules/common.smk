# The study behind this run, checked before the first job; helpers for inputs, parameters and resources.

import atexit
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError

from slimdiff.config import (
    ConfigError,
    check_acquisitions,
    check_fold_count,
    stage_config,
    study_from_mapping,
)
from slimdiff.data.folds import check_split
from slimdiff.data.volumes.input_fingerprint import SETTINGS, has_changed, short_hash
from slimdiff.data.participants import PATHS as PATH_COLUMNS, DataError
from slimdiff.data.quality.verdicts import settle_discovery
from slimdiff.data.sources import discover
from slimdiff.diffusion.schedule import make_schedule, sampling_sigmas
from slimdiff.generation.requests import counts_of
from slimdiff.report.names import TABLES, figure_names


def check_generation(study):
    """Raise before the first job where a variant's chain could not start from noise, or its counts cannot be read."""
    for name in study.variants:
        part = study.variant(name)
        diffusion, drawn = part.diffusion, part.generation
        try:
            # With outputs there, the engine would take a missing input for an old one. The store's own table is made.
            if drawn.counts and Path(drawn.counts).resolve() != (study.paths.store / "slices.tsv").resolve():
                counts_of(drawn, study.slices.n_bins)
            if drawn.sampler != "ddim_ref":
                schedule = make_schedule(diffusion.schedule, diffusion.timesteps)
                sampling_sigmas(schedule, drawn.evaluations, drawn.spacing)
        except (OSError, ValueError) as error:
            raise ConfigError(f"variants.{name}: generation: {error}")


def check_paths(rows):
    """Raise for braces in a file's path: the engine would read them as a wildcard, and say so in its own words."""
    for row in rows:
        for path in (row.image, row.mask, row.brain_mask):
            if path and re.search("[{}]", str(path)):
                raise DataError(
                    f"{path}: braces in a path are wildcards to Snakemake; rename the folder, or link it under another name"
                )


try:
    STUDY = study_from_mapping(config, ", ".join(map(str, workflow.configfiles)) or "config")
    PATHS = STUDY.paths
    ROWS = settle_discovery(discover(STUDY.data, PATHS.phantom), STUDY.quality)
    PARTICIPANTS = {row.participant_id: row for row in ROWS if row.included}
    # Whether a dataset is there makes no difference to its jobs.
    FETCHED = [ancient(str(PATHS.fetched))] if STUDY.data.fetch.dataset else []
    split_to_come = FETCHED and not all(
        path.is_file() for path in (PATHS.fetched, Path(STUDY.data.root) / "participants.tsv")
    )
    if STUDY.folds.use_split:
        if not split_to_come:
            check_split(list(PARTICIPANTS.values()), STUDY.folds.k)
    else:
        patients = sum(row.is_patient for row in PARTICIPANTS.values())
        check_fold_count(STUDY.folds.k, patients, len(PARTICIPANTS) - patients)
    check_acquisitions(STUDY, {row.acquisition for row in PARTICIPANTS.values()})
    check_generation(STUDY)
    check_paths(PARTICIPANTS.values())
except (ConfigError, DataError) as error:
    raise WorkflowError(str(error))

VARIANTS = list(STUDY.variants)
FOLDS = list(range(STUDY.folds.k))
# Trainings side by side with fewer threads each outrun one after the other with all of them
# (benchmarks/train_side_by_side.py); more than eight bring little.
TRAINING_THREADS = max(1, min(8, (workflow.resource_settings.cores or 8) // (len(VARIANTS) * len(FOLDS))))
Z_BINS = [f"{number:02d}" for number in range(STUDY.slices.n_bins)]
STORE_FILES = [str(PATHS.store / name) for name in ("store.json", "images.npy", "masks.npy", "slices.tsv")]
LOGS = PATHS.root / "logs"
BENCHMARKS = PATHS.root / "benchmarks"
CONDA = "../../envs/cuda.yaml" if STUDY.training.device == "cuda" else "../../envs/cpu.yaml"
CATEGORY_NOTICE = f" ({STUDY.report.notice})" if STUDY.report.notice else ""


wildcard_constraints:
    participant="|".join(map(re.escape, PARTICIPANTS)),
    variant="|".join(map(re.escape, VARIANTS)),
    fold="|".join(map(str, FOLDS)),
    zbin="|".join(Z_BINS),


def part(stage):
    """Parameter function: the part of the study that a stage gets, as JSON for --config."""

    def of(wildcards):
        return stage_config(STUDY, stage, getattr(wildcards, "variant", None))

    return of


def gpus(section):
    """Resource function: one GPU unless the section is bound to the CPU."""

    def of(wildcards):
        resolved = STUDY.variant(wildcards.variant) if hasattr(wildcards, "variant") else STUDY
        return 0 if getattr(resolved, section).device in ("cpu", "mps") else 1

    return of


def rows_hash():
    """Of who takes part with which files: the same before and after a dataset is fetched."""
    rows = [(row.participant_id, *[getattr(row, key) for key in PATH_COLUMNS], row.included) for row in ROWS]
    return hashlib.sha256(repr([[str(value) for value in row] for row in rows]).encode()).hexdigest()[:16]


def source_files(wildcards):
    """What participants.tsv is made from, where the source has such a file."""
    if FETCHED:
        told = PATHS.quality_state / SETTINGS
        changed = told.is_file() and told.read_text() != short_hash(stage_config(STUDY, "participants"))
        return [str(PATHS.fetched)] if changed else FETCHED
    if STUDY.data.source == "phantom":
        return [str(PATHS.phantom / "participants.tsv")]
    if STUDY.data.source == "table":
        return [STUDY.data.table]
    described = Path(STUDY.data.root) / "participants.tsv"
    return [str(described)] if described.is_file() else []


def sources_of(wildcards):
    """Image and masks of the participant in the wildcards."""
    row = PARTICIPANTS[wildcards.participant]
    return [str(path) for path in (row.image, row.mask, row.brain_mask) if path]


def own_volumes(row):
    """Of a participant's files those that the engine sees change; of a fetched dataset it knows the record only."""
    own = Path(STUDY.data.mask_root) if FETCHED and STUDY.data.mask_root else None
    paths = [path for path in (row.image, row.mask, row.brain_mask) if path]
    return [str(path) for path in paths if not FETCHED or (own and own in path.parents)]


def every_volume(wildcards):
    """What quality control looks at again when it is mended."""
    return [path for row in PARTICIPANTS.values() for path in own_volumes(row)]


def changed_volume(name):
    """Whether a participant's own files or settings are no longer those that its volume was made of."""
    row, settings = PARTICIPANTS[name], stage_config(STUDY, "preprocess")
    files = map(Path, own_volumes(row))
    return has_changed(PATHS.volume_json(name), row, settings, files)


def participants_for(wildcards):
    """participants.tsv, whose own change makes a volume anew only where the volume's files or settings changed too."""
    name = wildcards.participant
    return str(PATHS.participants) if changed_volume(name) else ancient(str(PATHS.participants))


def source_volumes(wildcards):
    """What one participant's preprocessing reads."""
    name = wildcards.participant
    fetched = [str(PATHS.fetched)] if FETCHED and changed_volume(name) else FETCHED
    return fetched + own_volumes(PARTICIPANTS[name])


def quality_memory_mb(wildcards, threads, attempt):
    """24 bytes a voxel and reader: 700 MB for 320 x 320 x 256."""
    return attempt * (1000 + 700 * threads)


def volumes_of(kind):
    """Preprocessed FLAIR or mask of every participant."""
    return [str(PATHS.volume(name, kind)) for name in PARTICIPANTS]


def volume_records():
    """Preprocessing record of every participant."""
    return [str(PATHS.volume_json(name)) for name in PARTICIPANTS]


def prior_files(variant, fold):
    """The z-bin priors that a training looks at: none unless its network does."""
    return [] if STUDY.variant(variant).model.prior == "none" else [str(PATHS.prior(fold))]


def generation_files(variant, fold):
    """What drawing looks at beside the model: a table of counts, the z-bin priors behind a background."""
    settings = STUDY.variant(variant).generation
    counts = [settings.counts] if settings.counts else []
    return counts + ([str(PATHS.prior(fold))] if settings.background == "prior" else [])


def model_files(variant, fold):
    """What a training leaves."""
    folder = PATHS.model(variant, fold)
    return [str(folder / name) for name in ("model.safetensors", "history.tsv", "validation.tsv")]


def sample_files(variant, fold):
    """Sample archives and manifests of every z-bin."""
    stems = [PATHS.samples_stem(variant, fold, z_bin) for z_bin in Z_BINS]
    return [f"{stem}.{ending}" for stem in stems for ending in ("npz", "tsv")]


METRIC_TABLES = (
    "metrics.tsv",
    "lesions.tsv",
    "tau_sweep.tsv",
    "nearest.tsv",
    "flagged.tsv",
    "memorisation_subjects.tsv",
)


def metric_files(variant, fold):
    """What an evaluation leaves."""
    folder = PATHS.metrics(variant, fold)
    return [str(folder / name) for name in METRIC_TABLES]


def segmenter_files(fold):
    """What segmenters of real slices leave."""
    segmenters = [PATHS.segmenter(fold, percent) for percent in STUDY.utility.percents]
    return [str(path) for path in (*segmenters, PATHS.utility_subjects("real", fold))]


def utility_files(variant, fold):
    """What the comparison of segmenters leaves; nothing where the study wants none."""
    return [str(PATHS.utility(variant, fold))] if STUDY.utility.enabled else []


def over_folds():
    """What a table over all variants and folds depends on, beside their own tables."""
    return json.dumps(
        {
            "study": STUDY.study,
            "results_dir": STUDY.results_dir,
            "variants": {variant: {} for variant in VARIANTS},
            "folds": {"k": len(FOLDS), "use_split": STUDY.folds.use_split},
            "utility": {"enabled": STUDY.utility.enabled},
        }
    )


def report_config():
    """What figures and tables depend on: a title or a colour makes them again, and nothing else."""
    values = json.loads(stage_config(STUDY, "figures"))
    values["variants"] = {variant: {} for variant in VARIANTS}
    values["folds"] = {"k": len(FOLDS), "use_split": STUDY.folds.use_split}
    # Where a mask begins.
    values["evaluation"] = {"tau": STUDY.evaluation.tau}
    values["utility"] = {"enabled": STUDY.utility.enabled}
    return json.dumps(values, sort_keys=True)


def shown(path, category, caption, **labels):
    """An output that the report shows under `category`, with its caption and labels."""
    return report(
        path,
        category=category + CATEGORY_NOTICE,
        caption=f"../report/{caption}.rst",
        labels=labels,
    )


def shown_by_variant(pattern, category, caption, **labels):
    """One such output a variant."""
    return [
        shown(PATHS.figures / pattern.format(variant), category, caption, variant=variant, **labels)
        for variant in VARIANTS
    ]


def build_report():
    """Build report.html when every target of `all` exists, and say where it is."""
    missing = [target for target in ALL_TARGETS if not Path(target).exists()]
    if missing:
        print(f"no report yet: {len(missing)} targets of `all` are missing, the first is {missing[0]}")
        return
    merged, draft = PATHS.root / "config.json", PATHS.root / ".report.html"
    merged.write_text(json.dumps(config, indent=1))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(workflow.main_snakefile)]
    command += ["--configfile", str(merged), "--report", str(draft), "--nolock", "--quiet", "all"]
    done = subprocess.run(command, capture_output=True, text=True)
    # A broken caption is only a text in the page, not an error of the engine.
    broken = draft.is_file() and "(ERROR/3)" in draft.read_text(encoding="utf-8")
    if done.returncode or broken:
        draft.unlink(missing_ok=True)
        print(done.stdout + done.stderr, file=sys.stderr)
        raise WorkflowError("the report could not be built" + (": a caption is broken" if broken else ""))
    draft.replace(PATHS.report)
    # At exit, so that nothing the engine says comes after it.
    atexit.register(print, f"report: {PATHS.report}", file=sys.stderr)
