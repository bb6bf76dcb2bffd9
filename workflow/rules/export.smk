# Real and synthetic slices for segmentation tools; not part of `all`: snakemake --cores all export


rule export:
    input:
        participants=PATHS.participants,
        # Whose affines the real slices get, where real slices are exported.
        volumes=volumes_of("image") if {"nnunet", "monai"} & set(STUDY.export.formats) else [],
        store=STORE,
        folds=outputs("kfold"),
        samples=every_sample(),
        # For the cards, and for what is left out.
        judged=every("metrics"),
    output:
        outputs("export", STUDY),
    log:
        LOGS / "export.log",
    benchmark:
        BENCHMARKS / "export.tsv"
    conda:
        CONDA
    resources:
        mem_mb=growing(export_mb),
        runtime=longer(240),
    params:
        config=needs("export"),
    message:
        "export"
    shell:
        "slimdiff-export --config {params.config:q} 2>&1 | tee {log:q}"
