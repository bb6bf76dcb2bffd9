# Metrics of one variant and fold, segmenters, and the comparison over variants and folds.


rule metrics:
    input:
        store=STORE,
        participants=outputs("participants"),
        folds=outputs("kfold"),
        samples=lambda wildcards: samples_of(wildcards.variant, wildcards.fold),
        weights=metrics_weights,
    output:
        outputs("metrics"),
    log:
        LOGS / "metrics" / "{variant}_fold-{fold}.log",
    benchmark:
        BENCHMARKS / "metrics" / "{variant}_fold-{fold}.tsv"
    conda:
        CONDA
    resources:
        mem_mb=growing(metrics_mb),
        runtime=longer(120),
        gpu=gpus("evaluation"),
    params:
        config=needs("metrics"),
    message:
        "metrics of {wildcards.variant}, fold {wildcards.fold}"
    shell:
        "slimdiff-metrics all --config {params.config:q} --variant {wildcards.variant} --fold {wildcards.fold} "
        "2>&1 | tee {log:q}"


rule segmenter:
    input:
        store=STORE,
        folds=outputs("kfold"),
    output:
        outputs("segmenter", STUDY),
    log:
        LOGS / "segmenter" / "fold-{fold}.log",
    benchmark:
        BENCHMARKS / "segmenter" / "fold-{fold}.tsv"
    conda:
        CONDA
    threads: TRAINING_THREADS
    resources:
        gpu=gpus("utility"),
        mem_mb=growing(segmenter_mb),
        runtime=longer(240),
    params:
        config=needs("segmenter"),
    message:
        "segmenters of real slices, fold {wildcards.fold}"
    shell:
        "slimdiff-segmenter --config {params.config:q} --fold {wildcards.fold} 2>&1 | tee {log:q}"


rule utility:
    input:
        store=STORE,
        folds=outputs("kfold"),
        real=lambda wildcards: outputs("segmenter", STUDY, wildcards.fold),
        samples=lambda wildcards: samples_of(wildcards.variant, wildcards.fold),
    output:
        outputs("utility"),
    log:
        LOGS / "utility" / "{variant}_fold-{fold}.log",
    benchmark:
        BENCHMARKS / "utility" / "{variant}_fold-{fold}.tsv"
    conda:
        CONDA
    threads: TRAINING_THREADS
    resources:
        gpu=gpus("utility"),
        mem_mb=growing(utility_mb),
        runtime=longer(240),
    params:
        config=needs("utility"),
    message:
        "segmenters of the samples of {wildcards.variant}, fold {wildcards.fold}"
    shell:
        "slimdiff-utility --config {params.config:q} --variant {wildcards.variant} --fold {wildcards.fold} "
        "2>&1 | tee {log:q}"


rule compare:
    input:
        every("metrics"),
        every_utility(),
    output:
        outputs("compare"),
    log:
        LOGS / "compare.log",
    benchmark:
        BENCHMARKS / "compare.tsv"
    conda:
        CONDA
    resources:
        mem_mb=growing(1500),
        runtime=longer(10),
    params:
        config=needs("compare"),
    message:
        "summary over folds, comparison of the variants"
    shell:
        "slimdiff-compare --config {params.config:q} 2>&1 | tee {log:q}"
