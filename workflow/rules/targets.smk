# Everything that `all` asks for, and report.html once it is there.

import atexit
import contextlib
import sys

from slimdiff.files import copy_annexed, remove_links, remove_partials
from slimdiff.preflight.estimate import estimate
from slimdiff.preflight.machine import RunOptions, as_text, findings, plan_line
from slimdiff.report import engine_report


def samples_of(variant, fold):
    """Sample files of all z-bins of one variant and fold."""
    return [path for z_bin in Z_BINS for path in outputs("generate", variant, fold, z_bin)]


def every_sample():
    """Sample files of all variants and folds."""
    return [path for run in RUNS for path in samples_of(*run)]


def every_utility():
    """Scores of the segmenters of all variants and folds; none where the study disables them."""
    return [path for run in RUNS for path in outputs("utility", *run)[:1]] if STUDY.utility.enabled else []


FIGURES = stages.module_of("figures").outputs(PATHS, VARIANTS)
TABLES = stages.module_of("tables").outputs(PATHS, VARIANTS)

ALL_TARGETS = [
    *outputs("compare"),
    *every_utility(),
    *[path for fold in FOLDS for path in outputs("priors", fold)],
    *[str(path) for paths in FIGURES.values() for path in paths],
    *[str(path) for paths in TABLES.values() for path in paths],
    *outputs("quality"),
    *outputs("provenance", STUDY),
]


def page(files, category, caption, words):
    """The files of one figure or table in the report, each labelled; with its variant where the study has several."""
    names = [f"{words}: {name}" for name in VARIANTS] if len(files) == len(VARIANTS) > 1 else [words]
    return [shown(path, category, caption, page=name) for path, name in zip(files, names)]


def check_machine():
    """Print what will stop or slow these jobs on this machine, and the study's cost; raise where they cannot run."""
    run = RunOptions(
        cores=workflow.resource_settings.cores or 1,
        gpus=GPUS,
        remote=REMOTE,
        rules={job.rule.name for job in workflow.dag.needrun_jobs(exclude_finished=False)},
    )
    if not run.rules:
        return
    cost = estimate(STUDY, len(PARTICIPANTS), run.cores, run.gpus or 0)
    found = findings(STUDY, run, cost)
    print(as_text(STUDY.study, found, plan_line(STUDY, run, cost)), file=sys.stderr)
    if any(finding.stops for finding in found) and not (workflow.dryrun or workflow.touch):
        raise WorkflowError("the check of this machine found what stops this study; see above")


if workflow.is_main_process:
    # Behind the list of jobs of a dry run, which has no hook.
    atexit.register(lambda: workflow.dryrun and workflow.dag and check_machine())


def clear_partials():
    """Remove the temporary files that killed jobs left of what this run writes.

    A job of a killed engine that still runs then fails, and loses nothing: this run makes its files.
    """
    jobs = workflow.dag.needrun_jobs(exclude_finished=False)
    remove_partials(*[Path(path) for job in jobs for path in job.output])


WORKDIR = Path.cwd()
REPORT_DUE = Path(".snakemake") / f"report-{re.sub('[^A-Za-z0-9]', '-', str(PATHS.root))}"
"""This file exists while the report is built, so that the next run finds a build that was killed."""


def build_report():
    """Build report.html when every target of `all` exists; returns a line that says where it is."""
    missing = [target for target in ALL_TARGETS if not Path(target).exists()]
    if missing:
        return f"no report yet: {len(missing)} targets of `all` are missing, the first is {missing[0]}"
    REPORT_DUE.touch()
    try:
        engine_report.build(workflow.main_snakefile, config, STUDY.model_dump(mode="json"), PATHS.report)
    except engine_report.ReportError as error:
        raise WorkflowError(str(error))
    REPORT_DUE.unlink()
    return f"report: {PATHS.report}"


def build_due_report():
    """Build a report that is missing or was not finished, where no job is left: Snakemake then calls no hook."""
    run = workflow.execution_settings
    # Without settings nothing runs: --unlock, --report, ...
    if run is None or run.no_hooks or workflow.dryrun or workflow.touch or workflow.dag is None:
        return
    jobs = any(True for _ in workflow.dag.needrun_jobs(exclude_finished=False))
    if jobs or ((WORKDIR / PATHS.report).exists() and not (WORKDIR / REPORT_DUE).exists()):
        return
    try:
        # At exit Snakemake has left the folder of --directory.
        with contextlib.chdir(WORKDIR):
            print(build_report(), file=sys.stderr)
    except WorkflowError as error:
        print(error, file=sys.stderr, flush=True)
        # The exit status is set already.
        os._exit(1)


if workflow.is_main_process:
    atexit.register(build_due_report)
