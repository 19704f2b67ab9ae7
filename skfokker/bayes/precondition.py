r"""Working coordinates in which a posterior is of unit size.

With x = mean + L u, the march of u under V(x(u)) is that of x under the preconditioned diffusion
:math:`dX = -L L^T \nabla V dt + \sqrt{2 \beta} L dB`: a constant symmetric positive definite
matrix, so the stationary law is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from ..flows.frame import log_abs_det, solve_root
from ..potentials import Potential
from ..potentials.base import as_float64


class Preconditioned(Potential):
    r"""V in coordinates u with x = mean + L u, normalised alike: V(x(u)) - log \|det L\|.

    An orthogonal L leaves the diffusion what it is; see :class:`skfokker.flows.Frame`.

    Parameters
    ----------
    potential : Potential
    mean : array-like (d,)
    root : array-like (d, d)
        L, lower triangular with a positive diagonal, or any other invertible matrix.
    """

    def __init__(self, potential: Potential, mean: Any, root: Any):
        self.potential = potential
        self.mean = mean
        self.root = root

    @property
    def n_features_in_(self) -> int:
        return len(self.mean)

    @property
    def has_walls(self) -> bool:  # type: ignore[override]
        return getattr(self.potential, "has_walls", False)

    @property
    def _unit_of_energy(self) -> float:  # type: ignore[override]
        return self.potential._unit_of_energy

    def _prepare(self) -> tuple[Tensor, ...]:
        mean, root = as_float64(self.mean, "mean"), as_float64(self.root, "root")
        triangular = root.ndim == 2 and not root.triu(1).any()
        if root.shape != (len(mean), len(mean)) or (triangular and (root.diagonal() <= 0).any()):
            raise ValueError(
                f"root must be a lower triangular matrix ({len(mean)}, {len(mean)}) with a "
                f"positive diagonal, or invertible and not triangular, got shape "
                f"{tuple(root.shape)}; try the Cholesky factor of a covariance."
            )
        return mean, root, log_abs_det(root)

    def to_x(self, u: Tensor) -> Tensor:
        """Working coordinates u (n, d) to x (n, d)."""
        mean, root, _ = self._constants(u)
        return mean + u @ root.T

    def to_u(self, x: Tensor) -> Tensor:
        """x (n, d) to working coordinates u (n, d)."""
        mean, root, _ = self._constants(x)
        return solve_root(root, x - mean)

    def __call__(self, u):
        return self.potential(self.to_x(u)) - self._constants(u)[2]

    def value_and_grad(self, u):
        _, root, log_det = self._constants(u)
        value, gradient = self.potential.value_and_grad(self.to_x(u))
        return value - log_det, gradient @ root


class Preconditioner:
    """The map x = mean + L u for data of both sides.

    Parameters
    ----------
    mean : array-like (d,)
    root : array-like (d, d)
    """

    def __init__(self, mean: Any, root: Any):
        self.mean, self.root = as_float64(mean, "mean"), as_float64(root, "root").tril()

    def potential(self, potential: Potential) -> Preconditioned:
        """A potential of x as one of u."""
        return Preconditioned(potential, self.mean, self.root)

    def law(self, law: Distribution) -> AffineLaw:
        """A law of u as one of x."""
        return AffineLaw(law, self.mean, self.root)


class AffineLaw(Distribution):
    """The law of mean + L U for U from ``base``.

    Parameters
    ----------
    base : Distribution
        With ``event_shape`` (d,).
    mean : Tensor (d,)
    root : Tensor (d, d)
        Lower triangular.
    """

    arg_constraints: dict = {}
    support = constraints.real_vector

    def __init__(self, base: Distribution, mean: Tensor, root: Tensor):
        self.base, self.affine_mean, self.root = base, mean, root
        super().__init__(event_shape=base.event_shape, validate_args=False)

    def sample(self, sample_shape=()):
        return self.affine_mean + self.base.sample(sample_shape) @ self.root.T

    def log_prob(self, value):
        flat = value.reshape(-1, value.shape[-1])
        u = torch.linalg.solve_triangular(self.root, (flat - self.affine_mean).T, upper=False).T
        log_prob = self.base.log_prob(u) - self.root.diagonal().log().sum()
        return log_prob.reshape(value.shape[:-1])
