"""Who takes part, from measurements that are written down here: policy, acceptance, limits, and what is said."""

from pathlib import Path

import pytest

from slimdiff.config.data import DataConfig
from slimdiff.config.quality import QualityConfig
from slimdiff.data.participants import DataError, Flag, Participant
from slimdiff.data.quality.exclusion import judge, settle_discovery, verdicts
from slimdiff.data.quality.field_of_view import Slicing
from slimdiff.data.quality.gate import write_quality
from slimdiff.data.quality.measure import Measured
from slimdiff.files import read_table

DATA = DataConfig(source="bids", root="x")


def person(number: int, patient: bool = True, **more) -> Participant:
    name = f"sub-{number:02d}"
    group = more.pop("group", "fcd" if patient else "hc")
    mask = Path(f"/d/{name}_roi.nii.gz") if patient else None
    return Participant(name, group, Path(f"/d/{name}.nii.gz"), mask, **more)


def facts(number: int, **more) -> Measured:
    values = {
        "voxel_sha256": f"{number:064x}",
        "shape": (32, 32, 32),
        "spacing_mm": (1.0, 1.0, 1.0),
        "orientation": "LAS",
        "dtype": "int16",
        "minimum": 0.0,
        "maximum": 900.0,
        "lesion_voxels": 9,
        "lesion_ml": 0.009,
        "lesion_outside_share": 0.0,
        "outside_of": "head",
        "lesion_contrast": 1.0,
        "flip": "mirrored left to right",
        "flip_contrast": 0.0,
        "wrapped_voxels": 0,
        "clipped_share": 0.0,
    }
    return Measured(**{**values, **more})


def judged(changes: dict[int, dict] | None = None, quality=None, data=DATA, rows=None, table=None):
    """Verdicts by number of a cohort of five patients and two controls; `changes`: number, measurements."""
    rows = rows or [person(number, number <= 5) for number in range(1, 8)]
    measured = {
        row.participant_id: facts(number, **(changes or {}).get(number, {}))
        for number, row in enumerate(rows, start=1)
        if row.included and not row.flags
    }
    found = verdicts(rows, measured, quality or QualityConfig(), data, table)
    return {number: verdict for number, verdict in enumerate(found, start=1)}


BROKEN = {"flags": (Flag("truncated", "/d/sub-02.nii.gz ends too early"),), "voxel_sha256": None}
DOUBTFUL = {
    "thick_slices": ({"spacing_mm": (0.9, 0.9, 4.0)}, ["0.9 x 0.9 x 4 mm", "3 mm", "quality.max_spacing_mm"]),
    "lesion_outside_brain": ({"lesion_outside_share": 0.51}, ["51 %", "head", "50 %", "max_lesion_outside"]),
    "flip_suspected": ({"lesion_contrast": 0.1, "flip_contrast": 0.9}, ["mirrored", "+0.90 SD", "+0.10 SD"]),
    "duplicate_image": ({"voxel_sha256": f"{1:064x}"}, ["sub-01 (/d/sub-01.nii.gz)", "same voxels"]),
    "intensity_overflow": ({"wrapped_voxels": 7, "minimum": -3e4}, ["7 voxels", "int16", "-30000 to 900"]),
    "implausible_lesion": ({"lesion_ml": 301.0, "lesion_share": 0.2}, ["300 ml", "found 301 ml", "brain?"]),
    "orientation_unknown": ({"placed": False}, ["sform and qform code are 0", "LAS"]),
}
EXCLUDE = {"policy": "exclude"}
NOTHING = {"flip_suspected": ()}


def test_a_good_cohort_raises_no_flag():
    assert {verdict.word for verdict in judged(quality=QualityConfig(accept=NOTHING)).values()} == {"ok"}


@pytest.mark.parametrize("flag", DOUBTFUL)
def test_every_doubt_stops_its_participant_and_the_reason_has_the_numbers(flag):
    change, wanted = DOUBTFUL[flag]
    found = judged({2: change}, QualityConfig(accept=NOTHING, **EXCLUDE))
    (stopping,) = found[2].stopping
    assert stopping.name == flag
    for part in ("/d/sub-02", *wanted):
        assert part in stopping.reason
    assert found[2].word == "excluded"
    assert found[2].participant.excluded == f"{flag}: {stopping.reason}"
    others = {verdict.word for number, verdict in found.items() if number not in (1, 2)}
    assert others == {"ok"}


