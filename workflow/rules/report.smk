# Figures, tables and provenance, and everything that `all` asks for.

CELLS = [(variant, fold) for variant in VARIANTS for fold in FOLDS]
CELL_METRICS = [path for cell in CELLS for path in metric_files(*cell)]
CELL_UTILITY = [path for cell in CELLS for path in utility_files(*cell)]

ALL_TARGETS = [
    str(path)
    for path in [
        PATHS.summary,
        PATHS.comparison,
        *CELL_UTILITY,
        *[PATHS.prior(fold) for fold in FOLDS],
        *[PATHS.figures / name for name in figure_names(VARIANTS)],
        *[PATHS.tables / name for name in TABLES],
        PATHS.provenance,
    ]
]


rule figures:
    input:
        participants=PATHS.participants,
        store=STORE_FILES,
        folds=PATHS.folds,
        histories=[
            str(PATHS.model(*cell) / name) for cell in CELLS for name in ("history.tsv", "validation.tsv")
        ],
        samples=[path for cell in CELLS for path in sample_files(*cell)],
        metrics=CELL_METRICS,
        utility=CELL_UTILITY,
    output:
        shown(PATHS.figures / "data.png", "1 Data", "data", result="participants, one slice each"),
        shown(
            PATHS.figures / "training.svg",
            "2 Training",
            "training",
            figure="loss and speed",
            variant="all",
            fold="all",
        ),
        shown_by_variant("samples_{}.png", "3 Samples", "samples", figure="real beside synthetic"),
        shown(
            PATHS.figures / "metrics_by_variant.svg",
            "4 Metrics",
            "metrics_by_variant",
            result="metrics by variant",
            variant="all",
        ),
        shown_by_variant("metrics_by_zbin_{}.svg", "4 Metrics", "metrics_by_zbin", result="metrics by height"),
        shown_by_variant(
            "lesions_{}.svg", "4 Metrics", "lesions", figure="lesions: place, size, shape, threshold"
        ),
        shown_by_variant("nearest_{}.png", "5 Memorisation", "nearest", figure="closest training slices"),
    log:
        LOGS / "figures.log",
    benchmark:
        BENCHMARKS / "figures.tsv"
    conda:
        CONDA
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        config=report_config(),
    message:
        "figures"
    shell:
        "slimdiff-figures pictures --config {params.config:q} 2>&1 | tee {log:q}"


rule tables:
    input:
        participants=PATHS.participants,
        records=volume_records(),
        store=STORE_FILES,
        folds=PATHS.folds,
        metrics=CELL_METRICS,
        utility=CELL_UTILITY,
        comparison=PATHS.comparison,
    output:
        shown(
            PATHS.tables / "metrics.html",
            "4 Metrics",
            "metrics_table",
            result="table with intervals and floors",
            variant="all",
        ),
        shown(
            PATHS.tables / "metrics.tsv",
            "4 Metrics",
            "metrics_table",
            result="the same table as TSV",
            variant="all",
        ),
        PATHS.tables / "metrics.tex",
        shown(
            PATHS.tables / "comparison.html",
            "4 Metrics",
            "comparison",
            result="variants compared",
            variant="all",
        ),
        shown(
            PATHS.tables / "comparison.tsv",
            "4 Metrics",
            "comparison",
            result="the comparison as TSV",
            variant="all",
        ),
        shown(PATHS.tables / "participants.html", "1 Data", "participants", result="quality table and folds"),
    log:
        LOGS / "tables.log",
    benchmark:
        BENCHMARKS / "tables.tsv"
    conda:
        CONDA
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        config=report_config(),
    message:
        "tables"
    shell:
        "slimdiff-figures tables --config {params.config:q} 2>&1 | tee {log:q}"


rule provenance:
    input:
        participants=PATHS.participants,
        records=volume_records(),
        store=STORE_FILES,
        models=[str(PATHS.model(*cell) / "model.safetensors") for cell in CELLS],
        # Last of all, so that the measured jobs are complete.
        summary=PATHS.summary,
        utility=CELL_UTILITY,
    output:
        shown(PATHS.provenance, "6 Provenance", "provenance", result="everything, as JSON"),
        shown(
            PATHS.tables / "provenance.html",
            "6 Provenance",
            "provenance",
            result="software, machine, hashes, configuration",
        ),
    log:
        LOGS / "provenance.log",
    benchmark:
        BENCHMARKS / "provenance.tsv"
    conda:
        CONDA
    resources:
        mem_mb=1500,
        runtime=10,
    params:
        # The one job that gets the whole study, because it records it.
        config=json.dumps(STUDY.model_dump(mode="json"), sort_keys=True),
    message:
        "provenance"
    shell:
        "slimdiff-figures provenance --config {params.config:q} 2>&1 | tee {log:q}"
