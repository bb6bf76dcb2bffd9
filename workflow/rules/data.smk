# Volumes -> participants.tsv -> one grid -> slice store, folds and z-bin priors.

import hashlib

from slimdiff.data.participants import PATHS as PATH_COLUMNS
from slimdiff.data.volumes.input_fingerprint import SETTINGS, has_changed, short_hash


def rows_hash():
    """A hash of the participants and their files: the same before and after a dataset is fetched."""
    rows = [(row.participant_id, *[getattr(row, key) for key in PATH_COLUMNS], row.included) for row in ROWS]
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
    if STUDY.data.source == "table":
        return [STUDY.data.table]
    described = Path(STUDY.data.root) / "participants.tsv"
    return [str(described)] if described.is_file() else []


def sources_of(wildcards):
    """Image and masks of the participant in the wildcards."""
    row = PARTICIPANTS[wildcards.participant]
    return [str(path) for path in (row.image, row.mask, row.brain_mask) if path]


def own_volumes(row):
    """A participant's files whose changes Snakemake sees: of a fetched dataset only masks that are the user's own."""
    own = Path(STUDY.data.mask_root) if FETCHED and STUDY.data.mask_root else None
    paths = [path for path in (row.image, row.mask, row.brain_mask) if path]
    return [str(path) for path in paths if not FETCHED or (own and own in path.parents)]


def every_volume(wildcards):
    """All files that quality control checks again when they change."""
    return [path for row in PARTICIPANTS.values() for path in own_volumes(row)]


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


def quality_memory_mb(wildcards, threads, attempt):
    """24 bytes per voxel and worker: 700 MB for 320 x 320 x 256."""
    return attempt * (1000 + 700 * threads)


if STUDY.data.source == "phantom":

    rule phantom:
        output:
            outputs("phantom", PARTICIPANTS.values()),
        log:
            LOGS / "phantom.log",
        benchmark:
            BENCHMARKS / "phantom.tsv"
        conda:
            CONDA
        resources:
            mem_mb=1500,
            runtime=15,
        params:
            config=needs("phantom"),
        message:
            f"phantom: {len(PARTICIPANTS)} subjects"
        shell:
            "slimdiff-phantom --config {params.config:q} 2>&1 | tee {log:q}"


if FETCHED:

    rule fetch:
        output:
            outputs("fetch"),
        log:
            LOGS / "fetch.log",
        benchmark:
            BENCHMARKS / "fetch.tsv"
        # Compute nodes often have no network.
        localrule: True
        conda:
            CONDA
        resources:
            mem_mb=500,
            runtime=240,
        params:
            config=needs("fetch"),
        message:
            f"fetch {STUDY.data.fetch.dataset}"
        shell:
            "slimdiff-fetch --config {params.config:q} 2>&1 | tee {log:q}"


rule participants:
    input:
        source_files,
        # A file that was fixed is checked again.
        every_volume,
    output:
        outputs("participants"),
    log:
        LOGS / "participants.log",
    benchmark:
        BENCHMARKS / "participants.tsv"
    conda:
        CONDA
    threads: 4
    resources:
        mem_mb=quality_memory_mb,
        runtime=30,
    params:
        config=needs("participants"),
        # A subject or mask that is added, removed or renamed changes the table, although no input changed.
        rows=rows_hash(),
    message:
        f"participants: check {len(PARTICIPANTS)} participants"
    shell:
        "slimdiff-participants --config {params.config:q} --workers {threads} 2>&1 | tee {log:q}"


rule preprocess:
    input:
        volumes=source_volumes,
        participants=participants_for,
    output:
        outputs("preprocess"),
    log:
        LOGS / "preprocess" / "{participant}.log",
    benchmark:
        BENCHMARKS / "preprocess" / "{participant}.tsv"
    group:
        "preprocess"
    conda:
        CONDA
    resources:
        mem_mb=2500,
        runtime=10,
    params:
        config=needs("preprocess"),
        # A file of another name is another volume, though no input may have changed.
        sources=sources_of,
    message:
        "preprocess {wildcards.participant}"
    shell:
        "slimdiff-preprocess --config {params.config:q} --participant={wildcards.participant:q} 2>&1 | tee {log:q}"


rule preprocessed:
    input:
        volumes_of("FLAIR"),
        volumes_of("mask"),
    message:
        "every participant on the study's grid"


rule quality:
    input:
        PATHS.participants,
        PATHS.quality,
        volumes_of("FLAIR"),
        volumes_of("mask"),
        volume_records(),
    output:
        shown(outputs("quality")[0], "1 Data", "quality", result="contact sheet of all participants"),
    log:
        LOGS / "quality.log",
    benchmark:
        BENCHMARKS / "quality.tsv"
    # Seen before anything is trained.
    priority: 10
    conda:
        CONDA
    resources:
        mem_mb=1500,
        runtime=15,
    params:
        config=needs("quality"),
    message:
        f"contact sheet of all participants: {PATHS.tables / 'quality.html'}"
    shell:
        "slimdiff-quality --config {params.config:q} 2>&1 | tee {log:q}"


rule kfold:
    input:
        participants=PATHS.participants,
        records=volume_records(),
    output:
        outputs("kfold"),
    log:
        LOGS / "kfold.log",
    benchmark:
        BENCHMARKS / "kfold.tsv"
    conda:
        CONDA
    resources:
        mem_mb=500,
        runtime=5,
    params:
        config=needs("kfold"),
    message:
        f"kfold: {len(PARTICIPANTS)} subjects into {len(FOLDS)} folds"
    shell:
        "slimdiff-kfold --config {params.config:q} 2>&1 | tee {log:q}"


rule cache:
    input:
        participants=PATHS.participants,
        images=volumes_of("FLAIR"),
        masks=volumes_of("mask"),
        # Only an automatic z-range depends on who is a training subject.
        folds=outputs("kfold") if STUDY.slices.z_range == "auto" else [],
    output:
        outputs("cache"),
    log:
        LOGS / "cache.log",
    benchmark:
        BENCHMARKS / "cache.tsv"
    conda:
        CONDA
    resources:
        mem_mb=4000,
        runtime=30,
    params:
        config=needs("cache"),
    message:
        "slice store"
    shell:
        "slimdiff-cache --config {params.config:q} 2>&1 | tee {log:q}"


rule priors:
    input:
        store=outputs("cache"),
        folds=outputs("kfold"),
    output:
        outputs("priors"),
    log:
        LOGS / "priors" / "fold-{fold}.log",
    benchmark:
        BENCHMARKS / "priors" / "fold-{fold}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=1500,
        runtime=15,
    params:
        config=needs("priors"),
    message:
        "z-bin priors of fold {wildcards.fold}"
    shell:
        "slimdiff-priors --config {params.config:q} --fold {wildcards.fold} 2>&1 | tee {log:q}"
