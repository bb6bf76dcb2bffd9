"""A good study to spoil, and what every refusal has in common."""

import contextlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.kills import partials
from helpers.synthetic import AFFINE, ball, head, save_nifti, study_mapping, write_bids

from slimdiff import cli

PATIENTS, CONTROLS = 3, 2
STATE = "results/tiny/quality/"
"""What was measured before a run stopped stays there, by design."""


@dataclass
class Workplace:
    """A folder with bids/, table.tsv with its volumes, study.yaml, and results of a good run."""

    folder: Path

    def values(self) -> dict:
        """The good study as a mapping; paths are relative to the folder."""
        values = study_mapping(Path("bids"), Path("results"))
        # The heads' voxels are 6 mm long.
        values["quality"] = {"max_spacing_mm": 7.0}
        return values

    def configure(self, changes: dict[str, Any] | None = None) -> None:
        """Write study.yaml: the good study with `changes`, dotted key: value."""
        values = self.values()
        for key, value in (changes or {}).items():
            *sections, last = key.split(".")
            place = values
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        (self.folder / "study.yaml").write_text(json.dumps(values))

    def image(self, name: str) -> Path:
        return self.folder / "bids" / name / "anat" / f"{name}_FLAIR.nii.gz"

    def mask(self, name: str) -> Path:
        return self.folder / "bids" / name / "anat" / f"{name}_FLAIR_roi.nii.gz"

    def run(self, command: str, *arguments: str) -> tuple[int, str]:
        """Exit status and standard error of a command on study.yaml."""
        with contextlib.chdir(self.folder), contextlib.redirect_stderr(io.StringIO()) as said:
            status = getattr(cli, command)(["--config", "study.yaml", *arguments])
        return status, said.getvalue()

    def files(self) -> dict[str, bytes]:
        """Every file below the folder by its relative path, without the state that runs keep."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            name = path.relative_to(self.folder).as_posix()
            if path.is_file() and not name.startswith(STATE):
                found[name] = path.read_bytes()
        return found

    def refuses(self, *wanted: str, command: str = "participants", arguments: tuple[str, ...] = ()) -> str:
        """Run a command that has to refuse: exit status 2, one message that holds all of `wanted`, no traceback,
        everything that was there before as it was, and nothing more. Returns the message.

        `wanted` are regular expressions; capital letters do not matter.
        """
        before = self.files()
        status, message = self.run(command, *arguments)
        assert status == 2, f"exit status {status}: {message}"
        assert "Traceback" not in message
        for pattern in wanted:
            assert re.search(pattern, message, re.IGNORECASE), f"{pattern!r} is not in: {message}"
        after = self.files()
        assert sorted(after) == sorted(before), "files came or went"
        assert [name for name in before if after[name] != before[name]] == [], "files were changed"
        assert partials(self.folder / STATE) == []
        return message


def write_table_source(folder: Path) -> None:
    """table.tsv of two patients and a control, with volumes of its own."""
    lines = ["participant_id\timage\tmask"]
    for number, name in enumerate(("p1", "p2", "c1"), start=50):
        volume, patient = head(number), name != "c1"
        if patient:
            lesion = ball((16, 14, 12 + number % 3), 3.5)
            volume[lesion] += 40
            save_nifti(folder / "volumes" / f"{name}_roi.nii.gz", lesion.astype("uint8"), AFFINE)
        save_nifti(folder / "volumes" / f"{name}.nii.gz", volume, AFFINE)
        mask = f"volumes/{name}_roi.nii.gz" if patient else "n/a"
        lines.append(f"{name}\tvolumes/{name}.nii.gz\t{mask}")
    (folder / "table.tsv").write_text("\n".join(lines) + "\n")


def write_nnunet_source(folder: Path) -> None:
    """nnunet/: two training cases with labels and one test case without."""
    root = folder / "nnunet"
    for number, name in enumerate(("case_001", "case_002"), start=60):
        volume, lesion = head(number), ball((16, 14, 14 + number % 2), 3.5)
        volume[lesion] += 40
        save_nifti(root / "imagesTr" / f"{name}_0000.nii.gz", volume)
        save_nifti(root / "labelsTr" / f"{name}.nii.gz", lesion.astype("uint8"))
    facts = {
        "channel_names": {"0": "FLAIR"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(facts))


def write_brats_source(folder: Path) -> None:
    """brats/: two cases in folders of their own, labels 1, 2 and 4."""
    for number, name in enumerate(("BraTS_001", "BraTS_002"), start=70):
        volume = head(number)
        labels = ball((16, 14, 14), 4).astype("uint8") + ball((16, 14, 14), 2.5) + 2 * ball((16, 14, 14), 1.2)
        volume[labels > 0] += 40
        save_nifti(folder / "brats" / name / f"{name}_flair.nii.gz", volume)
        save_nifti(folder / "brats" / name / f"{name}_seg.nii.gz", labels.astype("uint8"))


def write_good_study(folder: Path) -> None:
    """Every source, study.yaml, and the results of participants, preprocess, kfold and cache on the BIDS one."""
    write_bids(folder / "bids", PATIENTS, CONTROLS)
    write_table_source(folder)
    write_nnunet_source(folder)
    write_brats_source(folder)
    place = Workplace(folder)
    place.configure()
    for command in ("participants", "preprocess", "kfold", "cache"):
        status, message = place.run(command)
        assert status == 0, message
