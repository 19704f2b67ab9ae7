"""The Fokker-Planck equation (5): potential, diffusion, and what they make of a law."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .divergence import divergence
from .potentials import Potential

Crowd = Callable[[int], Tensor]  # from a number n to points (n, d) of the law


def log_normal(x: Tensor) -> Tensor:
    """Log density of the reference p = N(0, I) at x (n, d)."""
    return -0.5 * x.square().sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)


@dataclass(frozen=True)
class FokkerPlanck:
    """d rho/dt = div(rho grad V) + beta Laplacian rho in R^d (equation (5)).

    What schemes and certificates ask of an equation are the methods here, at the time that
    :meth:`move_to` was last told; :class:`skfokker.dynamics.GeneralFokkerPlanck` has the same for
    any drift and diffusion.

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
    has_energy : bool
        Whether it is the gradient flow of a free energy, whose V is at hand.
    diagonal : bool
        Whether the diffusion matrix is diagonal.
    regular : bool
        Whether it is positive definite.
    mean_field : bool
        Whether the drift depends on the law.
    porous : float or None
        m where the diffusion is that of rho^m; :meth:`spread` and what rests on it then ask for the
        log density of the law at the points.
    homogeneous : bool
        Whether the diffusion matrix is the same at all points.
    """

    potential: Potential
    beta: float
    d: int
    separable: bool = False
    interacts: Any = None

    has_energy = True
    diagonal = True
    regular = True
    mean_field = False
    porous = None
    homogeneous = True

    @property
    def steady(self) -> bool:
        """Whether neither drift nor diffusion depends on time."""
        return getattr(self.potential, "steady", True)

    @property
    def has_walls(self) -> bool:
        """Whether V jumps on purpose."""
        return self.potential.has_walls

    @property
    def charge(self) -> float:
        r"""c in the bound of d KL/dt by the mean square of :meth:`charged` residuals over 4 c."""
        return self.beta

    def move_to(self, t: float, crowd: Crowd | None = None) -> None:
        """Set the time; ``crowd`` gives points of the law there, for a drift that depends on it."""
        self.potential.time = t

    @property
    def time(self) -> float | None:
        """The time that it was moved to."""
        return getattr(self.potential, "time", None)

    def drift(self, x: Tensor) -> Tensor:
        """The drift b of the particles (Ito) at x (n, d)."""
        return -self.pull(x)

    def noise(self, x: Tensor, xi: Tensor) -> Tensor:
        """sigma xi at x, for xi (n, d), with sigma sigma^T = 2 D."""
        return math.sqrt(2 * self.beta) * xi

    def pull(self, x: Tensor) -> Tensor:
        """div D - b at x (n, d): minus the velocity of the law but for its score; grad V here."""
        return self.potential.gradient(x)

    def spread(self, x: Tensor, v: Tensor, log_density: Tensor | None = None) -> Tensor:
        """D v at x, for v (n, d)."""
        return self.beta * v

    def spread_along(self, x: Tensor, log_density: Tensor | None = None) -> Tensor | float:
        """The diagonal of D at x, (n, d) or what stands for it."""
        return self.beta

    def at_points(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """V (n,) (0 where there is none) and :meth:`pull` (n, d)."""
        return self.potential.value_and_grad(x)

    def at_nodes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """V (n,) (0 where there is none) and :meth:`pull` (n, d), finite or not."""
        return self.potential.unchecked(x)

    def driving_force(self, y: Tensor, score: Tensor, log_density: Tensor | None = None) -> Tensor:
        """g = div D - b + D grad log rho at y (n, d), with grad log rho: the velocity is -g."""
        return self.pull(y) + self.spread(y, score, log_density)

    def charged(self, y: Tensor, residual: Tensor) -> Tensor:
        """The residual (n, d) in the norm that its charge is measured in; see :attr:`charge`."""
        return residual

    def balance(
        self,
        y: Tensor,
        pull: Tensor,
        score: Tensor,
        curvature: Tensor,
        step: Tensor,
        groups: Sequence[Tensor],
        generator: torch.Generator | None = None,
        log_density: Tensor | None = None,
    ) -> Tensor:
        """rho^-1 L* rho at points y (n, d), which is div g + g . s, shape (n,).

        Parameters
        ----------
        y, pull : Tensor (n, d)
            Points, and :meth:`pull` there.
        score, curvature : Tensor (n, d)
            s = grad log rho, and its own derivatives d s_i / d y_i.
        step, groups, generator
            Of the differences; see :func:`skfokker.divergence.divergence`.
        """
        bend = divergence(self.pull, y, step, groups, generator)
        return bend + (pull * score).sum(1) + self.beta * (curvature + score.square()).sum(1)

    def linear_terms(self, t: float, at: Tensor, size: Tensor) -> tuple[Tensor, ...]:
        """Of a quadratic V: A, b(at), K and D with b = b(at) + A (x - at) - K (x - E[X]).

        ``size`` (d,) is by how much the coordinates are moved from ``at`` (d,).
        """
        self.move_to(t)
        shifts = torch.diag(size)
        value = -self.pull(torch.cat([at + shifts, at - shifts, at[None]]))
        A = (value[: self.d] - value[self.d : -1]).T / (2 * size)
        return A, value[-1], torch.zeros_like(A), self.beta * torch.eye(self.d).to(A)

    def free_energy(self, flow, theta: Tensor, x: Tensor) -> Tensor:
        """H(theta) of (26) on reference points x (n, d); differentiable in theta."""
        y, log_det = flow.forward(theta, x)
        return (self.potential(y) + self.beta * (log_normal(x) - log_det)).mean()
