# One network per variant and fold.


rule train:
    input:
        store=outputs("cache"),
        folds=outputs("kfold"),
        priors=priors_for,
    output:
        outputs("train")[:-1],
        shown(
            outputs("train")[-1],
            "2 Training",
            "preview",
            figure="preview samples",
            variant="{variant}",
            fold="{fold}",
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
        mem_mb=6000,
        runtime=1440,
    params:
        config=needs("train"),
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
