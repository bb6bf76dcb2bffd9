"""Rigid or affine registration to the ICBM152 template (T1, skull-stripped), by mutual information.

The metric is that of Mattes et al. 2003, as in SimpleITK; the image may have another contrast than the template. All
coordinates are RAS mm. SimpleITK gets working copies along the world's axes, so its LPS convention does not matter.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK as sitk

from slimdiff.config.preprocess import RegistrationConfig
from slimdiff.data.participants import DataError
from slimdiff.data.volumes.grid import as_image, centred_grid, one_thread, resample

WORKING_MM = 2.0
HISTOGRAM_BINS = 32
SAMPLING = 0.2
"""Share of voxels that the metric samples."""
SEED = 0
"""Seed of this sampling."""
START_DEGREES = (-20, 0, 20)
START_SCALES = (0.7, 0.85, 1.0)
LEVELS = ((4, 4.0), (2, 2.0), (1, 0.0))
"""Shrink factor of the working copy and SD of the smoothing in mm, coarse to fine."""
MOST_DEGREES = 60.0
SCALES = (0.6, 1.6)


@dataclass(frozen=True)
class Registration:
    """Transform from a volume's world to the template's, and its mutual information."""

    to_template_mm: np.ndarray
    """(4, 4), source's world to template's world, RAS mm."""
    information: tuple[float, float]
    """Mutual information (nats) with the template at the start (centres aligned) and at the end."""


@cache
def template() -> tuple[np.ndarray, np.ndarray]:
    """The ICBM152 2009a T1 template without skull, float32 (197, 233, 189) in [0, 1], and its affine (4, 4), RAS mm.

    Read directly from the installed nilearn package, because importing nilearn.datasets takes seconds.
    """
    package = find_spec("nilearn")
    if package is None or package.origin is None:
        raise ModuleNotFoundError(
            "registration requires the ICBM152 template of nilearn: pip install nilearn"
        )
    path = Path(package.origin).parent / "datasets" / "data"
    path /= "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found in this version of nilearn; install nilearn 0.13")
    image = nibabel.load(path)
    return np.asarray(image.dataobj).astype(np.float32) / 255, np.asarray(image.affine)


@cache
def template_centre_mm() -> np.ndarray:
    """Centre (3,) of the bounding box of the template's brain, RAS mm."""
    values, affine = template()
    brain = np.argwhere(values > 0)
    return nibabel.affines.apply_affine(affine, (brain.min(axis=0) + brain.max(axis=0)) / 2)


def register(
    values: np.ndarray, affine: np.ndarray, inside: np.ndarray, config: RegistrationConfig
) -> Registration:
    """Find the transform from a volume's world to the template's.

    Args:
        values: (X, Y, Z), any contrast, and `affine` (4, 4), mm.
        inside: bool (X, Y, Z), brain or head; the search starts with its centre on the template's.

    Raises DataError if the result is implausible; see `check`.
    """
    fixed = _working_template()
    moving = _working_copy(values, affine, inside)
    source_centre = nibabel.affines.apply_affine(affine, np.argwhere(inside).mean(axis=0))
    target_centre = _template_mean_mm()
    with one_thread():
        start = sitk.Similarity3DTransform()
        start.SetCenter(target_centre.tolist())
        start.SetTranslation((source_centre - target_centre).tolist())
        before = _information(fixed, moving, start)
        found = _optimised(fixed, moving, _best_start(fixed, moving, start), LEVELS)
        if config.transform == "affine":
            free = sitk.AffineTransform(3)
            free.SetCenter(found.GetCenter())
            free.SetMatrix(found.GetMatrix())
            free.SetTranslation(found.GetTranslation())
            found = _optimised(fixed, moving, free, LEVELS[1:])
        after = _information(fixed, moving, found)
        check(as_matrix(found), before, after)
        if config.transform == "rigid":
            # The scale only serves the search: brains are a fifth smaller than the template, and a search without scale
            # would match their borders to it.
            found.SetScale(1.0)
    to_source = as_matrix(found)
    return Registration(np.linalg.inv(to_source), (before, after))


