"""Draw a few samples from a tiny checkpoint."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from slimdiff.config.generation import GenerationConfig
from slimdiff.files import read_object, read_table, write_table
from slimdiff.generation.folder import Job
from slimdiff.generation.generator import Generator
from slimdiff.generation.remake import remake_jobs, same_bits
from slimdiff.generation.requests import Request, requests_of_bin, requests_of_bins
from slimdiff.generation.samples import MANIFEST, OLD_COLUMNS, read_manifest

CONFIG = GenerationConfig(evaluations=4, per_bin_and_class=2, batch_size=4, device="cpu")
SAMPLERS = [{"sampler": "dpmpp_2m"}, {"sampler": "ddim", "eta": 0.2}, {"sampler": "ddim", "eta": 0.0}]
EVERY_SAMPLER = [*SAMPLERS, *({"sampler": name} for name in ("dpmpp_2m_sde", "unipc", "ddpm"))]


def generator_of(trained, **changes) -> Generator:
    return Generator(trained, CONFIG.model_copy(update=changes))


def mixed_requests(config=CONFIG, count=9) -> list[Request]:
    """Requests of several bins and classes."""
    every = [request for z_bin in range(3) for request in requests_of_bin(config, 0, "base", z_bin)]
    return every[:count]


def fill(generator: Generator, counts, folder: Path, z_bins=None) -> None:
    """Draw the samples of a study's configuration into a folder; counts None: the same number of each class."""
    z_bins = range(generator.card.n_bins) if z_bins is None else z_bins
    requests = requests_of_bins(generator.config, 0, "base", z_bins, counts)
    Job(generator.checkpoint, generator.config, folder, requests).draw(generator)


def remake_samples(manifest: Path, ids, folder: Path, *arguments, **options) -> dict[str, bool | None]:
    """Draw samples of a manifest again, as `slimdiff-generate --from-manifest`; whether each has the same bits."""
    for job in remake_jobs(manifest, ids, folder, *arguments, **options):
        job.draw()
    return same_bits(manifest, ids, folder)


def settings_in(stem: Path) -> dict:
    """The settings in the JSON of a sample file, without their checksum and that of the manifest."""
    values = read_object(Path(stem).with_suffix(".json"))
    values.pop(MANIFEST, None)
    return values


def change_settings(stem: Path, **changes) -> None:
    """Change values in the settings of a sample file; keys of `generation` are nested under it."""
    values = settings_in(stem)
    values["generation"] |= changes.pop("generation", {})
    Path(stem).with_suffix(".json").write_text(json.dumps(values | changes))


def make_old(folder: Path) -> None:
    """Rewrite a folder of samples in the old form: all settings in each manifest row, no JSON."""
    for manifest in sorted(Path(folder).glob("*.tsv")):
        stem = manifest.with_suffix("")
        rows, settings = read_manifest(stem)
        config = settings.config()
        low, high = config.guidance_interval or (0, "inf")
        stochastic = {"ddim": config.eta, "ddim_ref": config.eta, "ddpm": 1.0}
        shared = asdict(settings) | {
            "sampler": config.sampler,
            "evaluations": config.evaluations,
            "spacing": "leading" if config.sampler == "ddim_ref" else config.spacing,
            "eta": repr(stochastic.get(config.sampler, 0.0)),
            "guidance": repr(config.guidance),
            "guidance_low": low,
            "guidance_high": high,
            "guide": config.guide,
            "tau": repr(config.tau),
            "background": config.background,
            "binary": int(config.binary),
        }
        runs = settings.runs_of([row["id"] for row in rows])
        rows = [
            row | shared | asdict(runs[row["id"]]) | {"compiled": int(runs[row["id"]].compiled)}
            for row in rows
        ]
        further = [name for name in ("mode", "source") if rows and name in rows[0]]
        write_table(manifest, rows, [*OLD_COLUMNS, *further])
        stem.with_suffix(".json").unlink()


def rows_in(stem: Path) -> list[dict[str, str]]:
    """The manifest rows of a file."""
    return read_table(Path(stem).with_suffix(".tsv"))


def assert_equal(one, two):
    for a, b in zip(one, two, strict=True):
        assert a.dtype == b.dtype == np.float16
        np.testing.assert_array_equal(a.view(np.uint16), b.view(np.uint16))
