"""One phantom subject: a FLAIR-like brain from the ICBM152 tissue maps, and for patients one FCD-like lesion.

The anatomy is real: the population average in the nilearn package. Warp, contrast, artefacts and lesion are
random. Every draw has its own random stream, keyed by study seed, participant and purpose. Warp and contrast
do not depend on the voxel size. A participant has the same brain as patient and as control.

Lengths are in mm, positions in the RAS world of the template. Intensities are relative to white matter ≈ 0.5
until the scanner gain is applied at the end.
"""

from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np

FIELD_OF_VIEW_MM = (176.0, 208.0, 180.0)
CENTRE_MM = (0.0, -20.0, 5.0)
VENTRICLES_MM = (0.0, -10.0, 12.0)

# Probability of a lesion, and its box |x|, y, z in mm, without cerebellum and deep grey matter.
LOBES = {
    "frontal": (0.40, (18, 60), (8, 58), (5, 60)),
    "temporal": (0.25, (42, 65), (-32, 2), (-25, 2)),
    "parietal": (0.20, (15, 60), (-68, -30), (28, 60)),
    "occipital": (0.15, (12, 45), (-95, -75), (-2, 30)),
}


@dataclass(frozen=True)
class Site:
    """Lobe and hemisphere ("left" or "right") of a lesion, and whether it has a transmantle tail."""

    lobe: str
    hemisphere: str
    transmantle: bool


def lesion_site(participant_id: str, seed: int) -> Site:
    """Draw lobe, hemisphere and kind of the participant's lesion."""
    rng = stream(seed, participant_id, "site")
    lobe = rng.choice(list(LOBES), p=[box[0] for box in LOBES.values()])
    return Site(str(lobe), str(rng.choice(["left", "right"])), bool(rng.random() < 0.4))


def stream(seed: int, participant_id: str, purpose: str) -> np.random.Generator:
    """Random stream for one purpose of one participant, independent of all other draws and their order."""
    key = sha256(f"{participant_id}/{purpose}".encode()).digest()
    return np.random.default_rng(np.random.SeedSequence([seed, *np.frombuffer(key, dtype="<u4").tolist()]))


