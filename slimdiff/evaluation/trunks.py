"""The convolutional parts of AlexNet and VGG16, as plain convolutions with the five stages that LPIPS reads.

Krizhevsky 2014 ("one weird trick", as in torchvision); Simonyan & Zisserman 2015; stages: Zhang et al. 2018.
"""

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from slimdiff import weights

# ImageNet's mean and standard deviation, expressed for inputs in [-1, 1] and rounded as LPIPS rounds them.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Trunk(nn.Module):
    """Stages of convolutions with ReLU, pooled in between; `forward` returns every stage.

    A subclass states `STAGES`: per stage its pooling (kernel, stride) or None, and its convolutions as
    (channels in, channels out, kernel, stride, padding).
    """

    NAME: ClassVar[str]
    STAGES: ClassVar[tuple]

    def __init__(self):
        super().__init__()
        convolutions = [convolution for _, stage in self.STAGES for convolution in stage]
        for i, (channels_in, channels_out, kernel, stride, padding) in enumerate(convolutions):
            self.add_module(f"conv{i}", nn.Conv2d(channels_in, channels_out, kernel, stride, padding))
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def channels(cls) -> tuple[int, ...]:
        """Channels of the five stages."""
        return tuple(stage[-1][1] for _, stage in cls.STAGES)

    @classmethod
    def pretrained(cls) -> "Trunk":
        """The trunk with its published weights, frozen.

        Raises:
            WeightsUnavailable: they cannot be had.
        """
        trunk = cls()
        trunk.load_state_dict({k: v for k, v in weights.load(cls.NAME).items() if k.startswith("conv")})
        return trunk.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, grey: torch.Tensor) -> list[torch.Tensor]:
        """Activations of the five stages for grey images.

        Args:
            grey: (B, 1, H, W) in [-1, 1].

        Returns:
            Five tensors (B, channels, h, w), finest first, each after its stage's last ReLU.
        """
        x = (grey.expand(-1, 3, -1, -1) - self.shift) / self.scale
        x = x.contiguous(memory_format=torch.channels_last)
        activations, i = [], 0
        for pooling, stage in self.STAGES:
            if pooling:
                x = F.max_pool2d(x, *pooling)
            for _ in stage:
                x = F.relu(self.get_submodule(f"conv{i}")(x))
                i += 1
            activations.append(x)
        return activations


class AlexNet(Trunk):
    """AlexNet's five convolutions."""

    NAME = "alexnet"
    STAGES = (
        (None, ((3, 64, 11, 4, 2),)),
        ((3, 2), ((64, 192, 5, 1, 2),)),
        ((3, 2), ((192, 384, 3, 1, 1),)),
        (None, ((384, 256, 3, 1, 1),)),
        (None, ((256, 256, 3, 1, 1),)),
    )


class VGG16(Trunk):
    """VGG16's thirteen convolutions."""

    NAME = "vgg16"
    STAGES = (
        (None, ((3, 64, 3, 1, 1), (64, 64, 3, 1, 1))),
        ((2, 2), ((64, 128, 3, 1, 1), (128, 128, 3, 1, 1))),
        ((2, 2), ((128, 256, 3, 1, 1), (256, 256, 3, 1, 1), (256, 256, 3, 1, 1))),
        ((2, 2), ((256, 512, 3, 1, 1), (512, 512, 3, 1, 1), (512, 512, 3, 1, 1))),
        ((2, 2), ((512, 512, 3, 1, 1), (512, 512, 3, 1, 1), (512, 512, 3, 1, 1))),
    )
