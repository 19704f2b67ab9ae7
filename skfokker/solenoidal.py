r"""Vector fields that leave a law alone: what a residual may be freed of before it is charged.

For an antisymmetric matrix field A the field w = A grad log rho + div A, (div A)_i = sum_j dA_ij /
dx_j, satisfies div(rho w) = 0. Here A = f (e_i e_j^T - e_j e_i^T) with f a product of Hermite
polynomials, in the coordinates of the reference x = T^{-1}(y): there rho is N(0, I) whatever the
shape of the law, and dT/dx carries the fields over, for a map carries what leaves one law alone to
what leaves the other alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from .flows.base import Linearization

_PLANE = (0, 2, 4, 6, 8)  # degrees of polynomials in the plane, one after another
_RIDGE = 1e-7  # of columns of unit norm
_MOST_PAIRS_OF = 12  # dimensions: up to there a map may mix any two coordinates


@dataclass(frozen=True)
class Points:
    """A residual on weighted points.

    Attributes
    ----------
    theta : Tensor (m,)
    at : Linearization
        Of the map, at the reference points x.
    x, weights : Tensor (n, d), (n,)
    residual : Tensor (n, d)
    """

    theta: Tensor
    at: Linearization
    x: Tensor
    weights: Tensor
    residual: Tensor

    def without(self, field: Tensor) -> Tensor:
        """|residual - field|^2 (n,) times weights, for a field (n, d)."""
        return (self.residual - field).square().sum(1) * self.weights


class Solenoidal:
    """A span of fields w with div(rho w) = 0.

    Attributes
    ----------
    coordinates, degrees : Tensor (P, 3)
        A row a field: the pair (i, j) and a third coordinate, and the degree of f in each.
    ends : list of int
        Sizes of spans to choose from, each within the next.

    Parameters
    ----------
    d : int
    pairs : sequence of (int, int), optional
        Which planes to turn in; all where not given, and in few dimensions.
    max_fields : int
        Size of the span, at most; features of low degree come first.
    """

    def __init__(
        self, d: int, pairs: Sequence[tuple[int, int]] | None = None, max_fields: int = 240
    ):
        if pairs is None or d <= _MOST_PAIRS_OF:
            pairs = list(combinations(range(d), 2))
        rounds = _plane() if d == 2 else _rounds(pairs, d)
        rows: list[tuple[tuple, tuple]] = []
        self.ends = []
        for new in rounds:
            if rows and len(rows) + len(new) > max_fields:
                break
            rows += new[:max_fields]
            self.ends.append(len(rows))
        self.coordinates = torch.tensor([row[0] for row in rows])
        self.degrees = torch.tensor([row[1] for row in rows])

    def __len__(self):
        return len(self.degrees)

    def _components(self, x: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Coordinates i and j (k,) of the first fields, and components along them (n, k) at x."""
        coordinates, degrees = self.coordinates[:k].to(x.device), self.degrees[:k].to(x.device)
        values, slopes = _hermite(x, int(degrees.max()))
        at = [values[:, coordinates[:, c], degrees[:, c]] for c in range(3)]
        i, j = coordinates[:, 0], coordinates[:, 1]
        f = at[0] * at[1] * at[2]
        along_i = at[0] * slopes[:, j, degrees[:, 1]] * at[2] - f * x[:, j]
        along_j = f * x[:, i] - slopes[:, i, degrees[:, 0]] * at[1] * at[2]
        return i, j, along_i, along_j

    def columns(self, x: Tensor) -> Tensor:
        """All fields (n, d, P) in the coordinates of the reference."""
        i, j, along_i, along_j = self._components(x, len(self))
        out, rows = x.new_zeros(*x.shape, len(self)), torch.arange(len(self), device=x.device)
        out[:, i, rows], out[:, j, rows] = along_i, along_j
        return out

    def field(self, points: Points, coefficients: Tensor) -> Tensor:
        """A combination (n, d) of the first fields, by coefficients (k,), at T(x)."""
        i, j, along_i, along_j = self._components(points.x, len(coefficients))
        turned = torch.zeros_like(points.x).index_add_(1, i, along_i * coefficients)
        turned.index_add_(1, j, along_j * coefficients)
        return points.at.jvp(torch.zeros_like(points.theta), turned)

    def fit(self, points: Sequence[Points], others: Sequence[Points]) -> Tensor | None:
        """Coefficients (k,) of the combination nearest to residuals; None for none at all.

        Least squares on the points, for each of the nested spans; on the others is seen which of
        them leaves least, and whether it takes off more than two standard errors.
        """
        gram = right = torch.zeros(())
        for part in points:
            root = part.weights.sqrt()
            fields = (part.at.by_points() @ self.columns(part.x)) * root[:, None, None]
            fields = fields.flatten(0, 1)
            gram = gram + fields.T @ fields
            right = right + fields.T @ (part.residual * root[:, None]).flatten()
        norms = gram.diagonal().sqrt().clamp(min=1e-150)
        gram, right = gram / norms / norms[:, None], right / norms
        gram.diagonal().add_(_RIDGE)
        factor, info = torch.linalg.cholesky_ex(gram)
        if info or not torch.isfinite(right).all():
            return None
        best, chosen = 0.0, None
        whole = torch.cat([part.without(torch.zeros_like(part.residual)) for part in others])
        forward = torch.linalg.solve_triangular(factor, right[:, None], upper=False)
        for k in self.ends:
            # the leading block of a Cholesky factor is the factor of the leading block
            solved = torch.linalg.solve_triangular(factor[:k, :k].T, forward[:k], upper=True)
            coefficients = solved[:, 0] / norms[:k]
            left = [part.without(self.field(part, coefficients)) for part in others]
            gain = whole - torch.cat(left)
            total, error = float(gain.sum()), float(gain.std()) * math.sqrt(len(gain))
            if total > max(best, 2 * error):
                best, chosen = total, coefficients
        return chosen


