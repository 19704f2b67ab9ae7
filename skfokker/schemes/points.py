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


def tail_normal(n: int, d: int, seed: int, dtype=torch.float64) -> tuple[Tensor, Tensor]:
    """Points (n, d) of E_p that also see its tails, with their weights (n,): importance sampling.

    Every other point is drawn from N(0, s^2 I), s = 1 + 2 / sqrt(d) but 1.6 at most, whose norms
    lie two to three standard deviations above those of p. The weights are those of the mixture,
    2 / n at most. Means of what grows in the tails stay unbiased and lose most of their variance;
    the weights sum to one in expectation only.
    """
    x = sobol_normal(n, d, seed)
    s = 1 + min(0.6, 2 / math.sqrt(d))
    x[1::2] *= s
    log_ratio = 0.5 * (1 - s**-2) * x.square().sum(1) - d * math.log(s)
    share = (n // 2) / n
    weights = 1 / (n * (1 - share + share * log_ratio.exp()))
    return x.to(dtype), weights.to(dtype)


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


@torch.no_grad()
def crowd(flow, theta: Tensor, d: int, n: int, seed: int = 5) -> Tensor:
    """n points (n, d) of a law, for one seed always the same of the reference: smooth in theta.

    They come in pairs x and -x, whose mean an affine map carries to that of the law.
    """
    x = sobol_normal(-(-n // 2), d, seed).to(theta)
    return flow.forward(theta, torch.stack([x, -x], 1).flatten(0, 1)[:n])[0]
