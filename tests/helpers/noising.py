"""Clean and noisy pairs at five noise levels."""

import torch


def noisy(seed=0, batch=5):
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.rand((batch, 2, 4, 4), generator=generator, dtype=torch.float64) * 2 - 1
    epsilon = torch.randn((batch, 2, 4, 4), generator=generator, dtype=torch.float64)
    alpha_bar = torch.tensor([0.9999, 0.9, 0.5, 0.1, 1e-4], dtype=torch.float64).view(-1, 1, 1, 1)[:batch]
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    return x0, epsilon, signal, noise, signal * x0 + noise * epsilon
