"""The Fokker-Planck equation (5): potential, diffusion, and what they make of a law."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .potentials import Potential


def log_normal(x: Tensor) -> Tensor:
    """Log density of the reference p = N(0, I) at x (n, d)."""
    return -0.5 * x.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)


@dataclass(frozen=True)
class FokkerPlanck:
    """d rho/dt = div(rho grad V) + beta Laplacian rho in R^d (equation (5)).

    Attributes
    ----------
    potential : Potential
        V, with ``value_and_grad(x) -> (n,), (n, d)``.
    beta : float
        Diffusion coefficient.
    d : int
        Dimension.
    separable : bool
        V is a sum of functions of one coordinate each, as far as is known.
    interacts : ndarray (d, d) of bool or None
        Which coordinates interact in V, as far as is known.
    """

    potential: Potential
    beta: float
    d: int
    separable: bool = False
    interacts: Any = None

    def driving_force(self, y: Tensor, score: Tensor) -> Tensor:
        """g = grad V + beta grad log rho at y (n, d): the exact velocity is -g."""
        return self.potential.value_and_grad(y)[1] + self.beta * score

    def free_energy(self, flow, theta: Tensor, x: Tensor) -> Tensor:
        """H(theta) of (26) on reference points x (n, d); differentiable in theta."""
        y, log_det = flow.forward(theta, x)
        return (self.potential(y) + self.beta * (log_normal(x) - log_det)).mean()
