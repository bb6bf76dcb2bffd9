"""slimdiff-generate beyond a study's own samples: from a checkpoint, with a fixed mask or region, and regenerated."""

import json

import nibabel
import numpy as np
import pytest
from helpers.tiny_sampling import settings_in
from PIL import Image

from slimdiff import cli
from slimdiff.config import load_study
from slimdiff.data.participants import DataError
from slimdiff.data.zbins import z_bin
from slimdiff.files import read_table
from slimdiff.generation.conditioning_inputs import SliceGrid, read_mask_slices
from slimdiff.generation.samples import read_samples
from slimdiff.model.checkpoint import read_card
from slimdiff.png import write_png

GRID = np.diag([6.0, 6.0, 6.0, 1.0])
"""The checkpoint's spacing, 6 mm."""


@pytest.fixture
def drawing(study_file, trained, tmp_path):
    """A function that runs the command with a checkpoint and returns the exit status and the output folder."""

    def call(*arguments, out="out", config=study_file):
        fixed = ["--config", str(config), "--ckpt", str(trained), "--out_dir", str(tmp_path / out)]
        return cli.generate([*fixed, *map(str, arguments)]), tmp_path / out

    return call


@pytest.fixture
def mask():
    drawn = np.zeros((32, 32), bool)
    # In the right anterior part, so that rotation or mirroring changes it.
    drawn[6:10, 20:27] = True
    return drawn


def test_z_bins_classes_and_counts_can_be_chosen(drawing):
    status, out = drawing("--z_bins", "0,2", "--classes", "lesion", "--n_per_condition", 3, "--seed", 9)
    assert status == 0
    samples = read_samples(out)
    assert samples.z_bin.tolist() == [0, 0, 0, 2, 2, 2]
    assert samples.label.tolist() == [1] * 6
    assert {row["key"].split("/")[0] for row in read_table(out / "zbin-00.tsv")} == {"seed=9"}
    # A sample does not depend on the other samples of the request.
    _, whole = drawing("--n_per_condition", 4, "--seed", 9, out="whole")
    every = read_samples(whole)
    place = {name: i for i, name in enumerate(every.id)}
    for i, name in enumerate(samples.id):
        np.testing.assert_array_equal(samples.images[i], every.images[place[name]])
    assert len(every.id) == 24


