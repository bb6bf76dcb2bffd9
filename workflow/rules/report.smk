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
        page(FIGURES["data.png"], "1 Data", "data", "participants, one slice each"),
        page(FIGURES["training.svg"], "2 Training", "training", "loss, validation, speed"),
        page(FIGURES["samples_{}.png"], "3 Samples", "samples", "real beside synthetic"),
        page(FIGURES["outliers_{}.png"], "3 Samples", "outliers", "the most unusual samples"),
        page(FIGURES["metrics_by_zbin_{}.svg"], "4 Metrics", "metrics_by_zbin", "metrics by height"),
        page(FIGURES["lesions_{}.svg"], "4 Metrics", "lesions", "lesions: place, size, shape, threshold"),
        page(FIGURES["metrics_by_variant.svg"], "4 Metrics", "metrics_by_variant", "wall of panels (details)"),
        page(FIGURES["nearest_{}.png"], "5 Copies", "nearest", "closest training slices"),
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
        histories=[path for run in RUNS for path in outputs("train", *run)[1:3]],
        samples=every_sample(),
    output:
        TABLES["front.html"],
        TABLES["metrics.tex"],
        TABLES["metrics.md"],
        page(TABLES["samples_{}.html"], "3 Samples", "browse", "every sample, with filters"),
        page(TABLES["metrics.html"], "4 Metrics", "metrics_table", "all metrics with intervals"),
        page(TABLES["metrics.tsv"], "4 Metrics", "metrics_table", "all metrics as TSV"),
        page(TABLES["comparison.html"], "4 Metrics", "comparison", "variants compared"),
        page(TABLES["comparison.tsv"], "4 Metrics", "comparison", "variants compared, as TSV"),
        page(TABLES["participants.html"], "1 Data", "participants", "participants, slices, folds"),
        page(TABLES["usefulness.html"], "6 Usefulness", "usefulness", "segmenters with and without samples"),
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
        page(outputs("provenance", STUDY)[:1], "8 Provenance and cost", "provenance", "everything, as JSON"),
        page(
            outputs("provenance", STUDY)[1:2],
            "8 Provenance and cost",
            "provenance",
            "software, machine, jobs, hashes",
        ),
        page(outputs("provenance", STUDY)[2:3], "7 Methods", "methods", "methods in prose, with BibTeX"),
        outputs("provenance", STUDY)[3:],
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