def make_subject(
    participant_id: str, group: str, seed: int, voxel_mm: float = 2.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make one subject.

    Args:
        participant_id: BIDS label such as "sub-007"; together with `seed` it determines all draws.
        group: "fcd" (one lesion) or "control" (none).
        seed: study seed, ≥ 0.
        voxel_mm: isotropic voxel size, mm.

    Returns:
        image: (X, Y, Z) float32, whole scanner units ≥ 0, 0 outside the brain.
        mask: (X, Y, Z) uint8 in {0, 1}.
        affine: (4, 4) float64, voxel index → RAS world in mm.

    Raises:
        ValueError: unknown group, or a voxel size outside [1, 6] mm.
    """
    if group not in ("fcd", "control"):
        raise ValueError(f"{participant_id}: expected group 'fcd' or 'control', found {group!r}")
    axes, affine = grid(voxel_mm)
    place = warp(axes, stream(seed, participant_id, "warp"))
    contrast = stream(seed, participant_id, "contrast")
    tissue, brain = segment(place, csf_boost=contrast.uniform(1.1, 2.0))
    clean = flair(tissue, axes, contrast)
    mask = np.zeros(brain.shape, np.uint8)
    if group == "fcd":
        site = lesion_site(participant_id, seed)
        clean, mask = add_lesion(
            clean, tissue, brain, place, axes, site, stream(seed, participant_id, "lesion")
        )
    return acquire(clean, brain, axes, stream(seed, participant_id, "scanner")), mask, affine


def grid(voxel_mm: float) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Voxel centres along each axis (three arrays, mm) and the affine of a grid centred on the brain.

    Raises:
        ValueError: a voxel size outside [1, 6] mm.
    """
    if not 1.0 <= voxel_mm <= 6.0:
        raise ValueError(f"phantom: expected voxel_mm from 1 to 6 mm, found {voxel_mm}")
    affine = np.diag([voxel_mm, voxel_mm, voxel_mm, 1.0])
    axes = []
    for axis, (extent, centre) in enumerate(zip(FIELD_OF_VIEW_MM, CENTRE_MM, strict=True)):
        count = int(np.ceil(extent / voxel_mm))
        affine[axis, 3] = centre - voxel_mm * (count - 1) / 2
        axes.append(affine[axis, 3] + voxel_mm * np.arange(count))
    return tuple(axes), affine


@cache
def templates() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Maps gm, wm and brain on the 1 mm template grid, float32 in [0, 1], and the grid's origin in mm.

    Read directly from the installed nilearn package, without network access: importing nilearn.datasets
    takes seconds.
    """
    import nibabel

    package = find_spec("nilearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the phantom requires the ICBM152 maps of nilearn: pip install nilearn")
    folder = Path(package.origin).parent / "datasets" / "data"
    maps = {}
    for name in ("gm", "wm", "t1"):
        path = folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not found in this version of nilearn; install nilearn 0.13")
        image = nibabel.load(path)
        maps[name] = np.asarray(image.dataobj).astype(np.float32) / 255
    maps["brain"] = (maps.pop("t1") > 0).astype(np.float32)
    if not np.array_equal(image.affine[:3, :3], np.eye(3)):
        raise ValueError(f"{path}: expected a 1 mm RAS grid, found the affine {image.affine.tolist()}")
    return maps, image.affine[:3, 3]


def smooth_field(axes: tuple[np.ndarray, ...], spacing_mm: float, rng: np.random.Generator) -> np.ndarray:
    """Random field of mean 0 and variance 1: cubic B-splines with normal weights on a lattice in mm.

    The lattice covers the field of view and does not depend on the voxels: all voxel sizes sample the same field.
    """
    bases = []
    for axis, extent, centre in zip(axes, FIELD_OF_VIEW_MM, CENTRE_MM, strict=True):
        knots = np.arange(int(np.ceil(extent / spacing_mm)) + 5) - 2.0
        distance = np.abs((axis[:, None] - centre + extent / 2) / spacing_mm - knots)
        basis = np.where(
            distance < 1, 2 / 3 - distance**2 + distance**3 / 2, np.clip(2 - distance, 0, None) ** 3 / 6
        )
        bases.append((basis / np.linalg.norm(basis, axis=1, keepdims=True)).astype(np.float32))
    field = rng.standard_normal([basis.shape[1] for basis in bases], dtype=np.float32)
    for basis in bases:
        # einsum, not a BLAS product: the last bit of a BLAS product depends on the number of threads.
        field = np.einsum("ijk,ai->jka", field, basis)
    return field


def warp(axes: tuple[np.ndarray, ...], rng: np.random.Generator) -> np.ndarray:
    """Template position of every voxel, (3, X, Y, Z) float32 in mm.

    The warp combines a small rotation, scale and shift; wider or narrower ventricles; a smooth displacement
    of a few mm, which also breaks the symmetry of the template; and a finer one, which changes the folding.
    """
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_euler("xyz", rng.normal(0, (2.0, 2.0, 2.5)), degrees=True).as_matrix()
    scale = rng.normal(1.03, 0.015) * np.exp(rng.normal(0, 0.015, 3))
    shift = rng.normal(0, 1.2, 3)
    centred = np.stack(np.meshgrid(*axes, indexing="ij")).astype(np.float32)
    centre = np.array(CENTRE_MM, np.float32).reshape(3, 1, 1, 1)
    linear = (np.diag(np.clip(scale, 0.97, 1.1)) @ turn).astype(np.float32)
    place = (
        np.einsum("ij,jxyz->ixyz", linear, centred - centre)
        + centre
        + shift.reshape(3, 1, 1, 1).astype(np.float32)
    )

    from_ventricles = place - np.array(VENTRICLES_MM, np.float32).reshape(3, 1, 1, 1)
    nearness = np.exp(-np.sum(from_ventricles**2, axis=0) / (2 * 24.0**2))
    place -= np.float32(rng.uniform(-0.3, 0.3)) * nearness * from_ventricles
    for axis in range(3):
        place[axis] += 2.6 * smooth_field(axes, 32.0, rng) + 1.0 * smooth_field(axes, 13.0, rng)
    return place


def segment(place: np.ndarray, csf_boost: float) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Tissue fractions csf, gm, wm (float32, sum 1 in the brain) and the brain (bool) at template positions.

    The average of many heads is blurred. Squaring the fractions restores the edges of a single head, and
    `csf_boost` opens the sulci.
    """
    from scipy.ndimage import map_coordinates

    maps, origin = templates()
    index = place - origin.astype(np.float32).reshape(3, 1, 1, 1)
    gm, wm, brain = (map_coordinates(maps[name], index, order=1) for name in ("gm", "wm", "brain"))
    inside = brain > 0.5
    fractions = {"csf": csf_boost * np.clip(1 - gm - wm, 0, 1), "gm": gm, "wm": wm}
    sharp = {name: np.where(inside, fraction, 0) ** 2 for name, fraction in fractions.items()}
    total = np.maximum(sum(sharp.values()), 1e-6)
    return {name: (fraction / total).astype(np.float32) for name, fraction in sharp.items()}, inside


def flair(
    tissue: dict[str, np.ndarray], axes: tuple[np.ndarray, ...], rng: np.random.Generator
) -> np.ndarray:
    """Noise-free FLAIR contrast: dark fluid, grey matter brighter than white, and a faint texture in both."""
    csf, wm, gm = rng.normal((0.12, 0.50, 0.665), (0.025, 0.012, 0.018))
    clean = csf * tissue["csf"] + wm * tissue["wm"] + gm * tissue["gm"]
    texture = 0.014 * smooth_field(axes, 6.0, rng) + 0.014 * smooth_field(axes, 20.0, rng)
    return (clean + texture * (1 - tissue["csf"])).astype(np.float32)


def add_lesion(
    clean: np.ndarray,
    tissue: dict[str, np.ndarray],
    brain: np.ndarray,
    place: np.ndarray,
    axes: tuple[np.ndarray, ...],
    site: Site,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Add one FCD-like lesion to a clean image; return the image and the lesion mask.

    The lesion is a noisy ellipsoid in template space, pulled towards the cortical ribbon and grown to a drawn
    volume. It follows the folds and stays in its hemisphere. Inside it the grey–white boundary is blurred and
    the signal raised. A transmantle tail tapers from the lesion to the nearest ventricle.
    """
    from scipy.ndimage import binary_closing, binary_fill_holes, gaussian_filter, label

    voxel_mm = float(axes[0][1] - axes[0][0])
    centre, ventricle = lesion_ends(site, rng)
    radii = rng.uniform(0.75, 1.35, 3)
    volume_mm3 = np.exp(rng.uniform(np.log(4500), np.log(10000)))
    rise = rng.uniform(0.12, 0.19) * (1 + 0.15 * smooth_field(axes, 7.0, rng))

    offset = place - centre.reshape(3, 1, 1, 1).astype(np.float32)
    size = (3 * volume_mm3 / (4 * np.pi)) ** (1 / 3)
    distance = np.sqrt(sum((offset[axis] / (radii[axis] * size)) ** 2 for axis in range(3)))
    ribbon = np.clip(gaussian_filter(tissue["gm"], 2.5 / voxel_mm) / 0.4, 0, 1)
    solid = 1 - gaussian_filter(tissue["csf"], 1.0 / voxel_mm)
    score = 1 - distance + 0.18 * smooth_field(axes, 8.0, rng) - 1.0 * (1 - ribbon) - 0.8 * (1 - solid)
    score[~brain | (place[0] * centre[0] < 0)] = -np.inf
    count = round(volume_mm3 / voxel_mm**3)
    weight = 1 / (
        1 + np.exp(np.clip((np.partition(score, -count, axis=None)[-count] - score) / 0.08, -50, 50))
    )
    if site.transmantle:
        weight = np.maximum(weight, 0.8 * tail(offset, ventricle - centre) * tissue["wm"])

    parts, _ = label(binary_closing(weight > 0.5) & brain)
    mask = binary_fill_holes(parts == 1 + np.argmax(np.bincount(parts.ravel())[1:])) & brain
    soft = gaussian_filter(np.where(mask, np.maximum(weight, 0.5), 0), 1.2 / voxel_mm).astype(np.float32)

    matter = 1 - tissue["csf"]
    blurred = gaussian_filter(clean * matter, 3.0 / voxel_mm) / np.maximum(
        gaussian_filter(matter, 3.0 / voxel_mm), 0.05
    )
    blended = clean + soft * matter * (blurred - clean)
    return (blended + rise * soft * matter).astype(np.float32), mask.astype(np.uint8)


def lesion_ends(site: Site, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Lesion centre in the cortex of the lobe, and the nearest point of the lateral ventricle, mm."""
    _, x_range, y_range, z_range = LOBES[site.lobe]
    cortex, ventricles = landmarks()
    low, high = np.transpose([x_range, y_range, z_range])
    inside = cortex[np.all((cortex >= low) & (cortex <= high), axis=1)]
    side = np.array([1.0 if site.hemisphere == "right" else -1.0, 1.0, 1.0])
    centre = inside[rng.integers(len(inside))]
    ventricle = ventricles[np.argmin(np.sum((ventricles - centre) ** 2, axis=1))]
    return centre * side, ventricle * side


@cache
def landmarks() -> tuple[np.ndarray, np.ndarray]:
    """Positions (n, 3) in mm in the right half of the template: in grey matter, and in the ventricle."""
    maps, origin = templates()
    cortex = np.argwhere(maps["gm"] > 0.7) + origin
    fluid = np.argwhere(maps["brain"] - maps["gm"] - maps["wm"] > 0.8) + origin
    low, high = (5, -50, -5), (35, 40, 32)
    return cortex[cortex[:, 0] > 0], fluid[np.all((fluid >= low) & (fluid <= high), axis=1)]


def tail(offset: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Cone from the lesion centre (radius 5 mm) to the ventricle (2 mm) with a soft edge, in [0, 1]."""
    along = np.clip(np.einsum("i,ixyz->xyz", end, offset) / (end @ end), 0, 1)
    distance = np.sqrt(sum((offset[axis] - along * end[axis]) ** 2 for axis in range(3)))
    return np.clip((5 - 3 * along) / 2 + 0.5 - distance / 2, 0, 1)


def acquire(
    clean: np.ndarray, brain: np.ndarray, axes: tuple[np.ndarray, ...], rng: np.random.Generator
) -> np.ndarray:
    """Point spread, coil shading, Rician noise and gain; skull-stripped, in whole scanner units."""
    from scipy.ndimage import gaussian_filter

    voxel_mm = float(axes[0][1] - axes[0][0])
    shading = np.exp(0.05 * smooth_field(axes, 90.0, rng))
    gain, sigma = rng.uniform(500, 1100), rng.uniform(0.015, 0.03)
    signal = gaussian_filter(clean, 0.8 / voxel_mm) * shading
    noise = sigma * rng.standard_normal((2, *clean.shape), dtype=np.float32)
    image = np.hypot(signal + noise[0], noise[1]) * brain
    return np.round(np.clip(gain * image, 0, 32767)).astype(np.float32)
