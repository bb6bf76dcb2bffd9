# What single rules read: source files and volumes, priors, tables of counts.

import functools
import hashlib

from slimdiff.data.participants import PATHS as PATH_COLUMNS
from slimdiff.data.volumes.input_fingerprint import SETTINGS, has_changed, short_hash


def rows_hash():
    """A hash of the participants and their files: the same before and after a dataset is fetched."""
    rows = [
        (
            row.participant_id,
            *[getattr(row, key) for key in PATH_COLUMNS],
            row.included,
            *row.more_masks,
            *([row.stack.to_json()] if row.stack else []),
        )
        for row in ROWS
    ]
    return hashlib.sha256(repr([[str(value) for value in row] for row in rows]).encode()).hexdigest()[:16]


def source_files(wildcards):
    """The file that participants.tsv is made from, where the source has one."""
    if FETCHED:
        settings = PATHS.quality_state / SETTINGS
        changed = settings.is_file() and settings.read_text() != short_hash(
            stages.config_of("participants", STUDY)
        )
        return [str(PATHS.fetched)] if changed else FETCHED
    if STUDY.data.source == "phantom":
        return [str(PATHS.phantom / "participants.tsv")]
    if STUDY.data.listed:
        return [STUDY.data.table]
    if STUDY.data.source == "slices":
        return []
    described = Path(STUDY.data.root) / "participants.tsv"
    return [str(described)] if described.is_file() else []


def sources_of(wildcards):
    """Image and masks of the participant in the wildcards."""
    row = PARTICIPANTS[wildcards.participant]
    return [str(path) for path in row.files]


def own_volumes(row):
    """A participant's files whose changes Snakemake sees: of a fetched dataset only masks that are the user's own."""
    own = Path(STUDY.data.mask_root) if FETCHED and STUDY.data.mask_root else None
    return [str(path) for path in row.files if not FETCHED or (own and own in path.parents)]


def every_volume(wildcards):
    """All files that quality control checks again when they change."""
    return [path for row in PARTICIPANTS.values() for path in own_volumes(row)]


@functools.cache
def changed_volume(name):
    """Whether a participant's own files or settings differ from those that its volume was made of."""
    row, settings = PARTICIPANTS[name], stages.config_of("preprocess", STUDY)
    return has_changed(PATHS.volume_json(name), row, settings, map(Path, own_volumes(row)))


def participants_for(wildcards):
    """participants.tsv; its change makes a volume again only where the volume's files or settings changed, too."""
    table = str(PATHS.participants)
    return table if changed_volume(wildcards.participant) else ancient(table)


def source_volumes(wildcards):
    """What one participant's preprocessing reads."""
    name = wildcards.participant
    fetched = [str(PATHS.fetched)] if FETCHED and changed_volume(name) else FETCHED
    return fetched + own_volumes(PARTICIPANTS[name])


@functools.cache
def megavoxels(name):
    """Voxels of the participant's largest file, or of all its slices, in millions; 0 while no header can be read."""
    from slimdiff.data.volumes.nifti import voxel_count
    from slimdiff.data.volumes.stacking import voxels_of

    row = PARTICIPANTS[name]
    if row.stack:
        return voxels_of(row.stack) / 1e6
    return max(voxel_count(path) or 0 for path in row.files) / 1e6


def quality_memory_mb(wildcards, threads, attempt):
    """27 bytes per voxel and worker, and at least 700 MB per worker (320 x 320 x 256)."""
    largest = max(megavoxels(name) for name in PARTICIPANTS)
    return attempt * round(1000 + max(700, 27 * largest) * threads) + OF_A_SUBMISSION


def preprocess_memory_mb(wildcards, attempt):
    """60 bytes per voxel; deepbet with a negative `dilate_mm` took 50, N4 30, resampling alone 11."""
    return attempt * round(max(2500, 1000 + 60 * megavoxels(wildcards.participant))) + OF_A_SUBMISSION


def preprocess_minutes(wildcards, attempt):
    """10 minutes up to 40 million voxels, for larger volumes more."""
    return attempt * round(max(10, megavoxels(wildcards.participant) / 4))


def priors_for(wildcards):
    """The z-bin priors that a training reads: none unless its network takes them."""
    own = STUDY.variant(wildcards.variant)
    return [] if own.model.prior == "none" else outputs("priors", wildcards.fold)


def start_of(wildcards):
    """The model that a training starts from, if the study names one."""
    start = STUDY.variant(wildcards.variant).training.init
    return [start] if start else []


def records_of(names):
    """Records of fetched weights; a record that is written again makes no model again."""
    return [ancient(path) for name in dict.fromkeys(names) for path in outputs("weights", name)]


def training_weights(wildcards):
    """Weights that a training reads for its validation and its loss."""
    return records_of(name for name, _ in needed_by_training(STUDY, wildcards.variant))


def metrics_weights(wildcards):
    """Weights that the metrics read; fetched at the start, because the rule has a priority and no input."""
    return records_of(name for name, _ in needed_by_metrics(STUDY))


def generation_inputs(wildcards):
    """Files that sampling reads beside the model: a table of counts, the z-bin priors of a background."""
    settings = STUDY.variant(wildcards.variant).generation
    counts = [settings.counts] if settings.counts else []
    return counts + (outputs("priors", wildcards.fold) if settings.background == "prior" else [])
