# Volumes -> participants.tsv -> one grid -> slice store, folds and z-bin priors.


if STUDY.data.source == "phantom":

    rule phantom:
        output:
            PATHS.phantom / "dataset_description.json",
            PATHS.phantom / "participants.tsv",
            [str(row.image) for row in PARTICIPANTS.values()],
            [str(row.mask) for row in PARTICIPANTS.values() if row.mask],
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
            config=part("phantom"),
        message:
            f"phantom: {len(PARTICIPANTS)} subjects"
        shell:
            "slimdiff-phantom --config {params.config:q} 2>&1 | tee {log:q}"


if FETCHED:

    rule fetch:
        output:
            # Only the record: the engine deletes the outputs of a failed job, and what came is worth keeping.
            PATHS.fetched,
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
            config=part("fetch"),
        message:
            f"fetch {STUDY.data.fetch.dataset}"
        shell:
            "slimdiff-fetch --config {params.config:q} 2>&1 | tee {log:q}"


rule participants:
    input:
        source_files,
        # A file that was mended is looked at again.
        every_volume,
    output:
        PATHS.participants,
        PATHS.quality,
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
        config=part("participants"),
        # A subject or mask that comes, goes or changes its name makes the table again, although no input changed.
        rows=rows_hash(),
    message:
        f"participants: {len(PARTICIPANTS)} to be looked at"
    shell:
        "slimdiff-participants --config {params.config:q} --workers {threads} 2>&1 | tee {log:q}"


rule preprocess:
    input:
        volumes=source_volumes,
        participants=participants_for,
    output:
        PATHS.volume("{participant}", "FLAIR"),
        PATHS.volume("{participant}", "mask"),
        PATHS.volume_json("{participant}"),
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
        config=part("preprocess"),
        # Another file under another name is another volume, though no input may have changed.
        sources=sources_of,
    message:
        "preprocess {wildcards.participant}"
    shell:
        "slimdiff-preprocess --config {params.config:q} --participant={wildcards.participant:q} 2>&1 | tee {log:q}"


rule folds:
    input:
        participants=PATHS.participants,
        records=volume_records(),
    output:
        PATHS.folds,
    log:
        LOGS / "folds.log",
    benchmark:
        BENCHMARKS / "folds.tsv"
    conda:
        CONDA
    resources:
        mem_mb=500,
        runtime=5,
    params:
        config=part("kfold"),
    message:
        f"folds: {len(PARTICIPANTS)} subjects into {len(FOLDS)} folds"
    shell:
        "slimdiff-kfold --config {params.config:q} 2>&1 | tee {log:q}"


rule cache:
    input:
        participants=PATHS.participants,
        images=volumes_of("FLAIR"),
        masks=volumes_of("mask"),
        # Only an automatic extent depends on who is a training subject.
        folds=PATHS.folds if STUDY.slices.z_range == "auto" else [],
    output:
        STORE_FILES,
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
        config=part("cache"),
    message:
        "slice store"
    shell:
        "slimdiff-cache --config {params.config:q} 2>&1 | tee {log:q}"


rule priors:
    input:
        store=STORE_FILES,
        folds=PATHS.folds,
    output:
        PATHS.prior("{fold}"),
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
        config=part("priors"),
    message:
        "z-bin priors of fold {wildcards.fold}"
    shell:
        "slimdiff-priors --config {params.config:q} --fold {wildcards.fold} 2>&1 | tee {log:q}"


rule preprocessed:
    input:
        volumes_of("FLAIR"),
        volumes_of("mask"),
    message:
        "every participant on the study's grid"


rule quality_sheet:
    input:
        PATHS.participants,
        PATHS.quality,
        volumes_of("FLAIR"),
        volumes_of("mask"),
        volume_records(),
    output:
        shown(PATHS.tables / "quality.html", "1 Data", "quality", result="contact sheet of all participants"),
    log:
        LOGS / "quality_sheet.log",
    benchmark:
        BENCHMARKS / "quality_sheet.tsv"
    # Seen before anything is trained.
    priority: 10
    conda:
        CONDA
    resources:
        mem_mb=1500,
        runtime=15,
    params:
        config=part("quality_sheet"),
    message:
        "contact sheet of all participants"
    shell:
        "slimdiff-figures quality --config {params.config:q} 2>&1 | tee {log:q}"


rule quality:
    input:
        PATHS.tables / "quality.html",
    message:
        f"to be looked at: {PATHS.tables / 'quality.html'}"
