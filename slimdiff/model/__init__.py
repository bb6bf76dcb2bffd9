"""The network: torch only."""

from slimdiff.model.unet import JointUNet

__all__ = ["JointUNet"]