def test_it_resumes_a_folder_and_refuses_one_of_another_configuration(drawing, capsys):
    assert drawing("--n_per_condition", 1)[0] == 0
    status, out = drawing("--n_per_condition", 2)
    assert status == 0
    assert len(read_samples(out).id) == 12
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert drawing("--n_per_condition", 2, "--seed", 5)[0] == 2
    assert (
        "zbin-00.json: generation.seed: expected 5, found 0: samples of another configuration"
        in capsys.readouterr().err
    )
    assert {path: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--classes", "2"], "found '2'"),
        (["--classes", "1,1"], "found '1,1'"),
        (["--z_bins", "2-0"], "rising range"),
        (["--mask", "absent.png", "--z_bins", "1"], "absent.png: not found"),
        (["--mask", "{mask}"], "give its z-bin"),
        (["--mask", "{mask}", "--z_bins", "0-1"], "expected one z-bin"),
        (["--mask", "{mask}", "--z_bins", "1", "--classes", "1"], "the class follows"),
        (["--mask", "{mask}", "--region", "{mask}"], "give one of the two"),
        (["--image", "{mask}", "--z_bins", "1"], "--image and --region need each other"),
        (
            ["--mask", "{small}", "--z_bins", "1"],
            "expected slices of 32 x 32 px (those of the checkpoint), found 16 x 32 px",
        ),
        (["--mask", "{text}", "--z_bins", "1"], "expected .png, .nii or .nii.gz"),
        (["--mask", "{broken}", "--z_bins", "1"], "not readable as NIfTI"),
        (["--mask", "{empty}"], "expected values above 0, the lesion; found none"),
        (["--mask", "{volume}", "--z_bins", "1"], "remove --z-bins"),
        (["--mask", "{high}"], "expected a lesion in slices 11 to 20, found it in 36 to 36"),
        (["--mask", "{fine}"], "expected pixels of 6 mm (those of the checkpoint), found 1 x 1 mm"),
        (["--mask", "{red}", "--z_bins", "1"], "found mode RGB"),
        (["--mask", "{deep}", "--z_bins", "1"], "found mode I;16"),
        (["--mask", "{ones}", "--z_bins", "1"], "expected values above 127, the lesion; found none"),
        (["--mask", "{cut}", "--z_bins", "1"], "not readable as a picture"),
        (["--variant", "absent"], "no 'absent'"),
        (["--fold", "0"], "--fold has no effect with --ckpt"),
        (
            ["--image", "{bright}", "--region", "{volume}"],
            "expected values in [-1, 1], as the stage preprocess writes them, found 300 to 300",
        ),
        (["--id", "x"], "give --from-manifest"),
        (["--priors", "absent.npz"], "generation.background is outside"),
    ],
)
def test_an_invalid_request_is_named_and_nothing_is_written(
    drawing, mask, tmp_path, arguments, named, capsys
):
    files = {name: tmp_path / name for name in ("mask.png", "small.png", "text.txt", "broken.nii")}
    write_png(files["mask.png"], mask.astype(np.uint8) * 255)
    write_png(files["small.png"], mask[:, :16].astype(np.uint8) * 255)
    files["text.txt"].write_text("no picture")
    files["broken.nii"].write_bytes(b"no volume")
    empty = np.zeros((32, 32, 40), np.float32)
    high = empty.copy()
    high[4, 4, 36] = 1
    for name, values in (
        ("empty.nii", empty),
        ("bright.nii", empty + 300),
        ("volume.nii", empty + 1),
        ("high.nii", high),
    ):
        nibabel.save(nibabel.Nifti1Image(values, GRID), tmp_path / name)
        files[name] = tmp_path / name
    nibabel.save(nibabel.Nifti1Image(empty + 1, np.eye(4)), tmp_path / "fine.nii")
    write_png(tmp_path / "red.png", np.stack([mask * 255, mask * 0, mask * 0], -1).astype(np.uint8))
    Image.fromarray(mask.astype(np.uint16) * 65535).save(tmp_path / "deep.png")
    write_png(tmp_path / "ones.png", mask.astype(np.uint8))
    (tmp_path / "cut.png").write_bytes(files["mask.png"].read_bytes()[:45])
    files |= {name: tmp_path / name for name in ("fine.nii", "red.png", "deep.png", "ones.png", "cut.png")}
    filled = [text.format(**{name.split(".")[0]: path for name, path in files.items()}) for text in arguments]
    status, out = drawing(*filled)
    assert status == 2
    assert named in capsys.readouterr().err
    assert not out.exists()


def test_an_image_is_generated_for_a_mask_from_a_picture(drawing, mask, tmp_path):
    # Grey at the border, as smoothed by a drawing program.
    picture = mask.astype(np.uint8) * 255
    picture[5, 20:27] = 90
    write_png(tmp_path / "mine.png", picture)
    status, out = drawing("--mask", tmp_path / "mine.png", "--z_bins", 2, "--n_per_condition", 2)
    assert status == 0
    samples = read_samples(out)
    np.testing.assert_array_equal(samples.masks, [np.where(mask, 1, -1)] * 2)
    rows = read_table(out / "zbin-02.tsv")
    assert {(row["mode"], row["source"], row["class"]) for row in rows} == {
        ("mask_to_image", str(tmp_path / "mine.png"), "1")
    }
    # A stochastic sampler unless the study sets one.
    settings = settings_in(out / "zbin-02")["generation"]
    assert (settings["sampler"], settings["evaluations"]) == ("dpmpp_2m_sde", 40)
    # Samples with a fixed part never mix with those of an earlier run.
    before = {path: path.read_bytes() for path in out.iterdir()}
    status, _ = drawing("--mask", tmp_path / "mine.png", "--z_bins", 1)
    assert status == 2
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_bilevel_and_rgb_pictures_of_a_mask_are_read(drawing, mask, tmp_path):
    Image.fromarray(mask).save(tmp_path / "bits.png")
    write_png(tmp_path / "rgb.png", np.repeat(mask[..., None] * 255, 3, -1).astype(np.uint8))
    status, out = drawing("--mask", tmp_path / "bits.png", tmp_path / "rgb.png", "--z_bins", 2)
    assert status == 0
    np.testing.assert_array_equal(read_samples(out).masks, [np.where(mask, 1, -1)] * 2)


