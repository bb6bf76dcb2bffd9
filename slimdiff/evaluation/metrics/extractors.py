"""Pretrained networks whose features are compared: AlexNet and VGG16 with the five stages of LPIPS, EfficientNet-Lite0
and DINOv2.

AlexNet: Krizhevsky 2014 ("one weird trick", as in torchvision). VGG16: Simonyan & Zisserman 2015. Stages: Zhang et al.
2018. EfficientNet: Tan & Le 2019. These are written out here, so that a training on a machine with nothing but torch
can monitor its KID.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimdiff import weights

# ImageNet's mean and standard deviation, expressed for inputs in [-1, 1] and rounded as LPIPS rounds them.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class Trunk(nn.Module):
    """Stages of convolutions with ReLU, with pooling between them; `forward` returns every stage.

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
            WeightsUnavailable: they are not available.
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


class SameConvolution(nn.Conv2d):
    """A convolution with bias and TensorFlow's padding SAME: an output has ceil(side / stride) px.

    With a stride, the zeros are unequal: where their number is odd, bottom and right have one more than top and left.
    """

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1):
        padding = kernel // 2 if stride == 1 else 0
        super().__init__(channels_in, channels_out, kernel, stride, padding, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        if stride > 1:
            sides = x.shape[-1], x.shape[-2]
            zeros = [max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in sides]
            x = F.pad(x, [n for total in zeros for n in (total // 2, total - total // 2)])
        return super().forward(x)


class InvertedBottleneck(nn.Module):
    """Pointwise expansion, depthwise convolution, pointwise projection (Sandler et al. 2018), with ReLU6."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        wide = channels_in * expansion
        self.expand = SameConvolution(channels_in, wide, 1) if expansion > 1 else None
        self.depthwise = SameConvolution(wide, wide, kernel, stride, groups=wide)
        self.project = SameConvolution(wide, channels_out, 1)
        self.is_residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.expand(x)) if self.expand else x
        y = self.project(F.relu6(self.depthwise(y)))
        return x + y if self.is_residual else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 up to its pooled features: EfficientNet-B0 with ReLU6 and without squeeze-and-excitation.

    Its batch normalisations are folded into the convolutions (`weights.convert_efficientnet`).
    """

    WIDTH: ClassVar[int] = 1280
    STEM: ClassVar[int] = 32
    # blocks, kernel, stride of the first block, expansion, channels out
    STAGES: ClassVar[tuple] = (
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    )

    def __init__(self):
        super().__init__()
        self.stem = SameConvolution(3, self.STEM, 3, stride=2)
        self.blocks = nn.Sequential()
        channels = self.STEM
        for blocks, kernel, stride, expansion, channels_out in self.STAGES:
            for i in range(blocks):
                block = InvertedBottleneck(channels, channels_out, kernel, 1 if i else stride, expansion)
                self.blocks.append(block)
                channels = channels_out
        self.head = SameConvolution(channels, self.WIDTH, 1)

    @classmethod
    def pretrained(cls) -> "EfficientNetLite0":
        """The network with its published weights, frozen.

        Raises:
            WeightsUnavailable: they are not available.
        """
        network = cls()
        network.load_state_dict(weights.load("efficientnet"))
        return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    def forward(self, grey: Tensor) -> Tensor:
        """Mean of each channel of the last activation.

        Args:
            grey: (B, 1, 224, 224) in grey levels from 0 to 255. They are normalised as in the authors' code:
                minus 127, divided by 128.

        Returns:
            (B, 1280), from 0 to 6.
        """
        x = ((grey - 127) / 128).expand(-1, 3, -1, -1)
        x = F.relu6(self.stem(x.contiguous(memory_format=torch.channels_last)))  # (B, 32, 112, 112)
        x = F.relu6(self.head(self.blocks(x)))  # (B, 1280, 7, 7)
        return x.mean(dim=(2, 3))


DINOV2_WIDTH, DINOV2_PATCH = 384, 14
DINOV2_TRAINED_SIDE = 37
"""Patches along a side of the 518 px images that DINOv2's position embedding was learned on."""
# ImageNet's mean and standard deviation, for inputs in [0, 1].
MEAN = (0.485, 0.456, 0.406)
SD = (0.229, 0.224, 0.225)
# The authors add it to the number of patches before they scale the positions, and their features depend on it.
_INTERPOLATION_OFFSET = 0.1


def dinov2(side_px: int) -> nn.Module:
    """DINOv2's ViT-S/14 (Oquab et al. 2024), by timm: images (B, 3, side_px, side_px) to class tokens (B, 384).

    The image is in [0, 1], normalised with `MEAN` and `SD`. timm would resize the position embedding with
    antialiasing; it is resized here as the authors do.

    Raises:
        WeightsUnavailable: the package timm or the weights are missing, or the file holds another network.
    """
    try:
        from timm import create_model
    except ImportError as error:
        raise weights.WeightsUnavailable(
            f"dinov2 needs the package timm ({error}); pip install 'slimdiff[dinov2]'"
        ) from error
    tensors = weights.load("dinov2")
    network = create_model(
        "vit_small_patch14_dinov2", pretrained=False, num_classes=0, global_pool="token", img_size=side_px
    )
    try:
        tensors["pos_embed"] = resized_positions(tensors["pos_embed"], side_px // DINOV2_PATCH)
        tensors.pop("mask_token", None)  # of the authors' training
        network.load_state_dict(tensors)
    except (RuntimeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).splitlines()[:2])
        raise weights.WeightsUnavailable(
            f"{weights.path('dinov2')}: expected a DINOv2 ViT-S/14 backbone without registers, found another network: "
            f"{reason}"
        ) from error
    return network.eval().requires_grad_(False)


def resized_positions(positions: Tensor, side: int) -> Tensor:
    """A learned position embedding, resized bicubically to `side` x `side` patches.

    Args:
        positions: (1, 1 + 37 x 37, width), the class token's first.
        side: patches along a side.

    Returns:
        (1, 1 + side x side, width).

    Raises:
        RuntimeError: another number of positions.
    """
    grid = positions[:, 1:].unflatten(1, (DINOV2_TRAINED_SIDE, DINOV2_TRAINED_SIDE)).permute(0, 3, 1, 2)
    scale = (side + _INTERPOLATION_OFFSET) / DINOV2_TRAINED_SIDE
    grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
