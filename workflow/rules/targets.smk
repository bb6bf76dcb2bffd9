# Everything that `all` asks for, and report.html once it is there.

import atexit
import json
import subprocess
import sys

from slimdiff.files import copy_annexed, write_text

FIGURES = stages.module_of("figures").outputs(PATHS, VARIANTS)
TABLES = stages.module_of("tables").outputs(PATHS)

ALL_TARGETS = [
    *outputs("compare"),
    *every_utility(),
    *[path for fold in FOLDS for path in outputs("priors", fold)],
    *[str(path) for paths in FIGURES.values() for path in paths],
    *map(str, TABLES.values()),
    *outputs("quality"),
    *outputs("provenance"),
]


def figure(name, category, caption, **labels):
    """The figures of one name; a figure of one variant is labelled with it."""
    paths = FIGURES[name]
    own = [{"variant": variant} for variant in VARIANTS] if "{}" in name else [{}]
    return [shown(path, category, caption, **more, **labels) for path, more in zip(paths, own)]


def table(name, category, caption, **labels):
    """A table of the report."""
    return shown(TABLES[name], category, caption, **labels)


def build_report():
    """Build report.html when every target of `all` exists, and print where it is."""
    missing = [target for target in ALL_TARGETS if not Path(target).exists()]
    if missing:
        print(f"no report yet: {len(missing)} targets of `all` are missing, the first is {missing[0]}")
        return
    merged, draft = PATHS.root / "config.json", PATHS.root / ".report.html"
    write_text(merged, json.dumps(config, indent=1))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(workflow.main_snakefile)]
    command += ["--configfile", str(merged), "--report", str(draft), "--nolock", "--quiet", "all"]
    done = subprocess.run(command, capture_output=True, text=True)
    # A broken caption is only a text in the page, not an error of Snakemake.
    broken = draft.is_file() and "(ERROR/3)" in draft.read_text(encoding="utf-8")
    if done.returncode or broken:
        draft.unlink(missing_ok=True)
        print(done.stdout + done.stderr, file=sys.stderr)
        raise WorkflowError("the report could not be built" + (": a caption is broken" if broken else ""))
    draft.replace(PATHS.report)
    # At exit, so that it is the last line that Snakemake prints.
    atexit.register(print, f"report: {PATHS.report}", file=sys.stderr)
