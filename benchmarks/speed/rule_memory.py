"""Peak memory of each rule beside its request: python benchmarks/speed/rule_memory.py --configfile config/demo.yaml

Reads the benchmark files of a finished study (results/{study}/benchmarks/) and evaluates the requests of its rules as
Snakemake does. Prints TSV: the largest `max_rss` of a rule's jobs, the request of the first attempt, their ratio, and
the requests of the next attempts. Snakemake looks at a job every few seconds, so the peak of a short job is higher than
its `max_rss`: --measure runs this command line in its folder and prints the true peak.

    python benchmarks/speed/rule_memory.py --measure slimdiff-compare --config config/demo.yaml
"""

import argparse
import csv
import os
import resource
import subprocess
import sys
from pathlib import Path

COLUMNS = ("rule", "jobs", "peak_mb", "request_mb", "ratio", "second_mb", "third_mb")
ATTEMPTS = (1, 2, 3)
ROOT = Path(__file__).resolve().parents[2]
WITHOUT_JOBS = ("all", "preprocessed", "trained", "generated")
"""Rules that only name targets."""


def requests(
    configfile: Path, folder: Path, cards: int | None = None, remote: bool = False
) -> dict[str, list[int]]:
    """Rule: largest mem_mb of its jobs at each of ATTEMPTS, of a study whose results are below a folder.

    cards: value of --resources gpu; None: not given.
    remote: whether jobs run on other machines.
    """
    from snakemake.api import SnakemakeApi
    from snakemake.settings.types import ConfigSettings, OutputSettings, Quietness, ResourceSettings

    given = ResourceSettings(
        cores=4, nodes=4 if remote else None, resources={} if cards is None else {"gpu": cards}
    )
    with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
        loaded = api.workflow(
            resource_settings=given,
            config_settings=ConfigSettings(configfiles=[Path(configfile).resolve()]),
            snakefile=ROOT / "Snakefile",
            workdir=folder,
        )
        workflow = loaded._workflow
        names = workflow.globals
        values = {
            "participant": list(names["PARTICIPANTS"]),
            "variant": names["VARIANTS"],
            "fold": names["FOLDS"],
            "zbin": names["Z_BINS"],
            "extractor": ["alexnet"],
        }
        found = {}
        for rule in workflow.rules:
            if rule.name in WITHOUT_JOBS:
                continue
            # All jobs of a rule differ in one wildcard at most: the participant, or the variant.
            varied = next((name for name in ("participant", "variant") if name in rule.wildcard_names), None)
            found[rule.name] = [0] * len(ATTEMPTS)
            for value in values[varied] if varied else [None]:
                chosen = {name: value if name == varied else values[name][0] for name in rule.wildcard_names}
                for place, attempt in enumerate(ATTEMPTS):
                    resources = rule.expand_resources(chosen, [], attempt)
                    found[rule.name][place] = max(found[rule.name][place], int(resources.mem_mb))
    return found


def peaks(folder: Path) -> dict[str, list[float]]:
    """Rule: max_rss of each of its jobs, from the benchmark files below a folder."""
    found: dict[str, list[float]] = {}
    for path in sorted(folder.rglob("*.tsv")):
        with path.open(newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        known = [float(row["max_rss"]) for row in rows if row["max_rss"] not in ("-", "NA", "")]
        name = path.relative_to(folder).parts[0].removesuffix(".tsv")
        found.setdefault(name, []).extend(known)
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--configfile", type=Path, default=ROOT / "config" / "demo.yaml")
    parser.add_argument("--folder", type=Path, default=Path(), help="where results/ is")
    parser.add_argument("--cards", type=int, help="value of --resources gpu")
    parser.add_argument("--remote", action="store_true", help="jobs on other machines, as with --jobs")
    parser.add_argument("--measure", nargs=argparse.REMAINDER, help="a command line whose peak is printed")
    options = parser.parse_args()
    if options.measure:
        code = subprocess.call(options.measure)
        print(f"{resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MB at its peak")
        sys.exit(code)
    asked = requests(options.configfile, options.folder.resolve(), options.cards, options.remote)
    from slimdiff.config import load_study

    name = load_study(options.configfile).study
    measured = peaks(options.folder.resolve() / "results" / name / "benchmarks")
    print(*COLUMNS, sep="\t")
    for rule, (first, second, third) in asked.items():
        jobs = measured.get(rule, [])
        peak = f"{max(jobs):.0f}" if jobs else "n/a"
        ratio = f"{first / max(jobs):.1f}" if jobs else "n/a"
        print(rule, len(jobs), peak, first, ratio, second, third, sep="\t")


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    main()