def check(to_source: np.ndarray, before: float, after: float) -> None:
    """Raise DataError if a registration is implausible.

    It is plausible if it increases mutual information, does not mirror, turns by at most 60° and scales by 0.6 to 1.6.

    Args:
        to_source: (4, 4), template's world to source's world, mm.
        before, after: mutual information at the start and at the end.
    """
    left, scales, right = np.linalg.svd(to_source[:3, :3])
    # Angle of the nearest rotation (polar decomposition).
    cosine = (np.trace(left @ right) - 1) / 2
    degrees = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    low, high = SCALES
    wrong = []
    if not after > before:
        wrong.append(
            f"mutual information did not increase ({before:.3g} at the start, {after:.3g} at the end)"
        )
    if np.linalg.det(to_source[:3, :3]) < 0:
        wrong.append("the transform mirrors the volume")
    elif degrees > MOST_DEGREES:
        wrong.append(f"expected a rotation of at most {MOST_DEGREES:.0f}°, found {degrees:.0f}°")
    if scales.min() < low or scales.max() > high:
        wrong.append(f"expected scales of {low} to {high}, found {scales.min():.2f} to {scales.max():.2f}")
    if wrong:
        raise DataError(
            f"registration failed: {'; '.join(wrong)}; inspect the image and its header, extract the brain "
            "(preprocess.brain), exclude the participant (data.exclude), or set preprocess.registration.transform: none"
        )


def as_matrix(transform: sitk.Transform) -> np.ndarray:
    """A SimpleITK transform with matrix, centre and translation as one matrix (4, 4)."""
    matrix = np.eye(4)
    matrix[:3, :3] = np.array(transform.GetMatrix()).reshape(3, 3)
    centre = np.array(transform.GetCenter())
    matrix[:3, 3] = centre + transform.GetTranslation() - matrix[:3, :3] @ centre
    return matrix


@cache
def _template_mean_mm() -> np.ndarray:
    values, affine = template()
    return nibabel.affines.apply_affine(affine, np.argwhere(values > 0).mean(axis=0))


@cache
def _working_template() -> sitk.Image:
    values, affine = template()
    whole = as_image(values, 1.0, affine[:3, 3])
    return sitk.BinShrink(whole, [int(WORKING_MM)] * 3)


def _working_copy(values: np.ndarray, affine: np.ndarray, inside: np.ndarray) -> sitk.Image:
    """The volume cropped around `inside`, with isotropic voxels along the world's axes."""
    from scipy import ndimage

    box = ndimage.find_objects(inside.view(np.uint8))[0]
    corners = np.array(list(product(*((part.start, part.stop - 1) for part in box))))
    places = nibabel.affines.apply_affine(affine, corners)
    low, high = places.min(axis=0) - 10, places.max(axis=0) + 10
    shape = np.ceil((high - low) / WORKING_MM).astype(int) + 1
    grid = centred_grid((low + high) / 2, WORKING_MM, tuple(int(n) for n in shape))
    copy = resample(values, affine, grid, outside=float(values.min()))
    return as_image(copy.astype(np.float32), WORKING_MM, grid.affine[:3, 3])


def _metric() -> sitk.ImageRegistrationMethod:
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SAMPLING, SEED + 1)  # ITK takes 0 as "seed from the clock"
    method.SetInterpolator(sitk.sitkLinear)
    return method


def _information(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float:
    method = _metric()
    method.SetInitialTransform(transform)
    return -float(method.MetricEvaluate(fixed, moving))


def _best_start(
    fixed: sitk.Image, moving: sitk.Image, start: sitk.Similarity3DTransform
) -> sitk.Similarity3DTransform:
    """The rotation and scale of the start with the most mutual information, by a coarse grid search."""
    shrink, sigma = LEVELS[0]
    coarse = [
        sitk.Shrink(sitk.SmoothingRecursiveGaussian(image, sigma), [shrink] * 3) for image in (fixed, moving)
    ]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetInterpolator(sitk.sitkLinear)
    best, most = start, -np.inf
    for scale, *degrees in product(START_SCALES, *[START_DEGREES] * 3):
        turn = sitk.Euler3DTransform()
        turn.SetRotation(*np.radians(degrees).tolist())
        tried = sitk.Similarity3DTransform(start)
        tried.SetMatrix((scale * np.array(turn.GetMatrix())).tolist())
        method.SetInitialTransform(tried)
        information = -method.MetricEvaluate(*coarse)
        if information > most:
            best, most = tried, information
    return best


def _optimised(fixed, moving, start, levels) -> sitk.Transform:
    method = _metric()
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=2.0, minStep=1e-3, numberOfIterations=200, relaxationFactor=0.6
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([shrink for shrink, _ in levels])
    method.SetSmoothingSigmasPerLevel([sigma for _, sigma in levels])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    moved = type(start)(start)
    method.SetInitialTransform(moved, inPlace=True)
    method.Execute(fixed, moving)
    return moved
