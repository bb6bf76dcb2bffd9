# Metrics of one variant and fold, and their summary over folds.


rule metrics:
    input:
        store=STORE_FILES,
        folds=PATHS.folds,
        samples=lambda wildcards: sample_files(wildcards.variant, wildcards.fold),
    output:
        PATHS.metrics("{variant}", "{fold}") / "metrics.tsv",
        PATHS.metrics("{variant}", "{fold}") / "nearest.tsv",
    log:
        LOGS / "metrics" / "{variant}_fold-{fold}.log",
    benchmark:
        BENCHMARKS / "metrics" / "{variant}_fold-{fold}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=3000,
        runtime=120,
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
        config=json.dumps(
            {
                "study": STUDY.study,
                "results_dir": STUDY.results_dir,
                "variants": {variant: {} for variant in VARIANTS},
                "folds": {"k": len(FOLDS), "use_split": STUDY.folds.use_split},
            }
        ),
    message:
        "summary over folds"
    shell:
        "slimdiff-metrics summary --config {params.config:q} 2>&1 | tee {log:q}"
