import json

import nibabel
import numpy as np
import pytest
from helpers.seals import unseal
from helpers.workflow_runs import ROOT, job_counts, snakemake

from slimdiff.config import load_study, study_from_mapping
from slimdiff.export.folder import folder_of, index_file
from slimdiff.stages import config_of, module_of
from slimdiff.stages.export import export_study

FORMATS = ("bids", "nnunet", "monai", "png")


def contents(study, variant: str = "base") -> dict[str, bytes]:
    root = study.paths.root / "export"
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_format_of_every_fold_is_written_and_a_second_run_is_identical(study):
    export_study(study, ["base"], [0, 1])
    assert all(index_file(study, form, "base", fold).is_file() for form in FORMATS for fold in (0, 1))
    first = contents(study)
    export_study(study, ["base"], [0, 1])
    assert contents(study) == first


def test_only_requested_formats_are_written(study, configured):
    export_study(configured(study, formats=("png",)), ["base"], [1])
    assert {name.split("/")[0] for name in contents(study)} == {"png"}
    export_study(study, ["base"], [1], ["monai"])
    assert {name.split("/")[0] for name in contents(study)} == {"png", "monai"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((["none"], [0]), "no variant 'none'; expected one of base, other"),
        ((["base"], [2]), "no fold 2; expected 0 to 1"),
        ((["base"], [0], ["dicom"]), "no format 'dicom'; expected one of bids, nnunet, monai, png"),
    ],
)
def test_unknown_names_are_refused(study, arguments, words):
    with pytest.raises(ValueError, match=words):
        export_study(study, *arguments)


def test_a_variant_without_samples_is_named(study):
    with pytest.raises(FileNotFoundError, match=r"samples/other/fold-0/zbin-00.npz: not found"):
        export_study(study, ["other"], [0], ["png"])
    assert not (study.paths.root / "export" / "png" / "other" / "fold-0").exists()


def test_real_slices_are_exactly_aligned_with_their_volume(study):
    export_study(study, ["base"], [0], ["nnunet"])
    folder = folder_of(study, "nnunet", "base", 0)
    checked = 0
    for path in folder.glob("imagesT*/sub-*"):
        participant, z = path.name.removesuffix("_0000.nii.gz").split("_z")
        one, label = (
            nibabel.load(path),
            nibabel.load(str(path).replace("images", "labels").replace("_0000", "")),
        )
        for kind, found in (("image", one), ("mask", label)):
            volume = nibabel.load(study.paths.volume(participant, kind))
            to_volume = np.linalg.inv(volume.affine) @ found.affine
            for i, j in ((0, 0), (9, 0), (3, 11), (2, 8)):
                where = to_volume @ (i, j, 0, 1)
                assert where[:3] == pytest.approx([i, j, int(z)], abs=1e-4)
                assert found.dataobj[i, j, 0] == volume.dataobj[tuple(where[:3].round().astype(int))]
        checked += 1
    # Six slices per subject.
    assert checked == 24


def test_torchio_reads_a_pair_as_one_subject(study):
    torchio = pytest.importorskip("torchio", reason="torchio is not installed")
    export_study(study, ["base"], [0], ["bids"])
    anat = sorted(study.paths.export("bids", "base", 0).glob("sub-*class1*/anat"))[0]
    subject = torchio.Subject(
        image=torchio.ScalarImage(next(anat.glob("*_FLAIR.nii.gz"))),
        mask=torchio.LabelMap(next(anat.glob("*_mask.nii.gz"))),
    )
    subject.check_consistent_space()
    assert subject.spacing == pytest.approx((2, 2, 2)) and subject["image"].orientation == ("R", "A", "S")
    assert set(subject["mask"].numpy().ravel()) == {0, 1}


def test_the_settings_passed_by_the_rule_suffice(study):
    again = load_study(config_of("export", study)).only(module_of("export").NEEDS, "export")
    export_study(again, ["base"], [1], ["monai"])
    assert (study.paths.export("monai", "base", 1) / "datalist.json").is_file()


@pytest.mark.parametrize(
    ("formats", "words"),
    [([], "at least 1 item"), (["dicom"], "dicom"), (["png", "png"], "duplicate format")],
)
def test_invalid_formats_are_a_configuration_error(formats, words):
    with pytest.raises(ValueError, match=words):
        study_from_mapping({"export": {"formats": formats}})


def test_the_export_is_a_separate_target(tmp_path):
    demo = str(ROOT / "config" / "demo.yaml")
    done = snakemake("export", "--dry-run", "--configfile", demo, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    counts = job_counts(done.stdout)
    assert counts["export"] == 1 and counts["generate"] == 12 and counts["metrics"] == 2


def test_readers_learn_which_z_bins_have_no_lesions(study):
    """By `generation.where`: the archives of these z-bins say so."""
    reason = "no sample of class 1: 1 training subject with a lesion in this z-bin"
    path = study.paths.samples_stem("base", 0, 1).with_suffix(".json")
    unseal(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "not_drawn": reason}))
    export_study(study, ["base"], [0, 1], ["bids", "nnunet", "monai"])
    for form, name in (("bids", "README"), ("nnunet", "README.md"), ("monai", "datalist.json")):
        for fold, said in ((0, True), (1, False)):
            text = (folder_of(study, form, "base", fold) / name).read_text()
            assert ("No sample of class 1 in z-bins 1: fewer than two training subjects" in text) == said
