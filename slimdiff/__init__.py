"""Joint diffusion of FLAIR slices and lesion masks for small cohorts."""

__version__ = "0.1.0"
