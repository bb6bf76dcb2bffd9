"""The network: torch only."""

from slimdiff.model.unet import UNet

__all__ = ["UNet"]
