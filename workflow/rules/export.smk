# Real and synthetic slices for segmentation tools; not part of `all`: snakemake --cores all export

from slimdiff.export.folder import index_file


rule export:
    input:
        participants=PATHS.participants,
        # Whose affines the real slices get, where real slices are asked for.
        volumes=volumes_of("FLAIR") if {"nnunet", "monai"} & set(STUDY.export.formats) else [],
        store=STORE_FILES,
        folds=PATHS.folds,
        samples=[path for cell in CELLS for path in sample_files(*cell)],
        suspects=CELL_METRICS if STUDY.export.without_suspects else [],
    output:
        [index_file(STUDY, form, *cell) for cell in CELLS for form in STUDY.export.formats],
    log:
        LOGS / "export.log",
    benchmark:
        BENCHMARKS / "export.tsv"
    conda:
        CONDA
    resources:
        mem_mb=2000,
        runtime=240,
    params:
        # Its own sections, which variants and folds there are, and the notice.
        config=json.dumps(
            json.loads(stage_config(STUDY, "export"))
            | {
                "variants": {variant: {} for variant in VARIANTS},
                "folds": {"k": len(FOLDS), "use_split": STUDY.folds.use_split},
                "report": {"notice": STUDY.report.notice},
            },
            sort_keys=True,
        ),
    message:
        "export"
    shell:
        "slimdiff-export --config {params.config:q} 2>&1 | tee {log:q}"
