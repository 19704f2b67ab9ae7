r"""The diffusion matrix D(x, t): constant or not, a number, a diagonal or a full matrix.

Ito throughout: dX = b dt + sigma dB with D = sigma sigma^T / 2, and the law moves with the velocity
b - div D - D grad log rho, (div D)_i = sum_j d D_ij / d x_j.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..potentials.base import as_float64
from .terms import Term

_DEFINITE = 1e-10  # smallest eigenvalue, relative to the largest, of a D that has an inverse


class Diffusion:
    """D at points and times.

    Parameters
    ----------
    given : float, array-like (d,) or (d, d), or callable
        A function of x or of (x, t) returns (n,), (n, d) or (n, d, d), or (), (d,), (d, d) where it
        is the same at all points.
    d : int

    Attributes
    ----------
    kind : {"scalar", "diagonal", "matrix"}
    constant : bool
        The same at all points, by the shape of what is given.
    steady : bool
        The same at all times.
    """

    name = "diffusion"

    def __init__(self, given: Any, d: int):
        self.d = d
        self.term: Term | None = None
        self.fixed: Tensor | None = None
        if callable(given):
            self.term = Term(given, self.name, d, ("n", "n1", "nd", "ndd", "", "d", "dd"))
            shape = self.term.shape.removeprefix("n")
            self.constant, self.steady = not self.term.shape.startswith("n"), self.term.steady
            self.kind = {"": "scalar", "1": "scalar", "d": "diagonal", "dd": "matrix"}[shape]
        else:
            self.fixed, self.constant, self.steady = as_float64(given, self.name), True, True
            kinds = {(): "scalar", (d,): "diagonal", (d, d): "matrix"}
            if tuple(self.fixed.shape) not in kinds:
                raise ValueError(
                    f"diffusion must be a number, {d} numbers or a matrix ({d}, {d}) in dimension "
                    f"d = {d}, or a function that returns one of these for every point, got shape "
                    f"{tuple(self.fixed.shape)}."
                )
            self.kind = kinds[tuple(self.fixed.shape)]
            self._simplify(self.fixed)

    def _simplify(self, matrix: Tensor) -> None:
        """A constant matrix that is diagonal, as its diagonal."""
        if self.kind == "matrix" and torch.equal(matrix, torch.diag(matrix.diagonal())):
            self.fixed, self.kind = matrix.diagonal().clone(), "diagonal"

    @property
    def number(self) -> float:
        """D where it is a constant number above 0, otherwise 0."""
        return float(self.fixed) if self.kind == "scalar" and self.fixed is not None else 0.0

    @property
    def diagonal(self) -> bool:
        """Whether D has nothing off its diagonal."""
        return self.kind != "matrix"

    def __call__(self, x: Tensor, t: float) -> Tensor:
        """D at x (n, d) as it is kept: (n, ...) or (1, ...) with (), (d,) or (d, d) behind."""
        if self.term is not None:
            return self.term(x, t)
        assert self.fixed is not None
        return self.fixed.to(x)[None]

    def along(self, x: Tensor, t: float) -> Tensor:
        """The diagonal of D, (n or 1, d)."""
        value = self(x, t)
        if self.kind == "scalar":
            return value[:, None].expand(-1, self.d)
        return value if self.kind == "diagonal" else value.diagonal(dim1=1, dim2=2)

    def matrix(self, x: Tensor, t: float) -> Tensor:
        """D as matrices (n or 1, d, d)."""
        return self(x, t) if self.kind == "matrix" else torch.diag_embed(self.along(x, t))

    def apply(self, x: Tensor, t: float, v: Tensor) -> Tensor:
        """D v, for v (n, d)."""
        if self.diagonal:
            return self.along(x, t) * v
        return (self(x, t) @ v[:, :, None])[:, :, 0]

    def noise(self, x: Tensor, t: float, xi: Tensor) -> Tensor:
        """sigma xi with sigma sigma^T = 2 D."""
        if self.diagonal:
            return (2 * self.along(x, t)).clamp(min=0.0).sqrt() * xi
        values, vectors = torch.linalg.eigh(self(x, t))
        root = vectors * (2 * values).clamp(min=0.0).sqrt()[:, None]
        return (root @ xi[:, :, None])[:, :, 0]

    def divergence(self, x: Tensor, t: float) -> Tensor | float:
        """div D (n, d), by differentiating what is given; 0.0 where D is constant."""
        if self.constant:
            return 0.0
        out = torch.zeros_like(x)
        with torch.inference_mode(False), torch.enable_grad():
            x = x.detach().clone().requires_grad_()
            value = self(x, t)
            if not value.requires_grad:
                return out

            def by(part: Tensor) -> Tensor:
                (slope,) = torch.autograd.grad(
                    part.sum(), x, retain_graph=True, materialize_grads=True
                )
                return slope

            if self.kind == "scalar":
                return by(value)
            for i in range(self.d):
                if self.kind == "diagonal":
                    out[:, i] = by(value[:, i])[:, i]
                else:
                    for j in range(self.d):
                        if value[:, i, j].requires_grad:
                            out[:, i] += by(value[:, i, j])[:, j]
        return out

    def charged(self, x: Tensor, t: float, v: Tensor) -> Tensor:
        """D^{-1/2} v, whose square is v . D^{-1} v."""
        if self.diagonal:
            return v / self.along(x, t).sqrt()
        root = torch.linalg.cholesky(self(x, t)).expand(len(x), -1, -1)
        return torch.linalg.solve_triangular(root, v[:, :, None], upper=False)[:, :, 0]

    def check(self, x: Tensor, t: float) -> float:
        """The smallest eigenvalue at x over the largest.

        Raises
        ------
        ValueError
            Where D is not symmetric, or has a negative eigenvalue.
        """
        value = self.matrix(x, t)
        if not torch.isfinite(value).all():
            from .terms import not_finite

            raise not_finite(value.expand(len(x), -1, -1), x, t, self.name)
        gap = float((value - value.mT).abs().max())
        size = float(value.abs().max())
        if gap > 1e-8 * size:
            raise ValueError(
                f"diffusion must be a symmetric matrix D, got entries that differ from those "
                f"mirrored by {gap:.2g}. Where dX = b dt + sigma dB, D = sigma sigma^T / 2."
            )
        values = torch.linalg.eigvalsh((value + value.mT) / 2)
        low, high = float(values.min()), float(values.max())
        if low < -1e-10 * max(high, abs(low)):
            raise ValueError(
                f"diffusion must be positive semi-definite, but D has the eigenvalue {low:.3g} at "
                f"time t = {t:g}: the equation would run backwards in that direction. Where "
                "coordinates live on a half line or an interval, give the equation a support."
            )
        return low / high if high > 0 else 0.0

    @staticmethod
    def is_definite(share: float) -> bool:
        """Whether the least share that :meth:`check` saw means that D has an inverse."""
        return share > _DEFINITE

    def depends(self, x: Tensor, t: float) -> np.ndarray:
        """Which coordinates the rows of D depend on, or are mixed with, (d, d) of bool."""
        d = self.d
        seen = np.zeros((d, d), dtype=bool)
        value = self.matrix(x, t)
        size = float(value.abs().max())
        if size == 0:
            return seen
        seen |= (value.abs().amax(0) > 1e-12 * size).cpu().numpy()
        if self.constant:
            return seen
        spread = x.std(0).clamp(min=1e-12)
        for k in range(d):
            moved = x.clone()
            moved[:, k] += 1e-3 * spread[k]
            change = (self.matrix(moved, t) - value).abs().amax((0, 2))
            seen[:, k] |= (change > 1e-10 * size).cpu().numpy()
        return seen
