# Segmenters of real slices once a fold, of samples and of both for every variant and fold.


rule segmenter:
    input:
        store=STORE_FILES,
        folds=PATHS.folds,
    output:
        segmenter_files("{fold}"),
    log:
        LOGS / "segmenter" / "fold-{fold}.log",
    benchmark:
        BENCHMARKS / "segmenter" / "fold-{fold}.tsv"
    conda:
        CONDA
    threads: TRAINING_THREADS
    resources:
        gpu=gpus("utility"),
        mem_mb=4000,
        runtime=240,
    params:
        config=part("segmenter"),
    message:
        "segmenters of real slices, fold {wildcards.fold}"
    shell:
        "slimdiff-metrics segmenter --config {params.config:q} --fold {wildcards.fold} 2>&1 | tee {log:q}"


rule utility:
    input:
        store=STORE_FILES,
        folds=PATHS.folds,
        real=lambda wildcards: segmenter_files(wildcards.fold),
        samples=lambda wildcards: sample_files(wildcards.variant, wildcards.fold),
    output:
        PATHS.utility("{variant}", "{fold}"),
        PATHS.utility_subjects("{variant}", "{fold}"),
    log:
        LOGS / "utility" / "{variant}_fold-{fold}.log",
    benchmark:
        BENCHMARKS / "utility" / "{variant}_fold-{fold}.tsv"
    conda:
        CONDA
    threads: TRAINING_THREADS
    resources:
        gpu=gpus("utility"),
        mem_mb=4000,
        runtime=240,
    params:
        config=part("utility"),
    message:
        "segmenters of the samples of {wildcards.variant}, fold {wildcards.fold}"
    shell:
        "slimdiff-metrics utility --config {params.config:q} --variant {wildcards.variant} --fold {wildcards.fold} "
        "2>&1 | tee {log:q}"
