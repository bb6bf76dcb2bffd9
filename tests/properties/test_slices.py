"""Slices of random volumes, extracted by the command, against an extraction voxel by voxel."""

import contextlib
import io
import json
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np
from helpers.synthetic import save_nifti
from hypothesis import given, settings
from hypothesis import strategies as st

from slimdiff import cli
from slimdiff.config.paths import StudyPaths
from slimdiff.data.participants import Participant, write_participants
from slimdiff.data.store import SliceStore
from slimdiff.files import write_table

BACKGROUND = -0.9
SOME = settings(deadline=None, derandomize=True, max_examples=120)


@dataclass(frozen=True)
class Subject:
    image: np.ndarray
    lesion: np.ndarray
    excluded: str


@st.composite
def cohorts(draw) -> dict[str, Subject]:
    """Volumes of one small grid with empty slices and lesions of all sizes; all but the first may be excluded."""
    shape = (draw(st.integers(2, 6)), draw(st.integers(2, 6)), draw(st.integers(4, 12)))
    names = draw(
        st.lists(st.from_regex(r"[a-z][a-z0-9-]{0,3}", fullmatch=True), min_size=1, max_size=4, unique=True)
    )
    subjects: dict[str, Subject] = {}
    for name in names:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        tissue = rng.random(shape) < rng.choice([0, 0.1, 0.5, 1], shape[2], p=[0.1, 0.1, 0.3, 0.5])
        image = np.where(tissue, rng.uniform(-0.8, 1, shape), -1).astype(np.float32)
        lesion = rng.random(shape) < rng.choice([0, 0.1, 0.4], shape[2])
        excluded = draw(st.sampled_from(["n/a", "n/a", "motion"])) if subjects else "n/a"
        subjects[name] = Subject(image, lesion, excluded)
    return subjects


@st.composite
def settings_of_slices(draw, depth: int) -> dict:
    first = draw(st.integers(0, depth - 2))
    last = draw(st.integers(first + 1, depth - 1))
    return {
        "z_range": draw(st.sampled_from(["auto", [first, last]])),
        "n_bins": draw(st.integers(1, min(3, last - first + 1))),
        # Two decimals, so that some slices have exactly the required share.
        "min_tissue": draw(st.sampled_from([0.0, 0.05, 0.1, 0.25, 0.5])),
        "min_lesion_mm2": float(draw(st.sampled_from([0, 0, 4, 12]))),
    }


def expected_slices(subjects: dict[str, Subject], config: dict, extent: tuple[int, int], spacing_mm: float):
    """(participant, z, image, mask) of every kept slice; counts of slices dropped for little tissue and,
    by participant, for a small lesion."""
    smallest = max(1, round(config["min_lesion_mm2"] / spacing_mm**2))
    kept, bare, small = [], 0, dict.fromkeys(subjects, 0)
    for name, subject in subjects.items():
        width, height, _ = subject.image.shape
        for z in range(extent[0], extent[1] + 1):
            # The first row is the most anterior one (the last y), the first column the left one (the first x).
            image = [
                [np.float16(subject.image[x, height - 1 - y, z]) for x in range(width)] for y in range(height)
            ]
            mask = [[int(subject.lesion[x, height - 1 - y, z]) for x in range(width)] for y in range(height)]
            tissue = sum(float(value) > BACKGROUND for row in image for value in row)
            lesion_px = sum(map(sum, mask))
            if Fraction(tissue, width * height) < Fraction(str(config["min_tissue"])):
                bare += 1
            elif 0 < lesion_px < smallest:
                small[name] += 1
            else:
                kept.append((name, z, image, mask))
    return kept, bare, small


def expected_extent(
    subjects: dict[str, Subject], training: list[str], config: dict
) -> tuple[int, int] | None:
    """The configured slices, or the first and last in which a training subject has enough tissue."""
    if config["z_range"] != "auto":
        return tuple(config["z_range"])
    full = []
    for name in training:
        width, height, depth = subjects[name].image.shape
        for z in range(depth):
            tissue = sum(float(np.float16(v)) > BACKGROUND for v in subjects[name].image[:, :, z].ravel())
            if Fraction(tissue, width * height) >= Fraction(str(config["min_tissue"])):
                full.append(z)
    return (min(full), max(full)) if full else None