@pytest.mark.parametrize(
    "change",
    [
        {"spacing_mm": (3.0, 3.0, 3.0)},
        {"lesion_outside_share": 0.5},
        {"lesion_ml": 300.0, "lesion_share": 0.3},
        {"lesion_contrast": 0.1, "flip_contrast": 0.39},
        {"lesion_contrast": None, "flip": None, "flip_contrast": None},
        {"clipped_share": 0.99e-4},
        {"voxel_sha256": None},
    ],
)
def test_what_is_just_within_the_limit_passes(change):
    found = judged({2: change, 3: change | {"voxel_sha256": None}}, QualityConfig(accept=NOTHING))
    assert found[2].word == "ok"


def test_clipped_intensities_are_an_overflow_too():
    found = judged({2: {"clipped_share": 0.002, "maximum": 32767.0}}, QualityConfig(**EXCLUDE))
    assert found[2].stopping[0].name == "intensity_overflow"
    assert "0.2 %" in found[2].stopping[0].reason and "32767" in found[2].stopping[0].reason


def test_accept_waves_a_flag_through_for_those_that_it_names():
    thick = {"spacing_mm": (1.0, 1.0, 4.0)}
    both = {2: thick, 3: thick | {"wrapped_voxels": 7}, 4: thick}
    named = QualityConfig(accept={"thick_slices": ("sub-02", "sub-03")}, **EXCLUDE)
    found = judged(both, named)
    assert (found[2].word, [flag.name for flag in found[2].shown]) == ("shown", ["thick_slices"])
    assert [flag.name for flag in found[3].stopping] == ["intensity_overflow"]
    assert [flag.name for flag in found[3].shown] == ["thick_slices"]
    assert (found[3].word, found[4].word) == ("excluded", "excluded")
    assert judged({2: thick}, QualityConfig(accept={"thick_slices": "all"}))[2].word == "shown"


def test_by_default_a_suspected_flip_is_only_shown():
    assert judged({2: DOUBTFUL["flip_suspected"][0]})[2].word == "shown"


def test_accepting_one_flag_leaves_the_default_of_the_others():
    turned = {2: DOUBTFUL["flip_suspected"][0]}
    assert judged(turned, QualityConfig(accept={"thick_slices": ("sub-01",)}))[2].word == "shown"
    strict = QualityConfig(accept={"flip_suspected": ("sub-01",)}, **EXCLUDE)
    assert judged(turned, strict)[2].word == "excluded"


def test_where_thick_slices_are_wanted_they_are_only_shown():
    data = DataConfig(source="bids", root="x", two_dimensional="include")
    assert judged({2: {"spacing_mm": (1.0, 1.0, 4.0)}}, data=data)[2].word == "shown"


@pytest.mark.parametrize(
    ("orientation", "spacing_mm", "word"),
    [
        ("LPS", (0.9, 0.9, 5.0), "ok"),
        ("ASL", (0.9, 6.0, 0.9), "ok"),
        ("LSA", (0.9, 0.9, 5.0), "excluded"),
        ("ASR", (0.9, 0.9, 5.0), "excluded"),
    ],
)
def test_native_slices_may_be_thick_if_they_are_axial(orientation, spacing_mm, word):
    """Coronal and sagittal stacks are resampled along their thick axis, also where 2-D images are included."""
    row, data = person(1), DataConfig(source="bids", root="x", two_dimensional="include")
    measured = {"sub-01": facts(1, orientation=orientation, spacing_mm=spacing_mm)}
    found = judge([row], measured, QualityConfig(**EXCLUDE), data, slicing=Slicing(native=True))[0]
    assert found.word == word
    if found.stopping:
        assert "3 mm in plane, because only axial slices stay as they are" in found.stopping[0].reason
        assert judge([row], measured, QualityConfig(**EXCLUDE), data)[0].word == "shown"


def test_a_broken_file_cannot_be_accepted():
    accepted = dict.fromkeys(("thick_slices", "lesion_outside_brain", "duplicate_image"), "all")
    with pytest.raises(DataError, match="truncated"):
        judged({2: BROKEN}, QualityConfig(accept=accepted))


