"""Where the brain is expected in each z-bin."""

from slimdiff.config.base import Count, Fraction, NonNegative, Section


class PriorConfig(Section):
    """Mean brain occupancy of a z-bin over the fold's training subjects."""

    sigma_mm: NonNegative = 0.875
    """Gaussian smoothing before Otsu's threshold, in mm (0.7 px of the paper's grid)."""
    threshold: Fraction = 0.2
    """Share of training slices in which a pixel is brain for it to belong to the prior."""
    dilate_mm: NonNegative = 1.25
    """Dilation of the thresholded prior, in mm (1 px of the paper's grid)."""
    low_bins: Count = 5
    """Lowest bins in which up to three components are kept (temporal poles, cerebellum)."""
    min_component_mm2: NonNegative = 781.25
    """Smallest first component, in mm2 (500 px of the paper's grid)."""
    min_share: Fraction = 0.1
    """Smallest further component, as a share of the largest."""
