"""Where the results come from: configuration, software, machine, and hashes of inputs and weights."""

import html
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import pandas as pd

import slimdiff
from slimdiff.config import VARIANT_SECTIONS, Study, StudyPaths
from slimdiff.data.participants import read_included
from slimdiff.data.store import SliceStore
from slimdiff.data.volumes.input_fingerprint import SOURCES
from slimdiff.dataframes import read_frame
from slimdiff.files import CHECKSUM, read_object, sha256, write_text
from slimdiff.redaction import folders_in, redacted
from slimdiff.report import html_page
from slimdiff.report.methods import methods_of

SHOWN_OF_HASH = 16


def provenance_page(facts: Mapping, title: str, notice: str) -> str:
    """The facts as HTML; the JSON file has the complete hashes."""
    software, machine = facts["software"], facts["machine"]
    git = software["git"]
    commit = "not run from a git checkout"
    if git:
        commit = git["commit"] + (", with uncommitted changes" if git["changed"] else "")
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_gb']:g} GB)" for gpu in machine["gpus"]) or "none"
    packages = ", ".join(
        f"{name} {version or 'not installed'}" for name, version in software["packages"].items()
    )
    body = [
        "<h2>Software</h2>",
        _list({"slimdiff": software["slimdiff"], "git commit": commit, "Python": software["python"]}),
        f"<p>{html_page.text(packages)}</p>",
        "<h2>Machine</h2>",
        '<p class="quiet">The machine that wrote this page; on a cluster, training may have run on another.</p>',
        _list(
            {
                "system": machine["platform"],
                "processor": f"{machine['cpu']}, {machine['cpus']} logical cores usable",
                "memory": f"{machine['memory_gb']} GB" if machine["memory_gb"] else "n/a",
                "GPU": gpus,
                "CUDA of torch": machine["cuda"] or "none",
                "torch threads": machine["torch_threads"],
                "written": facts["written"],
            }
        ),
        "<h2>Checkpoints</h2>",
        _checkpoints(facts["checkpoints"]),
        "<h2>Pretrained extractors</h2>",
        _list({name: _short(value) for name, value in facts["extractors"].items()}),
        "<h2>Slice store</h2>",
        _list({"shape": " × ".join(map(str, facts["store"]["shape"]))} | _hashes(facts["store"]["sha256"])),
        "<h2>Jobs</h2>",
        _jobs(facts["jobs"]),
        "<h2>Source volumes</h2>",
        _volumes(facts["source_volumes"]),
        "<h2>Configuration</h2>",
        f"<pre>{html.escape(json.dumps(facts['config'], indent=1))}</pre>",
    ]
    return html_page.page(title, notice, "\n".join(body))


def _short(value: str | None) -> str:
    return f"{value[:SHOWN_OF_HASH]}…" if value else "–"


def _hashes(values: Mapping[str, str]) -> dict[str, str]:
    return {f"sha256 of {name}": _short(value) for name, value in values.items()}


def _list(values: Mapping) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{html_page.text(k)}</dt><dd>{html_page.text(v)}</dd>" for k, v in values.items())
        + "</dl>"
    )


def _row(cells, head: bool = False) -> str:
    tag = "th" if head else "td"
    return "<tr>" + "".join(f"<{tag}>{html_page.text(cell)}</{tag}>" for cell in cells) + "</tr>"


def _checkpoints(checkpoints) -> str:
    head = _row(
        ("variant", "fold", "steps", "precision", "torch", "trained on", "sha256", "training data"), head=True
    )
    rows = []
    for entry in checkpoints:
        same = "this store" if entry["trained_on_this_store"] else "ANOTHER STORE: train again"
        torch = entry["versions"].get("torch", "n/a")
        cells = (
            entry["variant"],
            entry["fold"],
            entry["step"],
            entry["precision"],
            torch,
            entry["hardware"] or "n/a",
            _short(entry["sha256"]),
            same,
        )
        rows.append(_row(cells))
    return html_page.table(head, rows)


def _jobs(jobs: Mapping[str, Mapping]) -> str:
    if not jobs:
        return "<p>n/a: no job was measured; only the workflow measures its jobs.</p>"
    head = _row(("stage", "jobs", "minutes, total", "of the processor", "peak memory [MB]"), head=True)
    rows = [
        _row(
            (
                n,
                j["jobs"],
                f"{j['seconds'] / 60:.1f}",
                f"{j['cpu_seconds'] / 60:.1f}",
                f"{j['peak_memory_mb']:.0f}",
            )
        )
        for n, j in jobs.items()
    ]
    return html_page.table(head, rows)


def _volumes(volumes: Mapping[str, Mapping]) -> str:
    head = _row(("participant", "image, sha256", "mask, sha256"), head=True)
    rows = []
    for name, entry in volumes.items():
        if "excluded" in entry:
            rows.append(_row((name, f"excluded: {entry['excluded']}", "–")))
        else:
            rows.append(_row((name, _short(entry["image"]), _short(entry["mask"]))))
    return html_page.table(head, rows)


PACKAGES = (
    "torch",
    "numpy",
    "pydantic",
    "safetensors",
    "snakemake",
    "torchvision",
    "nibabel",
    "nilearn",
    "SimpleITK",
    "deepbet",
    "scipy",
    "scikit-image",
    "matplotlib",
    "torch-fidelity",
    "lpips",
)


