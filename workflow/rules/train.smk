# One network per variant and fold, once the extractors' weights are there.


rule weights:
    output:
        outputs("weights"),
    log:
        LOGS / "weights" / "{extractor}.log",
    benchmark:
        BENCHMARKS / "weights" / "{extractor}.tsv"
    # An answer before hours of preprocessing.
    priority: 10
    # Compute nodes often have no network.
    localrule: True
    conda:
        CONDA
    resources:
        mem_mb=growing(1500),
        runtime=60,
    params:
        config=needs("weights"),
    message:
        "weights of {wildcards.extractor}"
    shell:
        "slimdiff-weights --config {params.config:q} --names {wildcards.extractor} 2>&1 | tee {log:q}"


rule train:
    input:
        store=STORE,
        folds=outputs("kfold"),
        priors=priors_for,
        weights=training_weights,
        start=start_of,
    output:
        outputs("train")[:-1],
        shown(
            outputs("train")[-1],
            "2 Training",
            "preview",
            page="preview: {variant}, fold {fold}",
        ),
    log:
        LOGS / "train" / "{variant}_fold-{fold}.log",
    benchmark:
        BENCHMARKS / "train" / "{variant}_fold-{fold}.tsv"
    conda:
        CONDA
    threads: TRAINING_THREADS
    resources:
        gpu=gpus("training"),
        mem_mb=growing(train_mb),
        runtime=1440,
    params:
        config=with_logging("train"),
        compared=needs("train"),
    message:
        "train {wildcards.variant}, fold {wildcards.fold}"
    shell:
        "slimdiff-train --config {params.config:q} --variant {wildcards.variant} --fold {wildcards.fold} "
        "--processes {resources.gpu} 2>&1 | tee -i {log:q}"


rule trained:
    input:
        every("train"),
    message:
        "every model"
