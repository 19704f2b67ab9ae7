"""Dual potentials in closed form: a linear span of smooth features, known by their gradients."""

from __future__ import annotations

import math

import torch
from sklearn.base import BaseEstimator
from torch import Tensor

_UNITS = ("softplus", "tanh", "rbf")


class DualFeatures(BaseEstimator):
    r"""Features :math:`\phi_1, ..., \phi_K` that span the dual potentials of (45).

    The inner maximum over :math:`\varphi = \sum_k c_k \phi_k` is then a linear least-squares
    problem, and only the gradients count. The points are centred and whitened by their own mean
    and covariance, :math:`z = L^{-1}(y - \bar y)`; the features are

    - the coordinates :math:`z_i`: all translations;
    - with ``degree=2`` the products :math:`z_i z_j`: all symmetric linear fields, hence every
      velocity that keeps a Gaussian law Gaussian;
    - ``n_units`` random smooth units, drawn once from a seed of their own. In whitened
      coordinates they stay where the law is, and change smoothly as it moves.

    Parameters
    ----------
    n_units : int, default=64
        Number of smooth units.
    degree : {1, 2}, default=2
        Largest degree of the monomials.
    unit : {"softplus", "tanh", "rbf"}, default="softplus"
        Ridge functions of :math:`w \cdot z - b`, or Gaussian bumps about a centre.
    width : float, default=1.0
        Length over which a unit bends, in standard deviations of the points.
    seed : int, default=0
        Of the units' directions and offsets (or centres).
    """

    def __init__(
        self,
        n_units: int = 64,
        degree: int = 2,
        unit: str = "softplus",
        width: float = 1.0,
        seed: int = 0,
    ):
        self.n_units = n_units
        self.degree = degree
        self.unit = unit
        self.width = width
        self.seed = seed

    def validate(self) -> None:
        """Raise a ValueError that says which parameter is wrong, and what would do."""
        if self.unit not in _UNITS:
            raise ValueError(
                f"unit must be one of {_UNITS}, got {self.unit!r}; try unit='softplus'."
            )
        if self.degree not in (1, 2):
            raise ValueError(f"degree must be 1 or 2, got {self.degree!r}; try degree=2.")
        if isinstance(self.n_units, bool) or self.n_units != int(self.n_units) or self.n_units < 0:
            raise ValueError(
                f"n_units must be a whole number of at least 0, got {self.n_units!r}; try 64."
            )
        if not self.width > 0:
            raise ValueError(f"width must be positive, got {self.width!r}; try width=1.0.")

    def n_features(self, d: int) -> int:
        """Number K of features in dimension d."""
        return d + (d * (d + 1) // 2 if self.degree == 2 else 0) + int(self.n_units)

    def gradients(self, y: Tensor, weights: Tensor) -> Tensor:
        """grad phi_k (n, d, K) at the points y (n, d), whose weights (n,) sum to one."""
        n, d = y.shape
        centred = y - weights @ y
        covariance = (centred * weights[:, None]).T @ centred
        ridge = 1e-10 * covariance.diagonal().mean() + torch.finfo(y.dtype).tiny
        root = torch.linalg.cholesky(covariance + ridge * torch.eye(d).to(y))
        z = torch.linalg.solve_triangular(root, centred.T, upper=False).T
        identity = torch.eye(d).to(y)
        columns = [identity.expand(n, d, d)]
        if self.degree == 2:
            i, j = torch.triu_indices(d, d, device=y.device)
            columns.append(z[:, None, i] * identity[:, j] + z[:, None, j] * identity[:, i])
        if self.n_units:
            columns.append(self._units(z))
        by_z = torch.cat(columns, 2)
        return torch.linalg.solve_triangular(root.T, by_z, upper=True)  # grad_y = L^{-T} grad_z

    def _units(self, z: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(int(self.seed))
        d, k = z.shape[1], int(self.n_units)
        drawn = torch.randn(d + 1, k, generator=generator, dtype=torch.float64).to(z)
        if self.unit == "rbf":
            gap = (z[:, :, None] - 1.5 * drawn[:d]) / (self.width * math.sqrt(d))
            return -gap * torch.exp(-0.5 * gap.square().sum(1, keepdim=True))
        directions = drawn[:d] / drawn[:d].norm(dim=0)
        argument = (z @ directions - 1.2 * drawn[d]) / self.width
        bend = torch.sigmoid(2 * argument) if self.unit == "softplus" else argument.cosh() ** -2
        return directions * bend[:, None]
