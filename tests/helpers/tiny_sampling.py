"""Drawing a few samples from a tiny checkpoint."""

import numpy as np

from slimdiff.config.generation import GenerationConfig
from slimdiff.generation.generator import Generator
from slimdiff.generation.requests import Request, requests_of_bin

CONFIG = GenerationConfig(evaluations=4, per_bin_and_class=2, batch_size=4, device="cpu")
SAMPLERS = [{"sampler": "dpmpp_2m"}, {"sampler": "ddim", "eta": 0.2}, {"sampler": "ddim", "eta": 0.0}]
EVERY_SAMPLER = [*SAMPLERS, *({"sampler": name} for name in ("dpmpp_2m_sde", "unipc", "ddpm"))]


def generator_of(trained, **changes) -> Generator:
    return Generator(trained, CONFIG.model_copy(update=changes))


def mixed_requests(config=CONFIG, count=9) -> list[Request]:
    """Requests of several bins and classes."""
    every = [request for z_bin in range(3) for request in requests_of_bin(config, 0, "base", z_bin)]
    return every[:count]


def assert_equal(one, two):
    for a, b in zip(one, two, strict=True):
        assert a.dtype == b.dtype == np.float16
        np.testing.assert_array_equal(a.view(np.uint16), b.view(np.uint16))
