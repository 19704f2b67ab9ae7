"""Reference points X ~ N(0, I) with weights: the expectation E_p of the schemes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sobol_normal(n: int, d: int, seed: int, dtype=torch.float64) -> Tensor:
    """Scrambled Sobol points (n, d) through the normal quantile; n is best a power of two."""
    engine = torch.quasirandom.SobolEngine(d, scramble=True, seed=seed)
    u = engine.draw(n, dtype=torch.float64)
    tiny = 2.0**-32  # the scrambled lattice has this spacing; an exact 0 or 1 has no quantile
    return torch.special.ndtri(u.clamp(tiny, 1 - tiny)).to(dtype)


def draw_seed(generator: torch.Generator) -> int:
    """A seed for one set of Sobol points."""
    return int(torch.randint(2**31 - 1, (), generator=generator))


def normal_grid(n: int, d: int, half_width: float = 6.5) -> tuple[Tensor, Tensor]:
    """The trapezoidal rule of N(0, 1) on [-half_width, half_width], the same in all coordinates.

    For integrands that are sums over coordinates this is a quadrature of E_p, exact to
    rounding for smooth integrands. Points (n, d), weights (n,) that sum to one.
    """
    z = torch.linspace(-half_width, half_width, n, dtype=torch.float64)
    weights = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return z[:, None].expand(n, d).contiguous(), weights / weights.sum()
