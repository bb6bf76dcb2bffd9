"""Folds of random cohorts: one part per participant, each tested once, and refused only if impossible."""

from collections import Counter
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from slimdiff.config import ConfigError
from slimdiff.config.folds import FoldsConfig
from slimdiff.data.folds import make_folds, read_folds, training_participants, write_folds
from slimdiff.data.participants import DataError, Participant

MANY = settings(deadline=None, derandomize=True, max_examples=150)
KEYS = ("group", "acquisition", "lesion_tercile", "lobe")
NOWHERE = Path("nowhere")


@st.composite
def cohorts(draw, splits=("n/a",)) -> tuple[list[Participant], dict[str, float]]:
    """Participants in any order, some of them excluded, and the lesion volume of each in ml."""
    names = draw(
        st.lists(
            st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,3}", fullmatch=True),
            min_size=draw(st.sampled_from([2, 8, 16])),
            max_size=24,
            unique=True,
        )
    )
    # Few distinct volumes, so that terciles have ties.
    ml = st.one_of(st.sampled_from([0.1, 0.5, 2.0]), st.floats(1e-3, 200))
    rows, volumes = [], {}
    for name in names:
        patient = draw(st.sampled_from([True, True, False]))
        rows.append(
            Participant(
                name,
                draw(st.sampled_from(["fcd", "hc", "n/a"])),
                NOWHERE,
                NOWHERE if patient else None,
                acquisition=draw(st.sampled_from(["T2sel", "tse", "n/a"])),
                lobe=draw(st.sampled_from(["TL", "FL", "TL,OL", "n/a"])) if patient else "n/a",
                split=draw(st.sampled_from(splits)),
                excluded=draw(st.sampled_from(["n/a"] * 7 + ["motion"])),
            )
        )
        volumes[name] = draw(ml) if patient else 0.0
    return rows, volumes


@st.composite
def configs(draw, own_split: bool) -> FoldsConfig:
    return FoldsConfig(
        k=draw(st.sampled_from([1, 2, 3, 6] if own_split else [2, 3, 6])),
        use_split=own_split,
        seed=draw(st.integers(0, 2**32 - 1)),
        val_fraction=draw(st.sampled_from([0.0, 0.15, 0.5, 1.0])),
        stratify_by=tuple(draw(st.permutations(KEYS))[: draw(st.integers(0, len(KEYS)))]),
    )


def made(rows, volumes, config) -> list[dict] | None:
    """The folds, or None if they are refused."""
    try:
        return make_folds(rows, volumes, config)
    except (ConfigError, DataError) as error:
        assert "folds" in str(error)
        return None


def parts_of(folds: list[dict], k: int) -> list[dict[str, set[str]]]:
    parts = [{"train": set(), "val": set(), "test": set()} for _ in range(k)]
    for row in folds:
        assert row["participant"] not in parts[row["fold"]][row["split"]]
        parts[row["fold"]][row["split"]].add(row["participant"])
    return parts


def included_and_patients(rows: list[Participant]) -> tuple[set[str], set[str]]:
    """IDs of the included participants, and of those with a lesion."""
    included = [row for row in rows if row.excluded == "n/a"]
    return {row.participant_id for row in included}, {row.participant_id for row in included if row.mask}


def check_parts(parts: list[dict[str, set[str]]], included: set[str], patients: set[str]) -> None:
    for part in parts:
        assert Counter(name for names in part.values() for name in names) == Counter(included)
        assert part["test"] & patients
        assert part["train"] & patients


@given(cohorts(), configs(own_split=False))
@MANY
def test_each_participant_is_in_one_part_per_fold_and_tested_in_one_fold(cohort, config):
    rows, volumes = cohort
    included, patients = included_and_patients(rows)
    folds = made(rows, volumes, config)
    assert (folds is None) == (config.k > len(patients) or len(included) < 2)
    if folds is None:
        return
    parts = parts_of(folds, config.k)
    check_parts(parts, included, patients)
    assert Counter(name for part in parts for name in part["test"]) == Counter(included)
    for part in parts:
        assert bool(part["val"]) == (config.val_fraction > 0 and len(part["train"] | part["val"]) >= 4)
    for among in (included, patients):
        sizes = [len(part["test"] & among) for part in parts]
        assert max(sizes) - min(sizes) <= 1


