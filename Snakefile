from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")

# The demo is the default study. Given --configfile, only that file counts: two studies are never merged.
# With --directory the working directory is another one than that of this file.
if not workflow.overwrite_configfiles:
    DEMO = "config/demo.yaml"

    configfile: DEMO if Path(DEMO).is_file() else workflow.source_path(DEMO)


include: "workflow/rules/common.smk"
include: "workflow/rules/inputs.smk"
include: "workflow/rules/memory.smk"
include: "workflow/rules/targets.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/generate.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/export.smk"


report: "workflow/report/workflow.rst"


# With --sdm apptainer every job runs in this image (envs/Containerfile).
if CONTAINER:

    container: CONTAINER


rule all:
    default_target: True
    input:
        ALL_TARGETS,


onstart:
    check_machine()
    clear_partials()
    # Snakemake rewrites its measurements in place.
    copy_annexed(BENCHMARKS)
    remove_links(BENCHMARKS)


onsuccess:
    # At exit, so that it is the last line that Snakemake prints.
    atexit.register(print, build_report(), file=sys.stderr)
