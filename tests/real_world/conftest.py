"""Folders as users have them: empty files, because discovery reads names and tables only."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from slimdiff.config.data import DataConfig
from slimdiff.data.participants import Participant
from slimdiff.data.sources import discover


class Folder:
    """A dataset in a folder of the test's own."""

    def __init__(self, root: Path):
        self.root = root

    def add(self, *paths: str) -> None:
        """Empty files, paths relative to the folder."""
        for path in paths:
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).touch()

    def subjects(self, patients: Iterable[str], controls: Iterable[str] = ()) -> None:
        """A FLAIR image of each subject, and the lesion mask of each patient."""
        patients = list(patients)
        for name in (*patients, *controls):
            self.add(f"{name}/anat/{name}_FLAIR.nii.gz")
        self.add(*(f"{name}/anat/{name}_FLAIR_roi.nii.gz" for name in patients))

    def describe(self, *lines: str, name: str = "participants.tsv") -> Path:
        """A table with these lines, spaces being tabs."""
        path = self.root / name
        path.write_text("\n".join(line.replace(" ", "\t") for line in lines) + "\n")
        return path

    def read(self, **keys) -> dict[str, Participant]:
        """The participants of the BIDS source by name."""
        return self.discover(source="bids", root=str(self.root), **keys)

    def read_table(self, *lines: str, **keys) -> dict[str, Participant]:
        """The participants of a table with these lines; every named volume exists."""
        path = self.describe(*lines, name="table.tsv")
        self.add(*{word for line in lines for word in line.split() if word.endswith(".nii")})
        return self.discover(source="table", table=str(path), **keys)

    def discover(self, **keys) -> dict[str, Participant]:
        """The participants of any source by name."""
        return {row.participant_id: row for row in discover(DataConfig(**keys), Path("unused"))}


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def flags_of() -> Callable[[Participant], list[str]]:
    """Names of a participant's flags."""
    return lambda row: [flag.name for flag in row.flags]