def test_samples_with_a_fixed_mask_are_not_mixed_with_others_in_a_folder(drawing, mask, tmp_path, capsys):
    write_png(tmp_path / "mine.png", mask.astype(np.uint8) * 255)
    status, out = drawing("--mask", tmp_path / "mine.png", "--z_bins", 2)
    assert status == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    for z_bins in ("2", "0"):
        assert drawing("--z_bins", z_bins, "--n_per_condition", 1)[0] == 2
        assert "zbin-02.tsv: samples with a fixed mask or region" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_all_z_bins_of_a_folder_must_have_the_same_configuration(drawing, capsys):
    assert drawing("--z_bins", 0, "--n_per_condition", 1)[0] == 0
    assert drawing("--z_bins", 1, "--n_per_condition", 1, "--seed", 5)[0] == 2
    assert "zbin-00.json: generation.seed: expected 5, found 0" in capsys.readouterr().err
    assert drawing("--z_bins", 1, "--n_per_condition", 3)[0] == 0


def test_a_linked_folder_finds_its_checkpoint(drawing, tmp_path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    status, out = drawing("--z_bins", 0, "--n_per_condition", 1, out="link/samples")
    assert status == 0
    for number, folder in enumerate((out, tmp_path / "real" / "deep" / "samples")):
        arguments = [
            "--from-manifest",
            str(folder / "zbin-00.tsv"),
            "--id",
            "zbin-00_class-1_replica-0_00000",
        ]
        assert cli.generate([*arguments, "--out_dir", str(tmp_path / f"again-{number}")]) == 0


def test_the_sampler_of_the_study_is_kept(drawing, study_values, mask, tmp_path):
    study_values["generation"]["sampler"] = "unipc"
    (tmp_path / "own.yaml").write_text(json.dumps(study_values))
    write_png(tmp_path / "mine.png", mask.astype(np.uint8) * 255)
    _, out = drawing("--mask", tmp_path / "mine.png", "--z_bins", 2, config=tmp_path / "own.yaml")
    evaluations = load_study(tmp_path / "own.yaml").generation.evaluations
    settings = settings_in(out / "zbin-02")["generation"]
    assert (settings["sampler"], settings["evaluations"]) == ("unipc", evaluations)


@pytest.mark.parametrize("reoriented", [False, True])
def test_slices_of_a_volume_go_to_the_z_bins_of_their_z(drawing, trained, mask, tmp_path, reoriented):
    """They have the orientation of the study's slices, for any orientation of the file."""
    card = read_card(trained)
    volume = np.zeros((32, 32, 40), np.uint8)
    z_slices = [card.z_range[0], card.z_range[1]]
    for z in (*z_slices, card.z_range[1] + 1):
        # Rows of a slice run from anterior to posterior, the second axis of a RAS volume the other way.
        volume[:, :, z] = np.rot90(mask, -1)
    picture = nibabel.Nifti1Image(volume, GRID)
    if reoriented:
        picture = picture.as_reoriented(nibabel.orientations.axcodes2ornt("LPS"))
        assert nibabel.aff2axcodes(picture.affine) == ("L", "P", "S")
    nibabel.save(picture, tmp_path / "mine.nii.gz")
    status, out = drawing("--mask", tmp_path / "mine.nii.gz")
    assert status == 0
    samples = read_samples(out)
    assert samples.z_bin.tolist() == [int(z_bin(z, *card.z_range, card.n_bins)) for z in z_slices] == [0, 2]
    np.testing.assert_array_equal(samples.masks, [np.where(mask, 1, -1)] * 2)
    sources = [row["source"] for b in (0, 2) for row in read_table(out / f"zbin-{b:02d}.tsv")]
    assert sources == [f"{tmp_path / 'mine.nii.gz'}:z={z}" for z in z_slices]


@pytest.mark.parametrize("height", ["mm", "relative"])
def test_a_volume_has_no_z_bins_if_they_are_heights_of_a_brain(mask, tmp_path, height):
    volume = np.repeat(np.rot90(mask, -1)[:, :, None], 4, axis=2).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(volume, GRID), tmp_path / "mine.nii.gz")
    grid = SliceGrid((32, 32), 6.0, (0.0, 1.0), 3, height)
    with pytest.raises(DataError, match=rf"single slice with its z-bin.*found 4 slices.*height {height}"):
        read_mask_slices(tmp_path / "mine.nii.gz", grid, None)
    nibabel.save(nibabel.Nifti1Image(volume[:, :, :1], GRID), tmp_path / "mine.nii.gz")
    ((_, number, found),) = read_mask_slices(tmp_path / "mine.nii.gz", grid, 2)
    assert number == 2
    np.testing.assert_array_equal(found, mask)


