"""Parameters and operations of a network, counted from its configuration without building it."""

from dataclasses import dataclass

from slimdiff.config.model import ModelConfig


@dataclass(frozen=True)
class NetworkCost:
    """Size of a network, and cost of one evaluation of one slice."""

    parameters: float = 0
    flop: float = 0
    """Floating-point operations; a multiplication and its addition are two."""
    activations: float = 0
    """Values that the layers put out."""

    def __add__(self, other: "NetworkCost") -> "NetworkCost":
        return NetworkCost(
            self.parameters + other.parameters, self.flop + other.flop, self.activations + other.activations
        )

    def times(self, number: float) -> "NetworkCost":
        """The cost of several such networks."""
        return NetworkCost(number * self.parameters, number * self.flop, number * self.activations)


def conv_cost(inputs: int, outputs: int, pixels: float, side: int = 3) -> NetworkCost:
    """A convolution that puts out this number of pixels."""
    weights = side * side * inputs * outputs
    return NetworkCost(weights + outputs, 2 * weights * pixels, outputs * pixels)


def residual_cost(inputs: int, outputs: int, pixels: float, embedding: int) -> NetworkCost:
    """A residual block: two convolutions, a projection of the embedding, and a skip where the width changes."""
    parts = conv_cost(inputs, outputs, pixels) + conv_cost(outputs, outputs, pixels)
    parts += conv_cost(embedding, outputs, 1, side=1)
    if inputs != outputs:
        parts += conv_cost(inputs, outputs, pixels, side=1)
    return parts


def attention_cost(width: int, pixels: float) -> NetworkCost:
    """Self-attention: four projections and two products over all pairs of pixels."""
    return conv_cost(width, width, pixels, side=1).times(4) + NetworkCost(flop=4 * pixels * pixels * width)


def trunk_cost(
    channels: tuple[int, ...],
    res_blocks: int,
    attention: tuple[bool, ...],
    inputs: int,
    outputs: int,
    pixels: float,
    narrow_middles: int = 0,
) -> NetworkCost:
    """A U-Net (`slimdiff/model/trunk.py`) on slices of this number of pixels.

    narrow_middles: middles of half of the width and two more blocks each, instead of one of the whole width.
    """
    embedding, width, skips = 4 * channels[0], channels[0], [channels[0]]
    cost = conv_cost(inputs, width, pixels)
    at = [pixels / 4**level for level in range(len(channels))]
    for level, (after, attends) in enumerate(zip(channels, attention, strict=True)):
        for _ in range(res_blocks):
            cost += residual_cost(width, after, at[level], embedding)
            cost += attention_cost(after, at[level]) if attends else NetworkCost()
            width = after
            skips.append(width)
        if level < len(channels) - 1:
            cost += conv_cost(width, width, at[level + 1])
            skips.append(width)
    middle, blocks = (width // 2, 4) if narrow_middles else (width, 2)
    one = residual_cost(middle, middle, at[-1], embedding).times(blocks) + attention_cost(middle, at[-1])
    cost += one.times(narrow_middles or 1)
    for level in reversed(range(len(channels))):
        for _ in range(res_blocks + 1):
            cost += residual_cost(width + skips.pop(), channels[level], at[level], embedding)
            cost += attention_cost(channels[level], at[level]) if attention[level] else NetworkCost()
            width = channels[level]
        if level:
            cost += conv_cost(width, width, at[level - 1])
    return cost + conv_cost(width, outputs, pixels)


def network_cost(model: ModelConfig, pixels: float) -> NetworkCost:
    """The network of a section `model` on slices of this number of pixels; cross-attention counts as self-attention."""
    maps = 1 + model.self_conditioning + bool(model.gaussian)
    squares, side = pixels / model.patch**2, model.patch**2
    trunks = 2 if model.coupling in ("independent", "bottleneck") else 1
    inputs = (2 // trunks * maps + (model.prior == "concat")) * side
    trunk = trunk_cost(
        model.widths,
        model.res_blocks,
        model.attention,
        inputs,
        2 // trunks * side,
        squares,
        narrow_middles=2 if model.coupling == "decoupled" else 0,
    )
    width = 4 * model.widths[0]
    return trunk.times(trunks) + NetworkCost(parameters=width * (model.widths[0] + width))
