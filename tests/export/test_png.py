import numpy as np
import pytest

from slimdiff.export import png


def test_a_pair_is_saved_as_grey_levels(cell):
    from PIL import Image

    folder = png.write(cell)
    for case in cell.synthetic():
        image = np.asarray(Image.open(folder / f"{case.sample['id']}_image.png"))
        mask = np.asarray(Image.open(folder / f"{case.sample['id']}_mask.png"))
        assert image.dtype == mask.dtype == np.uint8
        exact = (case.image.astype(np.float64) + 1) * 127.5
        assert np.abs(image - exact).max() <= 0.5 + 1e-4
        assert np.array_equal(mask, np.where(case.mask, 255, 0))


def test_the_contact_sheet_outlines_non_empty_masks_only(study, opened, configured):
    from PIL import Image

    for tau, outlined in ((0.0, True), (0.95, False)):
        folder = png.write(opened(configured(study, tau=tau), 0))
        sheet = np.asarray(Image.open(folder / "sheet.png").convert("RGB")).astype(int)
        orange = np.abs(sheet - (255, 176, 0)).sum(axis=2) < 30
        # Class 0 is on the left; its masks are empty.
        assert orange.any() == outlined and not orange[:, : sheet.shape[1] // 2].any()


def test_an_export_without_samples_is_an_error(cell):
    cell.__dict__["left_out"] = {"without_suspects": {case.sample["id"] for case in cell.synthetic()}}
    with pytest.raises(ValueError, match=r"no sample is left to export; set export.without_suspects and"):
        png.write(cell)
    assert not cell.study.paths.export("png", "base", 0).exists()
