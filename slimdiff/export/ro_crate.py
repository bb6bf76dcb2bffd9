"""`ro-crate-metadata.json`: what a study's folder holds, for repositories and catalogues that read RO-Crate.

RO-Crate 1.1 with the profile Process Run Crate 0.5 (https://w3id.org/ro/wfrun/process): one action, the run of the
study, its software, and the files and folders that are made to be passed on (docs/publishing.md). Their hashes are in
`provenance.json`, which is part of the crate.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from slimdiff.config import Study, StudyPaths
from slimdiff.files import write_text
from slimdiff.redaction import folders_in, redacted

CONTEXT = "https://w3id.org/ro/crate/1.1/context"
SPECIFICATION = "https://w3id.org/ro/crate/1.1"
PROFILE, PROFILE_VERSION = "https://w3id.org/ro/wfrun/process/0.5", "0.5"
FOLDERS = {
    "samples": "Synthetic pairs of image and lesion mask: arrays, manifests and settings",
    "metrics": "Metrics of samples and of real slices",
    "tables": "Tables and pages of the report",
    "figures": "Figures of the report",
}
LICENCE = (
    "Not stated: models and samples are made from the images of the study, and the licence of these "
    "images decides what may be done with them."
)
TYPES = {".json": "application/json", ".md": "text/markdown", ".tsv": "text/tab-separated-values"}
SAFETENSORS = "application/octet-stream"


def write_crate(study: Study, facts: Mapping) -> None:
    """Write the crate's metadata into the study's folder; `facts`: the content of `provenance.json`."""
    paths, notice = study.paths, study.report.notice
    parts = [*_files(paths, facts), *_folders()]
    references = [{"@id": part["@id"]} for part in parts]
    described = (
        notice or f"Study {facts['study']} of slimdiff: models of MRI slices with lesion masks, and samples"
    )
    graph = [
        {
            "@id": paths.crate.name,
            "@type": "CreativeWork",
            "conformsTo": {"@id": SPECIFICATION},
            "about": {"@id": "./"},
        },
        {
            "@id": "./",
            "@type": "Dataset",
            "name": study.report.title,
            "description": described,
            "datePublished": facts["written"],
            "license": {"@id": "#licence"},
            "conformsTo": {"@id": PROFILE},
            "hasPart": references,
            "mentions": {"@id": "#run"},
        },
        {
            "@id": PROFILE,
            "@type": "CreativeWork",
            "name": "Process Run Crate",
            "version": PROFILE_VERSION,
        },
        {
            "@id": "#licence",
            "@type": "CreativeWork",
            "name": "Licence of the study's images",
            "description": study.report.licence or LICENCE,
        },
        *_run(facts, references),
        *parts,
    ]
    graph = redacted(graph, folders_in(study.model_dump(mode="json")))
    write_text(paths.crate, json.dumps({"@context": CONTEXT, "@graph": graph}, indent=1) + "\n")


def _run(facts: Mapping, results: list[dict]) -> Iterator[dict]:
    software = facts["software"]
    git, machine = software["git"], facts["machine"]
    version = software["slimdiff"] + (f", commit {git['commit']}" if git else "")
    seconds = sum(stage["seconds"] for stage in facts["jobs"].values())
    yield {
        "@id": "#run",
        "@type": "CreateAction",
        "name": f"Run of the study {facts['study']}",
        "description": f"{sum(stage['jobs'] for stage in facts['jobs'].values())} jobs, {seconds:.0f} s; the last on "
        f"{machine['cpu']} ({machine['platform']})",
        "endTime": facts["written"],
        "instrument": {"@id": "#slimdiff"},
        "result": results,
    }
    required = [_software("Python", software["python"], "https://www.python.org/")]
    for name, found in software["packages"].items():
        if found:
            required.append(_software(name, found, f"https://pypi.org/project/{name}/"))
    yield {
        "@id": "#slimdiff",
        "@type": "SoftwareApplication",
        "name": "slimdiff",
        "version": version,
        "url": "https://arxiv.org/abs/2602.03372",
        "softwareRequirements": [{"@id": entity["@id"]} for entity in required],
    }
    yield from required


def _software(name: str, version: str, address: str) -> dict:
    return {"@id": address, "@type": "SoftwareApplication", "name": name, "version": version, "url": address}


def _files(paths: StudyPaths, facts: Mapping) -> Iterator[dict]:
    yield _file(paths.root, paths.provenance, "Configuration, software, hardware, and hashes of all inputs")
    yield _file(paths.root, paths.tables / "methods.md", "What was done, as prose for a paper")
    for entry in facts["checkpoints"]:
        variant, fold = entry["variant"], entry["fold"]
        model = paths.model(variant, fold) / "model.safetensors"
        about = f"Trained network of variant {variant}, fold {fold}, after {entry['step']} steps"
        yield _file(paths.root, model, about) | {"sha256": entry["sha256"]}


def _file(root: Path, path: Path, about: str) -> dict:
    place = path.relative_to(root).as_posix()
    return {
        "@id": place,
        "@type": "File",
        "name": place,
        "description": about,
        "encodingFormat": TYPES.get(path.suffix, SAFETENSORS),
        **({"contentSize": str(path.stat().st_size)} if path.is_file() else {}),
    }


def _folders() -> Iterator[dict]:
    for name, about in FOLDERS.items():
        yield {"@id": f"{name}/", "@type": "Dataset", "name": name, "description": about}
