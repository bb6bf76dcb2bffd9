# Samples of one variant, fold and z-bin.


rule generate:
    input:
        model=PATHS.model("{variant}", "{fold}") / "model.safetensors",
        given=lambda wildcards: generation_files(wildcards.variant, wildcards.fold),
    output:
        f"{PATHS.samples_stem('{variant}', '{fold}', '{zbin}')}.npz",
        f"{PATHS.samples_stem('{variant}', '{fold}', '{zbin}')}.tsv",
    log:
        LOGS / "generate" / "{variant}_fold-{fold}_zbin-{zbin}.log",
    benchmark:
        BENCHMARKS / "generate" / "{variant}_fold-{fold}_zbin-{zbin}.tsv"
    group:
        "generate"
    conda:
        CONDA
    resources:
        gpu=gpus("generation"),
        mem_mb=2000,
        runtime=240,
    params:
        config=part("generate"),
    message:
        "generate {wildcards.variant}, fold {wildcards.fold}, z-bin {wildcards.zbin}"
    shell:
        "slimdiff-generate --config {params.config:q} --variant {wildcards.variant} --fold {wildcards.fold} "
        "--z_bins {wildcards.zbin} 2>&1 | tee {log:q}"


rule generated:
    input:
        [path for variant in VARIANTS for fold in FOLDS for path in sample_files(variant, fold)],
    message:
        "every sample"
