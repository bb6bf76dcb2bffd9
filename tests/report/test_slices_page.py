import matplotlib.image
import numpy as np
import pytest

from slimdiff.report.slices import Page, outline
from slimdiff.report.style import figure_style, save


def naive_boundary(mask):
    """Midpoints between every mask pixel and its 4 neighbours outside, as a set of (x, y)."""
    points = set()
    for row, column in np.argwhere(mask):
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            y, x = row + dy, column + dx
            outside = not (0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]) or not mask[y, x]
            if outside:
                points.add((column + dx / 2, row + dy / 2))
    return points


@pytest.mark.parametrize("seed", range(4))
def test_the_outline_runs_half_way_between_mask_and_background(seed):
    mask = np.random.default_rng(seed).random((9, 7)) < 0.4
    found = {tuple(point) for line in outline(mask) for point in line}
    assert found == naive_boundary(mask)


def test_an_outline_is_closed_at_the_edge_of_the_slice_too():
    (line,) = outline(np.ones((3, 4), bool))
    assert (line[0] == line[-1]).all()
    assert line.min(axis=0).tolist() == [-0.5, -0.5]
    assert line.max(axis=0).tolist() == [3.5, 2.5]


def test_an_empty_mask_has_no_outline():
    assert outline(np.zeros((5, 5), bool)) == []


def tile_dots(tmp_path, mask):
    """The drawn dots of one tile, (rows, columns, 3), and how many dots a slice pixel has."""
    size, dpi = (24, 20), 200
    image = np.linspace(-1, 1, size[0] * size[1]).reshape(size)
    with figure_style():
        page = Page(2, 2, dpi, size, 3.0)
        page.tile(0.5, 0.25, image, mask)
        save(page.figure, tmp_path / "tile.png", "a notice", dpi)
    dots = round(page.pixel * dpi)
    drawn = (matplotlib.image.imread(tmp_path / "tile.png")[:, :, :3] * 255).round().astype(int)
    top, left = round(0.25 * dpi), round(0.5 * dpi)
    return drawn[top : top + size[0] * dots, left : left + size[1] * dots], dots, image


def test_every_slice_pixel_is_a_square_of_equal_dots_with_a_fixed_grey_scale(tmp_path):
    drawn, dots, image = tile_dots(tmp_path, None)
    blocks = drawn[:, :, 0].reshape(24, dots, 20, dots)
    assert dots > 2
    assert (blocks == blocks[:, :1, :, :1]).all()
    np.testing.assert_allclose(blocks[:, 0, :, 0], (image + 1) / 2 * 255, atol=2)  # 256 colours


def test_only_the_border_of_the_mask_is_coloured_and_the_lesion_stays_visible(tmp_path):
    mask = np.zeros((24, 20), bool)
    mask[8:15, 5:12] = True
    drawn, dots, _ = tile_dots(tmp_path, mask)
    plain, *_ = tile_dots(tmp_path, None)
    changed = (drawn != plain).any(axis=2)
    assert changed.any()
    rows, columns = np.nonzero(changed)
    x, y = (columns + 0.5) / dots, (rows + 0.5) / dots
    inside = (np.minimum(x - 5, 12 - x), np.minimum(y - 8, 15 - y))
    distance = np.abs(np.minimum(*inside))
    assert distance.max() < 0.75  # of a slice pixel; the corners are cut
    lesion = changed[8 * dots : 15 * dots, 5 * dots : 12 * dots]
    assert lesion.mean() < 0.2
    assert not lesion[dots:-dots, dots:-dots].any()


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    written = []
    for ending in ("png", "svg", "png", "svg"):
        with figure_style():
            page = Page(2, 1, 100, (24, 20), 3.0)
            page.text(0.1, 0.1, "word")
            save(page.figure, tmp_path / f"page.{ending}", "a notice", 100)
        written.append((tmp_path / f"page.{ending}").read_bytes())
    assert written[0] == written[2]
    assert written[1] == written[3]
