"""DINOv2's ViT-S/14 as a feature extractor (Oquab et al. 2024; Dosovitskiy et al. 2021).

The published backbone only: class token, patches of 14 px, twelve pre-norm blocks with layer scale. Names of parameters
are those of the published file.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from slimdiff import weights

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