def test_the_error_names_everybody_once_and_says_what_can_be_done():
    with pytest.raises(DataError) as caught:
        judged(
            {2: BROKEN, 4: {"spacing_mm": (1.0, 1.0, 4.0), "wrapped_voxels": 3}, 6: {"wrapped_voxels": 5}},
            table=Path("/r/refused.tsv"),
        )
    first, *lines = str(caught.value).splitlines()
    assert first == "3 of 7 participants are flagged:"
    assert [line.split(": ")[:2] for line in lines[:4]] == [
        ["  sub-02", "truncated"],
        ["  sub-04", "thick_slices"],
        ["  sub-04", "intensity_overflow"],
        ["  sub-06", "intensity_overflow"],
    ]
    for way in (
        "data.exclude",
        "quality.accept: intensity_overflow, thick_slices",
        "quality.policy: exclude",
    ):
        assert way in lines[4]
    assert "/r/refused.tsv" in lines[5] and len(lines) == 6


def test_accepting_is_not_offered_for_a_fault():
    with pytest.raises(DataError) as caught:
        judged({2: BROKEN})
    assert "quality.accept" not in str(caught.value)


def test_more_left_out_than_allowed_stop_the_run_and_are_all_named():
    broken = {number: BROKEN for number in (1, 2, 6)}
    assert judged(broken, QualityConfig(max_excluded=3, **EXCLUDE))[6].word == "excluded"
    with pytest.raises(DataError) as caught:
        judged(broken, QualityConfig(max_excluded=2, **EXCLUDE))
    for part in (
        "3 of 7",
        "quality.max_excluded is 2",
        "sub-01",
        "sub-02",
        "sub-06",
        "raise quality.max_excluded",
    ):
        assert part in str(caught.value)


def test_those_left_out_by_name_are_not_measured_and_do_not_count():
    rows = [person(n, n <= 5, **({"excluded": "motion"} if n in (2, 7) else {})) for n in range(1, 8)]
    found = judged({1: BROKEN}, QualityConfig(max_excluded=1, **EXCLUDE), rows=rows)
    assert found[2].participant.excluded == "motion"
    assert (found[2].word, found[2].measured, found[2].stopping) == ("excluded", None, ())


def test_flags_of_discovery_count_with_those_of_reading():
    flag = Flag("several_images", "/d/sub-03: two images")
    rows = [person(n, n <= 5, **({"flags": (flag,)} if n == 3 else {})) for n in range(1, 8)]
    with pytest.raises(DataError, match="2 of 7 participants") as caught:
        judged({1: BROKEN}, rows=rows)
    assert "sub-03: several_images: /d/sub-03: two images" in str(caught.value)
    exclude = QualityConfig(max_excluded=2, **EXCLUDE)
    settled = settle_discovery(rows, exclude)
    for given in (rows, settled):
        assert judged({1: BROKEN}, exclude, rows=given)[3].participant.excluded == (
            "several_images: /d/sub-03: two images"
        )
        with pytest.raises(DataError, match="quality.max_excluded is 1"):
            judged({1: BROKEN}, QualityConfig(max_excluded=1, **EXCLUDE), rows=given)


def test_discovery_is_settled_by_the_same_policy_before_a_file_is_read():
    flags = (Flag("no_mask", "no _roi"), Flag("two_splits", "train and test"))
    rows = [
        person(1),
        person(2, flags=flags[:1]),
        person(3, flags=flags),
        person(4, flags=flags, excluded="motion"),
    ]
    with pytest.raises(DataError, match="2 of 4") as caught:
        settle_discovery(rows, QualityConfig())
    assert "sub-03: two_splits" in str(caught.value) and "sub-04" not in str(caught.value)
    with pytest.raises(DataError, match="quality.max_excluded is 1"):
        settle_discovery(rows, QualityConfig(max_excluded=1, **EXCLUDE))
    settled = settle_discovery(rows, QualityConfig(**EXCLUDE))
    assert [row.excluded for row in settled] == [
        "n/a",
        "no_mask: no _roi",
        "no_mask: no _roi; two_splits: train and test",
        "motion",
    ]
    assert settle_discovery(rows[:1], QualityConfig()) == rows[:1]


def test_accepting_somebody_who_is_not_there_is_an_error():
    config = QualityConfig(accept={"thick_slices": ("sub-01", "sub-99")})
    for check in (lambda: judged(quality=config), lambda: settle_discovery([person(1)], config)):
        with pytest.raises(DataError, match=r"quality.accept: thick_slices.*'sub-99'"):
            check()


