"""Functions of one coordinate that conditional densities are built from."""

from __future__ import annotations

import numpy as np
import torch
from numpy.polynomial import legendre, polynomial
from scipy.interpolate import PPoly
from torch import Tensor

ORDER = 4  # Gauss-Legendre nodes of a cell: exact for polynomials of degree 7
# functions of a basis: a file may ask for any number, and high powers lose their digits
_LARGEST = {"splines": 1000, "polynomials": 20}


class Basis:
    """K functions b_1, ..., b_K of one coordinate, constant outside [lower, upper].

    Attributes
    ----------
    size : int
        K.
    lower, upper : float
        Where they stop to vary.
    """

    size: int
    lower: float
    upper: float

    def __call__(self, y: Tensor, order: int = 0) -> Tensor:
        """Derivatives of the given order (0, 1 or 2) at y (...), shape (..., K)."""
        raise NotImplementedError

    def derivatives(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The functions and their first two derivatives at y (...), (..., K) each."""
        return self(y), self(y, 1), self(y, 2)

    def combine(self, coefficients: Tensor, y: Tensor) -> Tensor:
        """sum_k coefficients_k b_k at y (P, ...), for coefficients (P, K)."""
        shape = (len(y), *[1] * (y.ndim - 1), -1)
        return (coefficients.view(shape) * self(y)).sum(-1)

    def _outside(self, y: Tensor) -> Tensor:
        return ((y < self.lower) | (y > self.upper))[..., None]


class CubicSplines(Basis):
    """Cubic B-splines on given knots: K = number of intervals + 3.

    They sum to one and hold every polynomial of degree three on [lower, upper].

    Parameters
    ----------
    knots : array-like (k,)
        Increasing.
    width : float, optional
        Length of the cells that integrals of the functions are taken over, at most; None takes
        1/36 of the whole.

    Attributes
    ----------
    pieces : Tensor (k - 1, 4, 4)
        On every interval the coefficients of the four functions that are not zero there, numbers
        i to i + 3 on interval i, the highest power first.
    """

    def __init__(self, knots, width=None):
        self.knots = np.asarray(knots, dtype=float)
        self.lower, self.upper = float(self.knots[0]), float(self.knots[-1])
        self.width = (self.upper - self.lower) / 36 if width is None else float(width)
        n = len(self.knots) - 1
        self.size = n + 3
        full = np.concatenate([[self.lower] * 3, self.knots, [self.upper] * 3])
        functions = [PPoly.from_spline((full, row, 3)).c for row in np.eye(self.size)]
        powers = np.stack(functions)[:, :, 3 : 3 + n]  # (K, 4, n)
        self.pieces = torch.from_numpy(np.stack([powers[k : k + 4, :, k] for k in range(n)]))
        self._edges = torch.from_numpy(self.knots)

    def _local(self, y: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """The interval of y (...), the place in it (..., 1), coefficients of powers (..., 4)."""
        edges = self._edges.to(y)
        inside = y.clamp(self.lower, self.upper)
        k = torch.searchsorted(edges, inside.detach().contiguous(), right=True) - 1
        k = k.clamp(0, len(edges) - 2)
        return k, (inside - edges[k])[..., None], self.pieces.to(y)[k].unbind(-1)

    def combine(self, coefficients, y):
        k, s, (a, b, c, e) = self._local(y)
        index = (k[..., None] + torch.arange(4, device=y.device)).flatten(1)
        chosen = coefficients.gather(1, index).view(*y.shape, 4)
        return (chosen * (((a * s + b) * s + c) * s + e)).sum(-1)

    def __call__(self, y, order=0):
        k, s, (a, b, c, e) = self._local(y)
        if order == 0:
            values = ((a * s + b) * s + c) * s + e
        elif order == 1:
            values = (3 * a * s + 2 * b) * s + c
        else:
            values = 6 * a * s + 2 * b
        if order:
            values = values.masked_fill(self._outside(y), 0.0)
        out = y.new_zeros(*y.shape, self.size)
        index = k[..., None] + torch.arange(4, device=y.device)
        return out.scatter(-1, index, values)


class Polynomials(Basis):
    """Legendre polynomials P_0, ..., P_{K-1} of the coordinate, scaled to [-1, 1].

    Parameters
    ----------
    lower, upper : float
        What is scaled to [-1, 1].
    size : int
        K.
    saturation : float or None
        Where given, of tanh(saturation (y - middle) / half-width) in the place of the coordinate
        itself: the functions are then nearly constant towards both ends.
    """

    def __init__(self, lower: float, upper: float, size: int, saturation: float | None = None):
        self.lower, self.upper, self.size, self.saturation = lower, upper, size, saturation
        # coefficients of powers: functions (rows) and their first and second derivatives
        powers = np.zeros((3, size, size))
        for k in range(size):
            for order in range(min(3, k + 1)):
                derivative = polynomial.polyder(legendre.leg2poly([0.0] * k + [1.0]), order)
                powers[order, k, : len(derivative)] = derivative
        self._powers = torch.from_numpy(powers)

    def _scaled(self, y: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """What the polynomials are taken of, and its first and second derivative in y."""
        half = (self.upper - self.lower) / 2
        u = (y.clamp(self.lower, self.upper) - (self.lower + self.upper) / 2) / half
        if self.saturation is None:
            return u, 1 / half, 0.0
        rate = self.saturation / half
        u = torch.tanh(self.saturation * u)
        slope = rate * (1 - u * u)
        return u, slope[..., None], (-2 * rate * u * slope)[..., None]

    def combine(self, coefficients, y):
        u = self._scaled(y)[0]
        by_power = coefficients @ self._powers[0].to(y)
        by_power = by_power.view(len(y), *[1] * (y.ndim - 1), -1)
        total = by_power[..., -1].expand_as(u)
        for k in range(self.size - 2, -1, -1):
            total = total * u + by_power[..., k]
        return total

    def __call__(self, y, order=0):
        if order == 2:
            return self.derivatives(y)[2]
        u, slope, _ = self._scaled(y)
        powers, table = torch.linalg.vander(u, N=self.size), self._powers.to(y)
        if order == 0:
            return powers @ table[0].T
        return (slope * (powers @ table[1].T)).masked_fill(self._outside(y), 0.0)

    def derivatives(self, y):
        u, slope, bend = self._scaled(y)
        powers, table = torch.linalg.vander(u, N=self.size), self._powers.to(y)
        values, by_u, by_u2 = (powers @ table.flatten(0, 1).T).split(self.size, -1)
        first, second = slope * by_u, slope * slope * by_u2
        if self.saturation is not None:
            second = second + bend * by_u
        outside = self._outside(y)
        if outside.any():
            first, second = (f.masked_fill(outside, 0.0) for f in (first, second))
        return values, first, second


class Cells:
    """Composite Gauss-Legendre quadrature on [edges[0], edges[-1]], for integrals that grow.

    Parameters
    ----------
    edges : array-like (k + 1,)
        Ends of the cells, increasing.

    Attributes
    ----------
    edges : Tensor (k + 1,)
    nodes, weights : Tensor (k ORDER,)
        ``ORDER`` nodes a cell.
    within : Tensor (ORDER, ORDER)
        Integral from the start of the unit cell to its nodes.
    middle : int
        The edge that integrals start from.
    """

    def __init__(self, edges):
        self.edges = torch.as_tensor(np.asarray(edges, dtype=float))
        x, w = np.polynomial.legendre.leggauss(ORDER)
        x, w = (x + 1) / 2, w / 2
        self.unit_nodes, self.unit_weights = torch.from_numpy(x), torch.from_numpy(w)
        powers = np.arange(ORDER)
        vandermonde = x[:, None] ** powers
        integrals = x[:, None] ** (powers + 1) / (powers + 1)
        self.within = torch.from_numpy(integrals @ np.linalg.inv(vandermonde))
        self.widths = self.edges.diff()
        self.nodes = (self.edges[:-1, None] + self.widths[:, None] * self.unit_nodes).flatten()
        self.weights = (self.widths[:, None] * self.unit_weights).flatten()
        self.middle = len(self.widths) // 2

    @property
    def summing(self) -> Tensor:
        """What sums values at the nodes to integrals over the cells (k ORDER, k)."""
        if not hasattr(self, "_summing"):
            self._summing = torch.block_diag(*self.weights.view(-1, ORDER, 1))
        return self._summing

    @property
    def signs(self) -> Tensor:
        """+1 for the cells from the middle edge to the start of cell i, or -1 back to it (k, k)."""
        i = torch.arange(len(self))
        after, before = i >= self.middle, i < i[:, None]
        return (after & before).double() - (~after & ~before).double()

    def __len__(self):
        return len(self.widths)

    def split(self, n: int) -> Cells:
        """Every cell cut into n; integrals start from the same edge."""
        shares = torch.arange(n) / n
        edges = (self.edges[:-1, None] + self.widths[:, None] * shares).flatten()
        out = Cells(torch.cat([edges, self.edges[-1:]]))
        out.middle = n * self.middle
        return out

    def cumulative(self, f: Tensor) -> tuple[Tensor, Tensor]:
        """Integrals of f (P, nodes, ...) from the middle edge to every node, and to every edge."""
        n = len(self)
        f = f.unflatten(1, (n, ORDER))
        widths = self.widths.to(f).view(-1, *[1] * (f.ndim - 3))
        whole = widths * torch.tensordot(f, self.unit_weights.to(f), dims=([2], [0]))
        edges = torch.cat([torch.zeros_like(whole[:, :1]), whole.cumsum(1)], 1)
        edges = edges - edges[:, self.middle, None]
        within = torch.einsum("gh,pch...->pcg...", self.within.to(f), f)
        return (edges[:, :-1, None] + widths[:, None] * within).flatten(1, 2), edges


def as_basis(spec) -> Basis:
    """A basis from what stands for it in ``get_params``.

    Parameters
    ----------
    spec : sequence
        ("splines", knots[, width]) or ("polynomials", lower, upper, size[, saturation]).

    Raises
    ------
    ValueError
        Where it is neither.
    """
    kind, *rest = spec
    if kind == "splines" and len(rest[0]) <= _LARGEST[kind]:
        return CubicSplines(*rest)
    if kind == "polynomials" and 1 <= rest[2] <= _LARGEST[kind]:
        return Polynomials(*rest)
    raise ValueError(
        "a basis is ('splines', knots) of at most 1000 knots, or ('polynomials', lower, upper, "
        f"size) of at most 20 functions, got {repr(spec)[:200]}"
    )


def as_cells(basis: Basis, fewest: int = 14) -> Cells:
    """Cells on which the functions of a basis are smooth, and so short that products are as well.

    Of polynomials ``fewest`` cells.
    """
    if isinstance(basis, CubicSplines):
        spans = np.diff(basis.knots)
        counts = np.ceil(spans / basis.width - 1e-9).astype(int)
        pieces = [
            start + span * np.arange(n) / n
            for start, span, n in zip(basis.knots, spans, counts, strict=False)
        ]
        return Cells(np.append(np.concatenate(pieces), basis.upper))
    return Cells(np.linspace(basis.lower, basis.upper, fewest + 1))
