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


rule participants:
    input:
        source_files(),
    output:
        PATHS.participants,
    log:
        LOGS / "participants.log",
    benchmark:
        BENCHMARKS / "participants.tsv"
    conda:
        CONDA
    resources:
        mem_mb=500,
        runtime=5,
    params:
        config=part("participants"),
        # A subject or mask that comes, goes or changes its name makes the table again, although no input changed.
        rows=hashlib.sha256(repr(ROWS).encode()).hexdigest()[:16],
    message:
        "participants.tsv from the source"
    shell:
        "slimdiff-participants --config {params.config:q} 2>&1 | tee {log:q}"


rule preprocess:
    input:
        image=lambda wildcards: str(PARTICIPANTS[wildcards.participant].image),
        mask=lambda wildcards: [str(path) for path in [PARTICIPANTS[wildcards.participant].mask] if path],
        participants=ancient(PATHS.participants),
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
