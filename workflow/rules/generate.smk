# Samples of one variant, fold and z-bin.


rule generate:
    input:
        model=outputs("train")[0],
        further=generation_inputs,
    output:
        outputs("generate"),
    log:
        LOGS / "generate" / "{variant}_fold-{fold}_zbin-{zbin}.log",
    benchmark:
        BENCHMARKS / "generate" / "{variant}_fold-{fold}_zbin-{zbin}.tsv"
    conda:
        CONDA
    resources:
        gpu=gpus("generation"),
        mem_mb=growing(generate_mb),
        runtime=longer(240),
    params:
        config=needs("generate"),
    message:
        "generate {wildcards.variant}, fold {wildcards.fold}, z-bin {wildcards.zbin}"
    shell:
        "slimdiff-generate --config {params.config:q} --variant {wildcards.variant} --fold {wildcards.fold} "
        "--z-bins {wildcards.zbin} 2>&1 | tee {log:q}"


rule generated:
    input:
        every_sample(),
    message:
        "every sample"