@given(cohorts(splits=("train", "train", "test", "Test", "n/a")), configs(own_split=True))
@MANY
def test_the_test_split_of_the_dataset_is_tested_in_every_fold_and_never_trained_on(cohort, config):
    rows, volumes = cohort
    included, patients = included_and_patients(rows)
    own_test = {row.participant_id for row in rows if row.split in ("test", "Test")} & included
    rest = included - own_test
    # With k > 1 a fold validates on its share of the rest; with a single patient, one fold would train on none.
    too_few = len(rest & patients) < (2 if config.k > 1 else 1)
    folds = made(rows, volumes, config)
    assert (folds is None) == (not own_test & patients or too_few or config.k > len(rest))
    if folds is None:
        return
    parts = parts_of(folds, config.k)
    check_parts(parts, included, patients)
    assert all(part["test"] == own_test for part in parts)
    if config.k > 1:
        assert Counter(name for part in parts for name in part["val"]) == Counter(rest)


@given(
    cohorts(splits=("train", "test")), st.booleans().flatmap(lambda own: configs(own_split=own)), st.randoms()
)
@MANY
def test_the_order_of_the_participants_changes_nothing(cohort, config, random):
    rows, volumes = cohort
    shuffled = random.sample(rows, len(rows))
    turned = {name: volumes[name] for name in random.sample(sorted(volumes), len(volumes))}
    one, two = made(rows, volumes, config), made(shuffled, turned, config)
    assert (one is None) == (two is None)
    if one is not None:
        assert Counter(tuple(row.items()) for row in one) == Counter(tuple(row.items()) for row in two)
        assert made(rows, volumes, config) == one


@given(cohorts(), configs(own_split=False))
@MANY
def test_excluded_participants_do_not_affect_the_folds(cohort, config):
    rows, volumes = cohort
    without = [row for row in rows if row.excluded == "n/a"]
    assert made(rows, volumes, config) == made(without, volumes, config)


@given(cohorts(), configs(own_split=False))
@MANY
def test_the_strata_used_are_spread_evenly_and_not_mixed(cohort, config):
    rows, volumes = cohort
    folds = made(rows, volumes, config)
    if folds is None:
        return
    used = folds[0]["stratified_by"]
    keys = [] if used == "none" else used.split(",")
    assert keys == [key for key in config.stratify_by if key in keys]
    facts = {
        row.participant_id: {
            "group": row.mask is not None,
            "acquisition": row.acquisition,
            "lobe": row.lobe,
        }
        for row in rows
    }
    members: dict[str, set[str]] = {}
    for row in folds:
        assert row["stratified_by"] == used
        members.setdefault(row["stratum"], set()).add(row["participant"])
    for names in members.values():
        assert len(names) >= config.k or not keys
        for key in set(keys) - {"lesion_tercile"}:
            assert len({facts[name][key] for name in names}) == 1
        for patients in (True, False):
            like = {name for name in names if facts[name]["group"] is patients}
            counts = [len(part["test"] & like) for part in parts_of(folds, config.k)]
            assert max(counts) - min(counts) <= 1


@given(cohorts(), configs(own_split=False))
@settings(MANY, max_examples=40)
def test_the_table_contains_the_folds(tmp_path_factory, cohort, config):
    rows, volumes = cohort
    folds = made(rows, volumes, config)
    if folds is None:
        return
    path = tmp_path_factory.mktemp("folds") / "folds.tsv"
    write_folds(path, folds)
    parts = parts_of(folds, config.k)
    for number, part in enumerate(parts):
        read = read_folds(path, number)
        assert {split: Counter(names) for split, names in read.items()} == {
            split: Counter(names) for split, names in part.items()
        }
    assert set(training_participants(path)) == set().union(*(part["train"] for part in parts))
