"""A stabilised explicit Runge-Kutta-Chebyshev step of order two.

A gradient flow of the free energy is stiff along the real axis: diffusion damps the short
wavelengths at a rate that grows with their square. s Chebyshev stages are stable up to
h rho = (2/3)(s^2 - 1), against about 2.5 for three stages of a classical method.

Source: B. P. Sommeijer, L. F. Shampine, J. G. Verwer, "RKC: an explicit solver for parabolic
PDEs", J. Comput. Appl. Math. 88 (1998) 315-326.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

from torch import Tensor

_DAMPING = 2 / 13


def n_stages(h_rho: float) -> int:
    """Stages that are stable for step size times spectral radius ``h_rho``."""
    return max(2, 1 + int(math.sqrt(1 + 1.54 * h_rho)))


def largest_step(stages: int, rho: float) -> float:
    """The step at which ``n_stages`` would ask for more than ``stages``."""
    return (stages * stages - 1) / 1.54 / rho


@lru_cache(maxsize=128)
def _coefficients(s: int) -> tuple[float, list[tuple[float, float, float, float]]]:
    """mu~_1, then (mu, nu, mu~, gamma~) of stages 2..s (the paper's (2.3)-(2.5))."""
    w0 = 1 + _DAMPING / s**2
    T, dT, ddT = [1.0, w0], [0.0, 1.0], [0.0, 0.0]  # Chebyshev polynomials and derivatives at w0
    for _ in range(2, s + 1):
        ddT.append(4 * dT[-1] + 2 * w0 * ddT[-1] - ddT[-2])
        dT.append(2 * T[-1] + 2 * w0 * dT[-1] - dT[-2])
        T.append(2 * w0 * T[-1] - T[-2])
    w1 = dT[s] / ddT[s]
    b = [0.0, 0.0] + [ddT[j] / dT[j] ** 2 for j in range(2, s + 1)]
    b[0] = b[1] = b[2]
    stages = []
    for j in range(2, s + 1):
        mu_tilde = 2 * b[j] * w1 / b[j - 1]
        gamma_tilde = -(1 - b[j - 1] * T[j - 1]) * mu_tilde
        stages.append((2 * b[j] * w0 / b[j - 1], -b[j] / b[j - 2], mu_tilde, gamma_tilde))
    return b[1] * w1, stages


def step(f: Callable[[Tensor], Tensor], y: Tensor, fy: Tensor, h: float, s: int) -> Tensor:
    """y(t + h) from y and f(y) with s stages (s - 1 calls of f)."""
    first, stages = _coefficients(s)
    before, now = y, y + first * h * fy
    for mu, nu, mu_tilde, gamma_tilde in stages:
        after = (1 - mu - nu) * y + mu * now + nu * before
        before, now = now, after + h * (mu_tilde * f(now) + gamma_tilde * fy)
    return now


def local_error(y: Tensor, fy: Tensor, y_next: Tensor, f_next: Tensor, h: float) -> Tensor:
    """Estimate of the error of one step (the paper's (2.9))."""
    return 0.8 * (y - y_next) + 0.4 * h * (fy + f_next)
