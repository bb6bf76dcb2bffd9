"""What the network predicts, and how it becomes an estimate of the clean sample."""

from torch import Tensor

PREDICTIONS = ("x0", "epsilon", "v")


def target(kind: str, x0: Tensor, epsilon: Tensor, signal: Tensor, noise: Tensor) -> Tensor:
    """The network's target; signal = sqrt(alpha_bar), noise = sqrt(1 - alpha_bar), shaped to broadcast.

    v = signal epsilon - noise x0 (Salimans & Ho 2022).
    """
    if kind == "x0":
        return x0
    if kind == "epsilon":
        return epsilon
    if kind == "v":
        return signal * epsilon - noise * x0
    raise ValueError(f"prediction: expected {', '.join(PREDICTIONS)}, found {kind!r}")


def to_x0_epsilon(
    kind: str, output: Tensor, x_t: Tensor, signal: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Convert any prediction at noisy x_t to (x0, epsilon)."""
    if kind == "x0":
        return output, (x_t - signal * output) / noise
    if kind == "epsilon":
        return (x_t - noise * output) / signal, output
    if kind == "v":
        return signal * x_t - noise * output, noise * x_t + signal * output
    raise ValueError(f"prediction: expected {', '.join(PREDICTIONS)}, found {kind!r}")
