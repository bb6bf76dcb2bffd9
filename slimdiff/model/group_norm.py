"""Group normalisation of bfloat16 maps on a CPU, where torch's own gradient of channels-last maps takes many times as
long as the arithmetic wants (docs/performance.md)."""

import torch
from torch import Tensor


class _GroupNorm(torch.autograd.Function):
    """torch's forward; the gradient as a few passes over the maps (Wu & He 2018, eq. 1-3, differentiated).

    With x' = (x - m) r a normalised value, w its channel's weight and g the gradient of the output, averaged over a
    group: dx = r (w g - mean(w g) - x' mean(w g x')).
    """

    @staticmethod
    def forward(context, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        count, channels, height, width = x.shape
        out, mean, scale = torch.native_group_norm(
            x, weight, bias, count, channels, height * width, groups, eps
        )
        context.save_for_backward(x, weight, mean.float(), scale.float())
        return out

    @staticmethod
    def backward(context, gradient: Tensor):
        x, weight, mean, scale = context.saved_tensors
        count, channels = x.shape[:2]
        groups = mean.shape[1]

        def of_channel(values: Tensor) -> Tensor:
            return values[:, :, None].expand(-1, -1, channels // groups).reshape(count, channels)

        def of_group(values: Tensor) -> Tensor:
            return values.view(count, groups, -1).sum(dim=2) / (x[0].numel() / groups)

        # Sums in float32; the maps stay as they are.
        sum_g = gradient.sum(dim=(2, 3), dtype=torch.float32)
        sum_gx = (gradient * x).sum(dim=(2, 3), dtype=torch.float32)
        m, r = of_channel(mean), of_channel(scale)
        of_weight = (sum_gx - m * sum_g) * r
        along = of_channel(of_group(of_weight * weight)) * r * r
        constant = of_channel(of_group(sum_g * weight)) * r - along * m
        for_g, for_x, rest = (
            values[:, :, None, None].to(x.dtype) for values in (r * weight, along, constant)
        )
        dx = (gradient * for_g).addcmul_(x, for_x, value=-1).sub_(rest)
        return dx, of_weight.sum(dim=0), sum_g.sum(dim=0), None, None


def group_norm_bfloat16(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """As `torch.nn.functional.group_norm`, for x (B, C, H, W) in bfloat16 and parameters in float32."""
    return _GroupNorm.apply(x, weight, bias, groups, eps)
