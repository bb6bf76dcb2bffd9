"""Who cannot be preprocessed takes no part, as `quality.policy` wants it, and stays in the tables with the reason."""

import json

import numpy as np
import pytest
from helpers.synthetic import save_nifti

from slimdiff import cli
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import (
    DataError,
    Participant,
    not_preprocessed,
    read_included,
    read_participants,
    write_participants,
)
from slimdiff.data.quality.exclusion import enforce_policy, left_out_for_flags
from slimdiff.data.store import SliceStore
from slimdiff.files import read_table


@pytest.fixture
def place(tmp_path):
    """Six people: 2 could not be preprocessed, 3 was left out for a flag, 4 by name, 6 has no record yet."""
    excluded = {3: "truncated: ends too early", 4: "not_preprocessed: as somebody else wrote"}
    write_participants(
        tmp_path / "participants.tsv",
        [
            Participant(
                f"sub-{n}", "g", tmp_path / "image", tmp_path / "mask", excluded=excluded.get(n, "n/a")
            )
            for n in range(1, 7)
        ],
    )
    for n in range(1, 6):
        record = {"not_preprocessed": "no brain found"} if n in (2, 3) else {"qc": {}}
        (tmp_path / f"sub-{n}.json").write_text(json.dumps(record))
    lines = ["participant_id\tverdict\tflags\treasons", "sub-1\tshown\tflip_suspected\tflip_suspected: x"]
    lines += ["sub-3\texcluded\ttruncated\ttruncated: ends too early", "sub-4\texcluded\tn/a\tas somebody"]
    (tmp_path / "quality.tsv").write_text("\n".join(lines) + "\n")
    return tmp_path


def enforce(place, **quality) -> None:
    rows = read_participants(place / "participants.tsv")
    failed = not_preprocessed(rows, lambda name: place / f"{name}.json")
    enforce_policy(failed, left_out_for_flags(place / "quality.tsv"), QualityConfig(**quality))


def test_a_record_with_a_reason_excludes_its_participant(place):
    rows = read_included(place / "participants.tsv", lambda name: place / f"{name}.json")
    assert [row.excluded for row in rows] == [
        "n/a",
        "not_preprocessed: no brain found",
        "truncated: ends too early",
        "not_preprocessed: as somebody else wrote",
        "n/a",
        "n/a",
    ]


def test_policy_error_names_everybody_who_could_not_be_preprocessed(place):
    with pytest.raises(
        DataError, match=r"(?s)1 participants could.*sub-2: not_preprocessed: no brain.*exclude"
    ):
        enforce(place)
    (place / "sub-2.json").unlink()
    enforce(place)


def test_they_count_towards_max_excluded_with_those_left_out_for_flags_and_not_by_name(place):
    enforce(place, policy="exclude", max_excluded=2)
    with pytest.raises(
        DataError, match=r"(?s)2 participants would.*max_excluded is 1.*sub-3.*truncated.*sub-2"
    ):
        enforce(place, policy="exclude", max_excluded=1)


def test_the_commands_go_on_without_who_cannot_be_preprocessed(bids_root, study_values, tmp_path, capsys):
    """Participant 7 passes quality control, but a few voxels outshine its head; then it is mended."""
    config, root = tmp_path / "study.json", tmp_path / "bids"
    root.symlink_to(bids_root)
    table = tmp_path / "volumes.tsv"
    rng, lines = np.random.default_rng(0), ["participant_id\timage\tmask"]
    for number in range(1, 8):
        anat = root / f"sub-{number:02d}" / "anat"
        mask = anat / f"sub-{number:02d}_FLAIR_roi.nii.gz"
        image = anat / f"sub-{number:02d}_FLAIR.nii.gz"
        if number == 7:
            hot = rng.normal(100, 5, (32, 32, 32)).astype(np.float32)
            hot[:2, :2, :2] = 30_000
            image = save_nifti(tmp_path / "hot.nii.gz", hot)
        lines.append(f"{number}\t{image}\t{mask if mask.exists() else 'n/a'}")
    table.write_text("\n".join(lines) + "\n")
    study_values["data"] = {"source": "table", "table": str(table)}

    def call(command, **quality) -> int:
        study_values["quality"] |= quality
        config.write_text(json.dumps(study_values))
        return command(["--config", str(config)])

    assert call(cli.participants) == 0
    assert call(cli.preprocess) == 2
    assert "7: " in capsys.readouterr().err
    assert call(cli.preprocess, policy="exclude") == 0
    assert call(cli.kfold, max_excluded=0) == 2
    assert "7: not_preprocessed: 7: " in capsys.readouterr().err
    assert call(cli.kfold, max_excluded=1) == 0
    assert call(cli.cache) == 0
    results = tmp_path / "results" / "tiny"
    everybody = {str(number) for number in range(1, 7)}
    assert {row["participant"] for row in read_table(results / "folds.tsv")} == everybody
    assert set(SliceStore.open(results / "slices").participant) == everybody
    study_values["data"]["exclude"] = {"7": "too bright"}
    assert call(cli.participants, max_excluded=0) == 0
    assert call(cli.kfold) == 0
