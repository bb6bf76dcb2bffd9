"""A small dataset, its server, and the folder that it is fetched into."""

import hashlib
from pathlib import Path, PurePosixPath

import numpy as np

from slimdiff.config.data import FetchConfig
from slimdiff.data.fetch.dataset import fetch
from slimdiff.data.fetch.download import File, Manifest

IMAGE = "sub-1/anat/sub-1_FLAIR.nii.gz"


TABLE = "participants.tsv"


T1W = "sub-1/anat/sub-1_T1w.nii.gz"


BASE = "pub/"


def manifest_of(contents: dict[str, bytes], base_url: str) -> Manifest:
    files = [
        File(PurePosixPath(path), len(data), hashlib.sha256(data).hexdigest())
        for path, data in contents.items()
    ]
    return Manifest("made", "1.0", "10.0/made", base_url, tuple(files), "5" * 64)


class Place:
    """A small dataset, its server, and the folder that it is fetched into."""

    def __init__(self, site, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.site, self.root, self.record = site, folder / "data", folder / "results" / "fetched.json"
        self.contents = {
            TABLE: b"participant_id\nsub-1\n",
            IMAGE: rng.bytes(300_000),
            "sub-2/anat/sub-2_FLAIR.nii.gz": rng.bytes(200_000),
            "sub-2/anat/sub-2_FLAIR_roi.nii.gz": rng.bytes(1_000),
        }
        self.publish()

    def publish(self, **more: bytes) -> None:
        self.contents |= more
        self.site.contents = {BASE + path: data for path, data in self.contents.items()}

    def fault(self, path: str, *faults) -> None:
        self.site.faults[BASE + path] = list(faults)

    def asked(self, path: str) -> list:
        return self.site.requests(BASE + path)

    def fetch(
        self, manifest: Manifest | None = None, base_url: str | None = None, image_suffix: str | None = None
    ) -> None:
        settings = FetchConfig(dataset="ds004199", base_url=base_url)
        manifest = manifest or manifest_of(self.contents, self.site.url)
        fetch(settings, self.root, self.record, image_suffix, manifest)

    def wrong(self) -> list[str]:
        """Missing files and files with wrong content."""
        return [
            path
            for path, data in self.contents.items()
            if not (self.root / path).is_file() or (self.root / path).read_bytes() != data
        ]

    def partials(self) -> list[Path]:
        return sorted(self.root.rglob(".*.part"))


def corrupt(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])
