"""`provenance.json` as a page."""

import html
import json
from collections.abc import Mapping

from slimdiff.report import markup

SHOWN_OF_HASH = 16


def provenance_page(facts: Mapping, title: str, notice: str) -> str:
    """The facts for reading; the JSON file has the whole hashes."""
    software, machine = facts["software"], facts["machine"]
    git = software["git"]
    commit = "not run from a git checkout with a commit"
    if git:
        commit = git["commit"] + (", with changes that are not committed" if git["changed"] else "")
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_gb']:g} GB)" for gpu in machine["gpus"]) or "none"
    packages = ", ".join(f"{name} {version or 'absent'}" for name, version in software["packages"].items())
    body = [
        "<h2>Software</h2>",
        _list({"slimdiff": software["slimdiff"], "git commit": commit, "Python": software["python"]}),
        f"<p>{markup.text(packages)}</p>",
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
    return markup.page(title, notice, "\n".join(body))


def _short(value: str | None) -> str:
    return f"{value[:SHOWN_OF_HASH]}…" if value else "–"


def _hashes(values: Mapping[str, str]) -> dict[str, str]:
    return {f"sha256 of {name}": _short(value) for name, value in values.items()}


def _list(values: Mapping) -> str:
    return (
        "<dl>"
        + "".join(f"<dt>{markup.text(k)}</dt><dd>{markup.text(v)}</dd>" for k, v in values.items())
        + "</dl>"
    )


def _row(cells, head: bool = False) -> str:
    tag = "th" if head else "td"
    return "<tr>" + "".join(f"<{tag}>{markup.text(cell)}</{tag}>" for cell in cells) + "</tr>"


def _checkpoints(checkpoints) -> str:
    head = _row(("variant", "fold", "steps", "precision", "torch", "sha256", "training data"), head=True)
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
            _short(entry["sha256"]),
            same,
        )
        rows.append(_row(cells))
    return markup.table(head, rows)


def _jobs(jobs: Mapping[str, Mapping]) -> str:
    if not jobs:
        return "<p>n/a: no job was measured; the workflow measures, single commands do not.</p>"
    head = _row(("stage", "jobs", "minutes in all", "peak memory [MB]"), head=True)
    rows = [
        _row((n, j["jobs"], f"{j['seconds'] / 60:.1f}", f"{j['peak_memory_mb']:.0f}"))
        for n, j in jobs.items()
    ]
    return markup.table(head, rows)


def _volumes(volumes: Mapping[str, Mapping]) -> str:
    head = _row(("participant", "image, sha256", "mask, sha256"), head=True)
    rows = []
    for name, entry in volumes.items():
        if "excluded" in entry:
            rows.append(_row((name, f"excluded: {entry['excluded']}", "–")))
        else:
            rows.append(_row((name, _short(entry["image"]), _short(entry["mask"]))))
    return markup.table(head, rows)
