# One network a variant and fold.


rule train:
    input:
        store=STORE_FILES,
        folds=PATHS.folds,
        priors=lambda wildcards: prior_files(wildcards.variant, wildcards.fold),
    output:
        # The resume state lies in state/ beside them: outputs of a failed job are deleted.
        model=PATHS.model("{variant}", "{fold}") / "model.safetensors",
        history=PATHS.model("{variant}", "{fold}") / "history.tsv",
        validation=PATHS.model("{variant}", "{fold}") / "validation.tsv",
        preview=report(
            PATHS.model("{variant}", "{fold}") / "previews" / "final.png",
            category=f"2 Training{CATEGORY_NOTICE}",
            labels={"figure": "preview samples", "variant": "{variant}", "fold": "{fold}"},
            caption="../report/preview.rst",
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
        config=part("train"),
    message:
        "train {wildcards.variant}, fold {wildcards.fold}"
    shell:
        "slimdiff-train --config {params.config:q} --variant {wildcards.variant} --fold {wildcards.fold} "
        "--processes {resources.gpu} 2>&1 | tee -i {log:q}"


rule trained:
    input:
        [path for variant in VARIANTS for fold in FOLDS for path in model_files(variant, fold)],
    message:
        "every model"
