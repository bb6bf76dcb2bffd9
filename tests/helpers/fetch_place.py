"""A small dataset, the server that has it, and the folder where it goes."""

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
    """A small dataset, the server that has it, and the folder where it goes."""

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

    def fetch(self, root: Path | None = None, manifest: Manifest | None = None, **settings) -> None:
        quick = {"dataset": "ds004199", "wait_s": 0.0, "timeout_s": 5.0, "attempts": 3, **settings}
        manifest = manifest or manifest_of(self.contents, self.site.url)
        fetch(FetchConfig(**quick), root or self.root, self.record, manifest)

    def wrong(self) -> list[str]:
        """Files that are not there, or not as they should be."""
        return [
            path
            for path, data in self.contents.items()
            if not (self.root / path).is_file() or (self.root / path).read_bytes() != data
        ]

    def partials(self) -> list[Path]:
        return sorted(self.root.rglob(".*.part"))


def corrupt(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])
