# Volumes -> participants.tsv -> one grid -> slice store, folds and z-bin priors.


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
            mem_mb=growing(1000),
            runtime=longer(15),
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
            mem_mb=growing(500),
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
        runtime=longer(30),
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
    conda:
        CONDA
    resources:
        mem_mb=preprocess_memory_mb,
        runtime=preprocess_minutes,
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
        volumes_of("image"),
        volumes_of("mask"),
    message:
        "every participant on the study's grid"


rule quality:
    input:
        PATHS.participants,
        PATHS.quality,
        volumes_of("image"),
        volumes_of("mask"),
        volume_records(),
    output:
        shown(outputs("quality")[0], "1 Data", "quality", page="contact sheet of all participants"),
    log:
        LOGS / "quality.log",
    benchmark:
        BENCHMARKS / "quality.tsv"
    # Seen before anything is trained.
    priority: 10
    conda:
        CONDA
    resources:
        mem_mb=growing(1000),
        runtime=longer(15),
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
        mem_mb=growing(500),
        runtime=longer(5),
    params:
        config=needs("kfold"),
    message:
        f"kfold: {len(PARTICIPANTS)} subjects into {len(FOLDS)} folds"
    shell:
        "slimdiff-kfold --config {params.config:q} 2>&1 | tee {log:q}"


rule cache:
    input:
        participants=PATHS.participants,
        images=volumes_of("image"),
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
        mem_mb=growing(cache_mb),
        runtime=longer(30),
    params:
        config=needs("cache"),
    message:
        "slice store"
    shell:
        "slimdiff-cache --config {params.config:q} 2>&1 | tee {log:q}"


rule priors:
    input:
        store=STORE,
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
        mem_mb=growing(priors_mb),
        runtime=longer(15),
    params:
        config=needs("priors"),
    message:
        "z-bin priors of fold {wildcards.fold}"
    shell:
        "slimdiff-priors --config {params.config:q} --fold {wildcards.fold} 2>&1 | tee {log:q}"
