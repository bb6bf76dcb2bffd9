import numpy as np
import pytest
from helpers.seals import unseal

from slimdiff.files import read_table, write_table
from slimdiff.generation.samples import COLUMNS, read_samples


def names(cases) -> list[str]:
    return [case.name for case in cases]


def test_real_slices_are_those_of_the_split_and_aligned_with_their_volume(cell):
    import nibabel

    for split, participants in cell.parts.items():
        cases = list(cell.real(split))
        assert {case.participant for case in cases} == set(participants) and cases
        for case in cases:
            z = int(case.name.rsplit("_z")[-1])
            volume = nibabel.load(cell.study.paths.volume(case.participant, "image"))
            # The first row and column are the anterior left corner.
            assert case.image[0, 0] == volume.dataobj[0, -1, z]
            assert case.affine @ (0, 11, 0, 1) == pytest.approx(volume.affine @ (0, 11, z, 1))
            assert case.space == "scanner"


def test_synthetic_slices_are_the_samples_of_the_fold(cell):
    samples = read_samples(cell.study.paths.samples("base", 0), 3)
    cases = list(cell.synthetic())
    assert names(cases) == [f"synth-{name}" for name in samples.id]
    for number, case in enumerate(cases):
        assert np.array_equal(case.image, samples.images[number]) and case.image.dtype == np.float16
        assert np.array_equal(case.mask, samples.masks[number] > 0)
        assert (case.z_bin, case.label) == (samples.z_bin[number], samples.label[number])
    # z-bin 0 has slices 2 and 3 of 9: their centre is 1.5 voxels of 2 mm below that of the grid.
    heights = [(case.affine @ (0, 0, 0, 1))[2] for case in cases]
    assert [heights[0], heights[4], heights[8]] == pytest.approx([-3, 1, 5])


def test_the_threshold_is_not_rounded_to_half_precision(study, opened, configured):
    """The masks have values of float16(0.3) = 0.300049, which is above 0.3."""
    for tau, expected in ((0.3, True), (0.3001, False)):
        case = list(opened(configured(study, tau=tau), 0).synthetic())[2]
        assert case.mask[2, 1] and case.mask[3, 1] == expected


def test_suspects_of_any_space_are_left_out_on_request(study, opened, configured):
    flagged = {"alexnet": "zbin-00_class-0_replica-0_00000", "pixels": "zbin-01_class-1_replica-0_00001"}
    filtered = opened(configured(study, without_suspects=True), 0)
    with pytest.raises(
        FileNotFoundError, match=r"nearest.tsv: not found, but export.without_suspects is true"
    ):
        list(filtered.synthetic())
    rows = [
        {"id": case.sample["id"], "flagged": int(case.sample["id"] == name), "space": space}
        for space, name in flagged.items()
        for case in opened(study, 0).synthetic()
    ]
    write_table(study.paths.metrics("base", 0) / "nearest.tsv", rows, ("id", "flagged", "space"))
    everything = set(names(opened(study, 0).synthetic()))
    left = names(opened(configured(study, without_suspects=True), 0).synthetic())
    assert everything - set(left) == {f"synth-{name}" for name in flagged.values()}


def test_a_slice_without_its_volume_is_centred_at_the_origin_with_a_warning(study, opened, capsys):
    study.paths.volume("sub-3", "image").unlink()
    cases = list(opened(study, 0).real("val"))
    assert {case.space for case in cases} == {"aligned"}
    assert (cases[0].affine @ (0, 0, 0, 1))[:3] == pytest.approx([-9, -11, -4])
    assert capsys.readouterr().err.count("sub-3_FLAIR.nii.gz: not found") == 1


def edit_manifest(study, number: int, values: dict) -> None:
    path = study.paths.samples_stem("base", 0, number).with_suffix(".tsv")
    rows = read_table(path)
    unseal(path.with_suffix(".json"))
    rows[1].update(values)
    write_table(path, rows, COLUMNS)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"key": "seed=0/fold=1/zbin=1"}, r"zbin-01.tsv: sample .*: expected fold 0 of its folder, found 1"),
        ({"id": "zbin-00_class-0_replica-0_00000"}, "is a duplicate"),
        ({"id": "../x"}, "cannot be a file name"),
        ({"z_bin": 2}, "expected z-bin 1 of the file's name, found 2"),
    ],
)
def test_a_sample_of_another_fold_or_z_bin_is_refused(study, opened, values, words):
    edit_manifest(study, 1, values)
    with pytest.raises(ValueError, match=words):
        list(opened(study, 0).synthetic())


def test_invalid_archives_are_refused_by_name(study, opened):
    stem = study.paths.samples_stem("base", 0, 1)
    with np.load(stem.with_suffix(".npz")) as archive:
        images, masks = archive["images"], archive["masks"]
    np.savez(stem.with_suffix(".npz"), images=images[:, :-1], masks=masks)
    with pytest.raises(
        ValueError, match=r"zbin-01.npz: images: expected \(4, 12, 10\).* found \(4, 11, 10\)"
    ):
        list(opened(study, 0).synthetic())
    images[2, 3, 4] = np.nan
    np.savez(stem.with_suffix(".npz"), images=images, masks=masks)
    with pytest.raises(ValueError, match=r"zbin-01.npz: .*images: sample 2 of 4 .*NaN or infinite values"):
        list(opened(study, 0).synthetic())
    stem.with_suffix(".npz").unlink()
    with pytest.raises(FileNotFoundError, match=r"zbin-01.npz: not found; run the stage generate first"):
        list(opened(study, 0).synthetic())


def test_a_grid_other_than_that_of_the_store_is_refused(study, opened):
    other = study.preprocess.model_copy(update={"grid": (12, 12, 9)})
    with pytest.raises(ValueError, match=r"slices of 10 x 12 px, but preprocess.grid is \[12, 12, 9\]"):
        opened(study.model_copy(update={"preprocess": other}), 0)