def test_duplicates_name_each_other_and_say_if_they_are_in_different_splits():
    rows = [person(1, split="train"), person(2, split="test"), person(3, split="train"), person(4)]
    same = {number: {"voxel_sha256": "f" * 64} for number in (1, 2, 3)}
    found = judged(same, QualityConfig(**EXCLUDE), rows=rows)
    reasons = {number: found[number].stopping[0].reason for number in (1, 2, 3)}
    assert "sub-02" in reasons[1] and "sub-03" in reasons[1] and "sub-01 (" not in reasons[1]
    assert "different splits (train and test)" in reasons[1]
    assert "different splits (test and train)" in reasons[2]
    assert not found[4].stopping
    found = judged({1: same[1], 3: same[3]}, QualityConfig(**EXCLUDE), rows=rows)
    assert "splits" not in found[1].stopping[0].reason
    assert not found[2].stopping


def test_without_a_split_nothing_is_said_of_splits():
    rows = [person(1, split="train"), person(2), person(3)]
    found = judged({2: {"voxel_sha256": f"{1:064x}"}}, QualityConfig(**EXCLUDE), rows=rows)
    assert not any("splits" in found[number].stopping[0].reason for number in (1, 2))


def test_who_was_left_out_by_name_is_nobodys_duplicate():
    rows = [person(1), person(2, excluded="a copy of sub-01"), person(3)]
    # As if it had been measured before it was left out.
    measured = {"sub-01": facts(1), "sub-02": facts(1), "sub-03": facts(3)}
    assert [verdict.word for verdict in verdicts(rows, measured, QualityConfig(), DATA)] == [
        "ok",
        "excluded",
        "ok",
    ]


def test_an_empty_mask_makes_a_control_where_that_is_what_it_means():
    empty = {
        "flags": (Flag("empty_mask", "no voxel"),),
        "lesion_voxels": None,
        "lesion_contrast": None,
        "flip_contrast": None,
    }
    rows = [person(1), person(2, group="patient", group_by_mask=True), person(3), person(4, False)]
    with pytest.raises(DataError, match="empty_mask"):
        judged({2: empty}, rows=rows)
    data = DataConfig(source="bids", root="x", empty_mask="control", patients_without_mask="control")
    found = judged({2: empty, 3: empty}, data=data, rows=rows)
    assert [found[n].participant.group for n in (2, 3)] == ["control", "fcd"]
    assert not any(found[n].participant.is_patient or found[n].stopping for n in (2, 3))
    # Other flags of the same person still stop.
    more = empty | {"flags": (*empty["flags"], Flag("empty_brain_mask", "no voxel"))}
    with pytest.raises(DataError, match="empty_brain_mask") as caught:
        judged({2: more}, data=data, rows=rows)
    assert "empty_mask" not in str(caught.value)


def test_a_cohort_that_loses_every_lesion_is_an_error():
    with pytest.raises(DataError, match="no subject with a lesion mask is left") as caught:
        judged({n: BROKEN for n in range(1, 6)}, QualityConfig(**EXCLUDE))
    assert "sub-05: truncated" in str(caught.value)


def test_somebody_who_was_not_measured_is_no_silent_ok():
    with pytest.raises(ValueError, match="sub-01 was not measured"):
        verdicts([person(1)], {}, QualityConfig(), DATA)


def test_the_table_has_everybody_with_verdict_reasons_and_measurements(tmp_path):
    rows = [person(n, n <= 5, **({"excluded": "motion"} if n == 5 else {})) for n in range(1, 8)]
    changes = {2: BROKEN | {"shape": None, "spacing_mm": None}, 3: DOUBTFUL["flip_suspected"][0]}
    write_quality(tmp_path / "q.tsv", judged(changes, QualityConfig(**EXCLUDE), rows=rows).values())
    table = {row["participant_id"]: row for row in read_table(tmp_path / "q.tsv")}
    assert list(table) == [row.participant_id for row in rows]
    assert [row["verdict"] for row in table.values()] == [
        "ok",
        "excluded",
        "shown",
        "ok",
        "excluded",
        "ok",
        "ok",
    ]
    assert table["sub-02"]["reasons"] == "truncated: /d/sub-02.nii.gz ends too early"
    assert table["sub-02"]["flags"] == "truncated" and table["sub-02"]["shape"] == "n/a"
    assert "mirrored" in table["sub-03"]["reasons"] and table["sub-03"]["flags"] == "flip_suspected"
    assert table["sub-05"]["reasons"] == "motion" and table["sub-05"]["lesion_ml"] == "n/a"
    assert (table["sub-01"]["shape"], table["sub-01"]["spacing_mm"]) == ("32 x 32 x 32", "1 x 1 x 1")
    assert float(table["sub-01"]["lesion_ml"]) == 0.009 and table["sub-06"]["reasons"] == "n/a"
