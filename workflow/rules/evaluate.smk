# Metrics of one variant and fold, and their summary over folds.


rule metrics:
    input:
        store=STORE_FILES,
        folds=PATHS.folds,
        samples=lambda wildcards: sample_files(wildcards.variant, wildcards.fold),
    output:
        [PATHS.metrics("{variant}", "{fold}") / name for name in METRIC_TABLES],
    log:
        LOGS / "metrics" / "{variant}_fold-{fold}.log",
    benchmark:
        BENCHMARKS / "metrics" / "{variant}_fold-{fold}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=4500,
        runtime=120,
        gpu=gpus("evaluation"),
    params:
        config=part("metrics"),
    message:
        "metrics of {wildcards.variant}, fold {wildcards.fold}"
    shell:
        "slimdiff-metrics all --config {params.config:q} --variant {wildcards.variant} --fold {wildcards.fold} "
        "2>&1 | tee {log:q}"


rule summary:
    input:
        [path for variant in VARIANTS for fold in FOLDS for path in metric_files(variant, fold)],
        [path for variant in VARIANTS for fold in FOLDS for path in utility_files(variant, fold)],
    output:
        PATHS.summary,
    log:
        LOGS / "summary.log",
    benchmark:
        BENCHMARKS / "summary.tsv"
    conda:
        CONDA
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        config=over_folds(),
    message:
        "summary over folds"
    shell:
        "slimdiff-metrics summary --config {params.config:q} 2>&1 | tee {log:q}"


rule comparison:
    input:
        [path for variant in VARIANTS for fold in FOLDS for path in metric_files(variant, fold)],
        [path for variant in VARIANTS for fold in FOLDS for path in utility_files(variant, fold)],
    output:
        PATHS.comparison,
    log:
        LOGS / "comparison.log",
    benchmark:
        BENCHMARKS / "comparison.tsv"
    conda:
        CONDA
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        config=over_folds(),
    message:
        "comparison of the variants"
    shell:
        "slimdiff-metrics compare --config {params.config:q} 2>&1 | tee {log:q}"
