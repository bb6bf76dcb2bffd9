"""The convolutional parts of AlexNet and VGG16, as plain convolutions with the five stages that LPIPS reads.

Krizhevsky 2014 ("one weird trick", as in torchvision); Simonyan & Zisserman 2015; stages: Zhang et al. 2018.
"""

from typing import ClassVar

import torch
from torch import Tensor, nn
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


WIDTH, DEPTH, HEADS, PATCH = 384, 12, 6, 14
TRAINED_SIDE = 37  # patches along a side of the 518 px images that the positions were learned on
_NORM_EPS = 1e-6
# ImageNet's mean and standard deviation, for inputs in [0, 1].
MEAN = (0.485, 0.456, 0.406)
SD = (0.229, 0.224, 0.225)
# The authors add it to the number of patches before they scale the positions, and their features depend on it.
_INTERPOLATION_OFFSET = 0.1


class LayerScale(nn.Module):
    """A learned factor a channel (Touvron et al. 2021)."""

    def __init__(self):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(WIDTH))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens * self.gamma


class Attention(nn.Module):
    """Multi-head self-attention of tokens (B, N, WIDTH)."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention, then a layer of four times the width, each normalised before and scaled after."""

    def __init__(self):
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH, eps=_NORM_EPS)
        self.attn = Attention()
        self.ls1 = LayerScale()
        self.norm2 = nn.LayerNorm(WIDTH, eps=_NORM_EPS)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(WIDTH, 4 * WIDTH), "fc2": nn.Linear(4 * WIDTH, WIDTH)})
        self.ls2 = LayerScale()

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1(self.attn(self.norm1(tokens)))
        hidden = F.gelu(self.mlp["fc1"](self.norm2(tokens)))
        return tokens + self.ls2(self.mlp["fc2"](hidden))


class VisionTransformer(nn.Module):
    """Images to the normalised class token of the last block."""

    def __init__(self):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.mask_token = nn.Parameter(torch.zeros(1, WIDTH))  # of the authors' training; unused
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + TRAINED_SIDE**2, WIDTH))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, PATCH, stride=PATCH)})
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=_NORM_EPS)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("sd", torch.tensor(SD).view(1, 3, 1, 1), persistent=False)

    @classmethod
    def pretrained(cls) -> "VisionTransformer":
        """The network with the weights that were given, frozen.

        Raises:
            WeightsUnavailable: there are none, or they are not those of a ViT-S/14 without registers.
        """
        network = cls()
        try:
            network.load_state_dict(weights.load("dinov2"))
        except RuntimeError as error:
            if isinstance(error, weights.WeightsUnavailable):
                raise
            said = str(error).splitlines()[0:2]
            raise weights.WeightsUnavailable(
                f"{weights.path('dinov2')} is no DINOv2 ViT-S/14 backbone: {' '.join(said)}"
            ) from error
        return network.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        """The class token.

        Args:
            image: (B, 3, H, W) in [0, 1], sides that are multiples of 14 px.

        Returns:
            (B, 384).
        """
        patches = self.patch_embed["proj"]((image - self.mean) / self.sd)  # (B, WIDTH, h, w)
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], dim=1)
        tokens = tokens + self._positions(*patches.shape[2:])
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)[:, 0]

    def _positions(self, height: int, width: int) -> Tensor:
        """(1, 1 + h * w, WIDTH): the learned positions, resized bicubically where there are other patches."""
        if (height, width) == (TRAINED_SIDE, TRAINED_SIDE):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].unflatten(1, (TRAINED_SIDE, TRAINED_SIDE)).permute(0, 3, 1, 2)
        scale = tuple((side + _INTERPOLATION_OFFSET) / TRAINED_SIDE for side in (height, width))
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)
