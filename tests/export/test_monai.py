import json

import numpy as np
import pytest

from slimdiff.export import monai

PARTS = {"training": "train", "validation": "val", "test": "test"}


def test_monai_loads_the_pairs(cell):
    data = pytest.importorskip("monai.data", reason="monai is not installed")
    transforms = pytest.importorskip("monai.transforms")
    folder = monai.write(cell)
    load = transforms.LoadImaged(keys=["image", "label"], image_only=True)
    for part, split in PARTS.items():
        entries = data.load_decathlon_datalist(str(folder / "datalist.json"), True, part)
        cases = [*cell.real(split), *(cell.synthetic() if split == "train" else ())]
        assert len(entries) == len(cases) > 0
        for entry, case in zip(entries, cases, strict=True):
            loaded = load(entry)
            assert np.array_equal(loaded["image"].numpy()[:, ::-1, 0].T, case.image)
            assert np.array_equal(loaded["label"].numpy()[:, ::-1, 0].T, case.mask)
            assert loaded["image"].affine.numpy() == pytest.approx(case.affine, abs=1e-5)
            assert (entry["class"], entry["z_bin"]) == (case.label, case.z_bin)


@pytest.mark.parametrize("fold", [0, 1])
def test_synthetic_slices_are_training_data_and_subjects_keep_their_split(study, opened, fold):
    cell = opened(study, fold)
    content = json.loads((monai.write(cell) / "datalist.json").read_text())
    for part, split in PARTS.items():
        assert {entry["participant"] for entry in content[part] if not entry["synthetic"]} == set(
            cell.parts[split]
        )
    assert [entry["sample"] for entry in content["training"] if entry["synthetic"]] == [
        case.sample["id"] for case in cell.synthetic()
    ]
    assert not any(entry["synthetic"] for part in ("validation", "test") for entry in content[part])