def cut(folder, subjects: dict[str, Subject], config: dict, training: list[str], spacing_mm: float):
    """Exit status and message of `slimdiff-cache` on these volumes, and the folder of the store."""
    values = {"study": "drawn", "results_dir": str(folder), "slices": config}
    paths = StudyPaths.of(str(folder), "drawn")
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1])
    rows = []
    for name, subject in subjects.items():
        save_nifti(paths.volume(name, "image"), subject.image, affine)
        save_nifti(paths.volume(name, "mask"), subject.lesion.astype(np.uint8), affine)
        image, mask = folder / f"{name}.nii.gz", folder / f"{name}_roi.nii.gz"
        rows.append(Participant(name, "g", image, mask, acquisition=f"of-{name}", excluded=subject.excluded))
    write_participants(paths.participants, rows)
    split = {name: "train" if name in training else "test" for name in subjects}
    folds = [{"participant": name, "fold": 0, "split": part} for name, part in split.items()]
    write_table(paths.folds, folds, ("participant", "fold", "split", "stratified_by", "stratum"))
    with contextlib.redirect_stderr(io.StringIO()) as stderr:
        status = cli.cache(["--config", json.dumps(values)])
    return status, stderr.getvalue(), paths.store


@given(st.data())
@SOME
def test_the_store_holds_exactly_the_slices_of_an_independent_extraction(tmp_path_factory, data):
    subjects = data.draw(cohorts())
    config = data.draw(settings_of_slices(next(iter(subjects.values())).image.shape[2]))
    spacing_mm = data.draw(st.sampled_from([1.0, 1.25, 2.0]))
    included = {name: subject for name, subject in subjects.items() if subject.excluded == "n/a"}
    training = data.draw(st.permutations(sorted(included)))[: data.draw(st.integers(1, 4))]
    folder = tmp_path_factory.mktemp("drawn")
    status, message, store_folder = cut(folder, subjects, config, training, spacing_mm)

    extent = expected_extent(included, training, config)
    kept, bare, small = expected_slices(included, config, extent, spacing_mm) if extent else ([], 0, {})
    count, bins = (extent[1] - extent[0] + 1 if extent else 0), config["n_bins"]
    in_bin = [floor(Fraction(z - extent[0], count) * bins) for _, z, *_ in kept]
    lesion_px = [sum(map(sum, mask)) for *_, mask in kept]
    lost = set(included) - {name for name, *_ in kept}
    if count < bins or set(in_bin) != set(range(bins)) or not any(lesion_px) or lost:
        assert status == 2
        assert "error: slices" in message
        assert not list(store_folder.glob("*"))
        return
    assert status == 0, message
    store = SliceStore.open(store_folder)
    assert list(zip(store.participant.tolist(), store.z.tolist(), strict=True)) == [row[:2] for row in kept]
    assert store.z_bin.tolist() == in_bin
    assert store.label.tolist() == [int(px > 0) for px in lesion_px]
    assert store.acquisition.tolist() == [f"of-{name}" for name, *_ in kept]
    for row, (_, _, image, mask) in enumerate(kept):
        assert store.images[row].tobytes() == np.array(image, np.float16).tobytes()
        assert store.masks[row].tolist() == mask
    assert [
        int(line.split("\t")[4]) for line in (store_folder / "slices.tsv").read_text().splitlines()[1:]
    ] == lesion_px
    assert store.facts["z_range"] == list(extent)
    assert store.facts["dropped"] == {"too_little_tissue": bare, "lesion_too_small": sum(small.values())}
    assert store.facts["dropped_small_lesion"] == small
    assert len(store) + bare + sum(small.values()) == len(included) * count


def test_a_study_without_included_participants_is_an_error(tmp_path):
    volume = np.linspace(-1, 1, 64, dtype=np.float32).reshape(4, 4, 4)
    subjects = {"a": Subject(volume, volume > 0, "motion")}
    config = {"z_range": [0, 3], "n_bins": 2, "min_lesion_mm2": 0.0}
    status, message, store_folder = cut(tmp_path, subjects, config, [], 1.0)
    assert status == 2
    assert "expected included participants" in message
    assert "participants.tsv" in message
    assert not list(store_folder.glob("*"))
