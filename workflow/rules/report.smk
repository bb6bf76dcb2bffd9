# Figures, tables and provenance.


rule figures:
    input:
        participants=PATHS.participants,
        store=STORE,
        folds=outputs("kfold"),
        histories=[path for run in RUNS for path in outputs("train", *run)[1:3]],
        samples=every_sample(),
        metrics=every("metrics"),
        utility=every_utility(),
    output:
        figure("data.png", "1 Data", "data", result="participants, one slice each"),
        figure("training.svg", "2 Training", "training", figure="loss and speed", variant="all", fold="all"),
        figure("samples_{}.png", "3 Samples", "samples", figure="real beside synthetic"),
        figure(
            "metrics_by_variant.svg",
            "4 Metrics",
            "metrics_by_variant",
            result="metrics by variant",
            variant="all",
        ),
        figure("metrics_by_zbin_{}.svg", "4 Metrics", "metrics_by_zbin", result="metrics by height"),
        figure("lesions_{}.svg", "4 Metrics", "lesions", figure="lesions: place, size, shape, threshold"),
        figure("nearest_{}.png", "5 Memorisation", "nearest", figure="closest training slices"),
        figure("outliers_{}.png", "3 Samples", "outliers", figure="the most unusual samples"),
    log:
        LOGS / "figures.log",
    benchmark:
        BENCHMARKS / "figures.tsv"
    conda:
        CONDA
    resources:
        mem_mb=growing(2000),
        runtime=longer(20),
    params:
        config=needs("figures"),
        # For the captions.
        modality=STUDY.data.modality_name,
    message:
        "figures"
    shell:
        "slimdiff-figures --config {params.config:q} 2>&1 | tee {log:q}"


rule tables:
    input:
        participants=PATHS.participants,
        records=volume_records(),
        store=STORE,
        folds=outputs("kfold"),
        metrics=every("metrics"),
        utility=every_utility(),
        comparison=PATHS.comparison,
    output:
        table(
            "metrics.html",
            "4 Metrics",
            "metrics_table",
            result="table with intervals and floors",
            variant="all",
        ),
        table("metrics.tsv", "4 Metrics", "metrics_table", result="the same table as TSV", variant="all"),
        TABLES["metrics.tex"],
        table("comparison.html", "4 Metrics", "comparison", result="variants compared", variant="all"),
        table("comparison.tsv", "4 Metrics", "comparison", result="the comparison as TSV", variant="all"),
        table("participants.html", "1 Data", "participants", result="quality table and folds"),
    log:
        LOGS / "tables.log",
    benchmark:
        BENCHMARKS / "tables.tsv"
    conda:
        CONDA
    resources:
        mem_mb=growing(1500),
        runtime=longer(10),
    params:
        config=needs("tables"),
    message:
        "tables"
    shell:
        "slimdiff-tables --config {params.config:q} 2>&1 | tee {log:q}"


rule provenance:
    input:
        participants=PATHS.participants,
        records=volume_records(),
        store=STORE,
        models=[path for run in RUNS for path in outputs("train", *run)[:1]],
        folds=outputs("kfold"),
        samples=every_sample(),
        metrics=every("metrics"),
        # Last of all, so that the measured jobs are complete.
        compared=outputs("compare"),
        utility=every_utility(),
    output:
        shown(outputs("provenance")[0], "6 Provenance", "provenance", result="everything, as JSON"),
        shown(
            outputs("provenance")[1],
            "6 Provenance",
            "provenance",
            result="software, machine, hashes, configuration",
        ),
        shown(outputs("provenance")[2], "6 Provenance", "methods", result="methods in prose, with BibTeX"),
        outputs("provenance")[3:],
    log:
        LOGS / "provenance.log",
    benchmark:
        BENCHMARKS / "provenance.tsv"
    conda:
        CONDA
    resources:
        mem_mb=growing(1500),
        runtime=longer(10),
    params:
        config=needs("provenance"),
    message:
        "provenance"
    shell:
        "slimdiff-provenance --config {params.config:q} 2>&1 | tee {log:q}"