def _hermite(x: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Orthonormal Hermite polynomials (n, d, degree + 1) at x (n, d), and their derivatives."""
    values = [torch.ones_like(x), x]
    for k in range(1, degree):
        values.append((x * values[k] - math.sqrt(k) * values[k - 1]) / math.sqrt(k + 1))
    table = torch.stack(values[: degree + 1], 2)
    roots = torch.arange(degree + 1, device=x.device).to(x).sqrt()
    slopes = torch.cat([torch.zeros_like(x)[..., None], table[..., :-1]], 2) * roots
    return table, slopes


def _plane() -> list[list]:
    """All polynomials of two coordinates, by total degree."""
    rounds, last = [], -1
    for degree in _PLANE:
        sums = range(last + 1, degree + 1)
        rounds.append([((0, 1, 1), (a, s - a, 0)) for s in sums for a in range(s + 1)])
        last = degree
    return rounds


def _rounds(pairs: Sequence[tuple[int, int]], d: int) -> list[list]:
    """For every pair constants, linear functions, squares and products, a third coordinate."""

    def of_pairs(*degrees):
        return [((i, j, j), (a, b, 0)) for a, b in degrees for i, j in pairs]

    third = [((i, j, m), (0, 0, 1)) for i, j in pairs for m in range(d) if m not in (i, j)]
    squares = of_pairs((1, 1), (2, 0), (0, 2))
    return [of_pairs((0, 0)), of_pairs((1, 0), (0, 1)), third, squares]


def interacting_pairs(interacts: np.ndarray) -> list[tuple[int, int]]:
    """Pairs i < j of coordinates that interact (d, d), then those that do through a third one."""
    near = np.asarray(interacts, dtype=bool)
    near = near | near.T | np.eye(len(near), dtype=bool)
    reach = (near.astype(int) @ near.astype(int)) > 0
    first, second = np.triu(near, 1), np.triu(reach & ~near, 1)
    return [(int(i), int(j)) for part in (first, second) for i, j in np.argwhere(part)]