def gather(study: Study, variants: Sequence[str], folds: int) -> dict:
    """The content of `provenance.json`, from the files of the study."""
    paths = study.paths
    store = SliceStore.open(paths.store)
    config = study.model_dump(mode="json")
    facts = {
        "study": study.study,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": software(),
        "machine": machine(),
        "config": config,
        "variants": {name: _resolved(study, name) for name in variants},
        "source_volumes": source_hashes(paths),
        "store": {"shape": store.facts["shape"], "sha256": store.facts["sha256"]},
        "checkpoints": [
            checkpoint(paths, variant, fold, store.data_hash) for variant in variants for fold in range(folds)
        ],
        "extractors": extractors(study),
        "jobs": jobs(paths.root / "benchmarks"),
    }
    return redacted(facts, folders_in(config))


def _resolved(study: Study, variant: str) -> dict:
    resolved = study.variant(variant)
    return {section: getattr(resolved, section).model_dump(mode="json") for section in VARIANT_SECTIONS}


def software() -> dict:
    """Versions, and the commit if the package runs from a checkout."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "slimdiff": slimdiff.__version__,
        "git": git_state(Path(slimdiff.__file__).parent),
        "python": platform.python_version(),
        "packages": versions,
    }


def git_state(folder: Path) -> dict | None:
    """Commit, and whether tracked files differ from it; None if `folder` is not part of a git checkout."""

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # A package that is installed inside another project's checkout is not part of it.
    if git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}


def machine() -> dict:
    """Processor, memory, GPUs and threads; no names of hosts, users or folders."""
    import torch

    from slimdiff.devices import processor

    gpus = [
        {
            "name": torch.cuda.get_device_name(index),
            "memory_gb": round(torch.cuda.get_device_properties(index).total_memory / 1e9, 1),
        }
        for index in range(torch.cuda.device_count())
    ]
    return {
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": processor(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "torch_threads": torch.get_num_threads(),
    }


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def source_hashes(paths: StudyPaths) -> dict[str, dict]:
    """sha256 of image and mask of every participant, or why it is excluded."""
    result = {}
    for person in read_included(paths.participants, paths.volume_json):
        record = paths.volume_json(person.participant_id)
        if not person.included:
            result[person.participant_id] = {"excluded": person.excluded}
        elif record.is_file():
            result[person.participant_id] = read_object(record)[SOURCES]
    return result


def checkpoint(paths: StudyPaths, variant: str, fold: int, data_hash: str) -> dict:
    """Facts from a checkpoint's card, its sha256, and whether it was trained on this slice store."""
    from slimdiff.model.archive import TENSORS, read_record
    from slimdiff.model.checkpoint import KEY, REMEDY, read_card

    file = paths.model(variant, fold) / "model.safetensors"
    card = asdict(read_card(file))
    checksums = read_record(file, KEY, "model card", REMEDY)[0].get(CHECKSUM, {})
    kept = {key: card[key] for key in ("step", "precision", "versions", "data_hash")}
    return {
        "variant": variant,
        "fold": fold,
        "sha256": sha256(file),
        "weights_sha256": checksums.get(TENSORS),
        "hardware": (card["training_run"] or {}).get("hardware"),
        **kept,
        "trained_on_this_store": card["data_hash"] == data_hash,
    }


def extractors(study: Study) -> dict[str, str]:
    """The fingerprint of every pretrained network that a metric uses."""
    from slimdiff.weights import fingerprint

    lpips = {"alex": "alexnet", "vgg": "vgg16"}[study.evaluation.lpips_net]
    return {name: fingerprint(name) for name in dict.fromkeys((*study.evaluation.extractors, lpips))}


def jobs(folder: Path) -> dict[str, dict]:
    """Jobs of each stage as the workflow measured them: how many, wall-clock and processor seconds in total, peak
    memory."""
    tables = [
        read_frame(path, ("s",)).assign(stage=path.relative_to(folder).parts[0].removesuffix(".tsv"))
        for path in sorted(folder.rglob("*.tsv"))
    ]
    if not tables:
        return {}
    rows = pd.concat(tables).reindex(columns=["stage", "s", "cpu_time", "max_rss"])
    # Snakemake writes NA for a job that ended before it could be measured.
    numbers = ["s", "cpu_time", "max_rss"]
    rows[numbers] = rows[numbers].apply(pd.to_numeric, errors="coerce")
    stages = rows.groupby("stage").agg(
        jobs=("s", "size"),
        seconds=("s", "sum"),
        cpu_seconds=("cpu_time", "sum"),
        peak_memory_mb=("max_rss", "max"),
    )
    stages = stages.fillna(0.0).round({"seconds": 1, "cpu_seconds": 1})
    return stages.to_dict("index")


def write_provenance(study: Study, variants: Sequence[str], folds: int) -> dict:
    """Write `provenance.json`, its page `tables/provenance.html`, and the methods text (`methods`); returns the facts
    of the first."""
    facts = gather(study, variants, folds)
    write_text(study.paths.provenance, json.dumps(facts, indent=1) + "\n")
    page = provenance_page(facts, f"{study.report.title}: provenance", study.report.notice)
    write_text(study.paths.tables / "provenance.html", page)
    methods, title = methods_of(study, variants, folds, facts["software"]), f"{study.report.title}: methods"
    write_text(study.paths.tables / "methods.md", methods.markdown(title, study.report.notice))
    page = html_page.page(title, study.report.notice, methods.body())
    write_text(study.paths.tables / "methods.html", page)
    return facts