def test_a_lesion_is_inpainted_in_a_region_of_a_preprocessed_volume(
    drawing, prepared, trained, mask, tmp_path
):
    from slimdiff.data.participants import read_participants

    card = read_card(trained)
    control = next(row for row in read_participants(prepared.paths.participants) if not row.is_patient)
    flair = prepared.paths.volume(control.participant_id, "image")
    volume = nibabel.load(flair)
    z = sum(card.z_range) // 2
    region = np.zeros(volume.shape, np.uint8)
    region[:, :, z] = np.rot90(mask, -1)
    nibabel.save(nibabel.Nifti1Image(region, volume.affine), tmp_path / "region.nii.gz")
    status, out = drawing("--image", flair, "--region", tmp_path / "region.nii.gz", "--n_per_condition", 2)
    assert status == 0
    samples = read_samples(out)
    real = np.rot90(np.asarray(volume.dataobj, np.float32)[:, :, z]).astype(np.float16)
    for image, drawn in zip(samples.images, samples.masks, strict=True):
        np.testing.assert_array_equal(image[~mask].view(np.uint16), real[~mask].view(np.uint16))
        assert (drawn[~mask] == -1).all()
        assert (image[mask] != real[mask]).any()
    name = f"zbin-{samples.z_bin[0]:02d}.tsv"
    assert {row["mode"] for row in read_table(out / name)} == {"inpaint"}


def test_a_sample_is_regenerated_by_its_id(drawing, tmp_path, capsys):
    _, out = drawing("--n_per_condition", 1)
    name = "zbin-01_class-1_replica-0_00000"
    arguments = ["--from-manifest", str(out / "zbin-01.tsv"), "--id", name, "--device", "cpu"]
    assert cli.generate([*arguments, "--out_dir", str(tmp_path / "again")]) == 0
    assert f"{name}.npz: the same bits as in the archive" in capsys.readouterr().out
    stored = read_samples(out)
    with np.load(tmp_path / "again" / f"{name}.npz", allow_pickle=False) as archive:
        place = stored.id.tolist().index(name)
        np.testing.assert_array_equal(archive["images"][0], stored.images[place])
    for more, named in (
        (["--seed", "3"], "--seed has no effect"),
        (["--variant", "base"], "--variant has no effect"),
        ([], "--out-dir"),
        (["--out_dir", str(out)], "the folder of the manifest"),
    ):
        assert cli.generate([*arguments, *more]) == 2
        assert named in capsys.readouterr().err
    assert cli.generate(["--fold", "0"]) == 2
    assert "--config (a study) or --from-manifest" in capsys.readouterr().err


def test_options_that_change_samples_are_refused_for_the_folder_of_the_study(study_file, capsys):
    assert cli.generate(["--config", str(study_file), "--seed", "3"]) == 2
    assert "--seed would draw other samples than the study's" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.generate(["--config", str(study_file), "--n_per_condition", "0"])
    assert stop.value.code == 2
    assert "a whole number of at least 1" in capsys.readouterr().err
