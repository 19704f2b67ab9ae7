"""One monotone function a coordinate, its log-slope a cubic spline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .base import Flow, Linearization

# Every knot interval is cut into pieces so short that five Gauss-Legendre nodes on [0, 1]
# integrate exp(cubic) to rounding, and that Hermite interpolation inverts the integral to 1e-6.
_PIECES = 4
_NODES, _WEIGHTS = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(5))
_NODES, _WEIGHTS = (_NODES + 1) / 2, _WEIGHTS / 2
_PAIRS = list(zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True))

# Numbers inverted at a time, so that the intermediate arrays stay in the cache.
_BLOCK = 2**15

# Uniform cubic B-splines on one interval: monomial coefficients (4 splines, 4 powers).
_SPLINES = (
    torch.tensor([[1, -3, 3, -1], [4, 0, -6, 3], [1, 3, 3, -3], [0, 0, 0, 1]], dtype=torch.float64)
    / 6
)


class ElementwiseFlow(Flow):
    r"""y_i = c_i + int_0^{x_i} exp(q_i(u)) du, with q_i a cubic spline: monotone for every theta.

    The log-slope q has uniform knots on [-radius, radius] and is constant outside, so that the
    map is onto R, twice continuously differentiable with a C^2 log-slope, and affine in the
    tails. The integral is Gauss-Legendre on each knot interval. theta = 0 is the identity.

    Parameters
    ----------
    n_intervals : int, default=24
        Knot intervals, an even number of at least 6. There are ``n_intervals`` parameters a
        coordinate: the shift c and ``n_intervals - 1`` spline coefficients.
    radius : float, default=5.0
        Half-width of the knots, in units of the input (standard deviations for a first layer).
    """

    separable = True

    def __init__(self, n_intervals: int = 24, radius: float = 5.0):
        self.n_intervals = n_intervals
        self.radius = radius

    def _check(self):
        if self.n_intervals < 6 or self.n_intervals % 2:
            raise ValueError(
                f"n_intervals={self.n_intervals} of ElementwiseFlow must be an even integer of "
                "at least 6; try 24."
            )

    def n_parameters(self, d):
        return d * self.n_intervals

    def coordinate_index(self, d):
        return torch.arange(self.n_parameters(d)).view(d, self.n_intervals)

    def init(self, d, generator=None):
        self._check()
        return torch.zeros(self.n_parameters(d), dtype=torch.float64)

    def forward(self, theta, x):
        spline = _LogSlope(self, theta, x.shape[1])
        y, q = spline.evaluate(spline.locate(x))
        return y, q.sum(1)

    def inverse(self, theta, y):
        spline = _LogSlope(self, theta, y.shape[1])
        rows = max(1, _BLOCK // y.shape[1])
        x, log_det = torch.empty_like(y), torch.empty_like(y[:, 0])
        for start in range(0, len(y), rows):
            block = slice(start, start + rows)
            at = spline.invert(y[block])
            x[block], log_det[block] = spline.position(at), -spline.log_slope(at).sum(1)
        return x, log_det

    def linearize(self, theta, x):
        spline = _LogSlope(self, theta.detach(), x.shape[1])
        return _ElementwiseLinearization(spline, spline.locate(x.detach()))

    def linearize_inverse(self, theta: Tensor, y: Tensor) -> tuple[Tensor, Linearization]:
        """x = T^{-1}(y), and the map linearized there."""
        spline = _LogSlope(self, theta.detach(), y.shape[1])
        at = spline.invert(y.detach())
        return spline.position(at), _ElementwiseLinearization(spline, at)


@dataclass(frozen=True)
class _Place:
    """Where points (n, d) lie: s in [0, 1] of a knot interval, and how far beyond the knots."""

    interval: Tensor
    s: Tensor
    beyond: Tensor


def _polynomial(cubic, s):
    return cubic[0] + s * (cubic[1] + s * (cubic[2] + s * cubic[3]))


def _derivative(cubic, s):
    return cubic[1] + s * (2 * cubic[2] + 3 * s * cubic[3])


class _LogSlope:
    """The d splines q_i as cubics in s in [0, 1] on each interval, and the integral of exp(q)."""

    def __init__(self, flow: ElementwiseFlow, theta: Tensor, d: int):
        self.d, self.k, self.radius = d, flow.n_intervals, flow.radius
        self.middle, self.h = self.k // 2, 2 * flow.radius / self.k
        self.splines = _SPLINES.to(theta)
        self.coordinate = torch.arange(d, device=theta.device)
        shift, coefficients = theta.view(d, self.k).split([1, self.k - 1], 1)
        self.cubics = self.as_cubics(coefficients)
        self.powers = self.cubics.reshape(-1, 4).T.contiguous()  # (4, d k)
        starts = torch.arange(_PIECES).to(theta) / _PIECES
        self.piece_nodes = starts[:, None] + _NODES.to(theta) / _PIECES
        q = _polynomial(self.cubics[:, :, None, None].unbind(-1), self.piece_nodes)
        # shares of the integral, (d, k, pieces, nodes)
        self.shares = q.exp() * (self.h / _PIECES * _WEIGHTS.to(theta))
        pieces = self.shares.sum(-1).reshape(d, -1)
        values = torch.cat([pieces.new_zeros(d, 1), pieces.cumsum(1)], 1)
        origin = values[:, self.middle * _PIECES, None]
        self.values = values - origin + shift  # y where pieces meet, (d, k pieces + 1)

    def as_cubics(self, c):
        """Spline coefficients (d, k - 1) as cubics (d, k, 4 powers), linearly."""
        # constant ends: the three B-splines that leave [-radius, radius] share a coefficient
        c = torch.cat([c[:, :1].expand(-1, 2), c, c[:, -1:].expand(-1, 2)], 1)
        return torch.stack([c[:, j : j + self.k] for j in range(4)], 2) @ self.splines

    def look_up(self, table, index):
        """Entries of a table (d, width), row i for coordinate i, at an index (n, d)."""
        return table.reshape(-1)[index + self.coordinate * table.shape[1]]

    def cubic(self, interval):
        """The coefficients of the cubic at the points, four times (n, d)."""
        index = interval + self.coordinate * self.k
        return [row[index] for row in self.powers]

    def locate(self, x) -> _Place:
        inside = x.clamp(-self.radius, self.radius)
        s = (inside + self.radius) / self.h
        # absurd parameters make nan of points: nan is to come out, and no index error
        interval = s.detach().floor().nan_to_num().clamp(0, self.k - 1)
        return _Place(interval.long(), s - interval, x - inside)

    def position(self, at: _Place):
        """The points x (n, d)."""
        return (at.interval + at.s) * self.h - self.radius + at.beyond

    def log_slope(self, at: _Place):
        """q (n, d)."""
        return _polynomial(self.cubic(at.interval), at.s)

    def evaluate(self, at: _Place):
        """y and q, both (n, d)."""
        cubic = self.cubic(at.interval)
        q = _polynomial(cubic, at.s)
        return self.integral(cubic, at.interval, at.s)[0] + at.beyond * q.exp(), q

    def integral(self, cubic, interval, s, moments: int = 1):
        """y at s in an interval; then int u exp(q) du, ... from the start of its piece."""
        piece = (s.detach() * _PIECES).floor().nan_to_num().clamp(0, _PIECES - 1)
        start = piece / _PIECES
        length = s - start
        total = [0.0] * moments
        for node, weight in _PAIRS:
            u = start + node * length
            share = (weight * self.h) * _polynomial(cubic, u).exp()
            for j in range(moments):
                total[j] = total[j] + share
                share = share * u if j + 1 < moments else share
        parts = [length * t for t in total]
        index = interval * _PIECES + piece.long()
        return self.look_up(self.values, index) + parts[0], index, parts

    @cached_property
    def inverse_table(self):
        """y where a piece starts, its rise, and s there by cubic Hermite interpolation of 1/exp(q).

        The interpolant is s(u) = a u + b u^2 + c u^3 in the share u of the rise, from 0 to 1.
        """
        starts = torch.arange(_PIECES).to(self.values) / _PIECES
        q = _polynomial(self.cubics[:, :, None].unbind(-1), starts).reshape(self.d, -1)
        q = torch.cat([q, self.cubics[:, -1].sum(-1, keepdim=True)], 1)
        rise = self.values.diff(dim=1)
        first, last = (rise * (_PIECES / self.h) * (-end).exp() for end in (q[:, :-1], q[:, 1:]))
        return self.values[:, :-1], rise, first, 3 - 2 * first - last, first + last - 2

    def invert(self, y) -> _Place:
        """Where y = c + int_0^x exp(q): a step of Halley from the interpolated inverse."""
        inside = y.maximum(self.values[:, 0]).minimum(self.values[:, -1])
        piece = torch.searchsorted(self.values, inside.T.contiguous(), right=True).T - 1
        piece = piece.clamp(0, self.k * _PIECES - 1)
        start, rise, a, b, c = (self.look_up(table, piece) for table in self.inverse_table)
        u = (inside - start) / rise
        u = (u * (a + u * (b + u * c))).clamp(0, 1)
        interval = piece // _PIECES
        low = (piece - interval * _PIECES).to(y) / _PIECES
        high = low + 1 / _PIECES
        s = low + u / _PIECES
        s, rough = self._halley(inside, interval, low, high, s, 1)
        rows = rough.any(1)
        if rows.any():  # few points, where q changes much within a piece
            several = inside[rows], interval[rows], low[rows], high[rows]
            s[rows] = self._halley(*several, s=s[rows], n_iterations=60)[0]
        return _Place(interval, s, (y - inside) * (-_polynomial(self.cubic(interval), s)).exp())

    def _halley(self, y, interval, low, high, s, n_iterations: int):
        """s with the integral y, by steps of Halley kept in a bracket; where to go on."""
        cubic = self.cubic(interval)
        for _ in range(n_iterations):
            error = self.integral(cubic, interval, s)[0] - y
            low, high = torch.where(error > 0, low, s), torch.where(error > 0, s, high)
            newton = error / (self.h * _polynomial(cubic, s).exp())
            better = s - newton / (1 - 0.5 * newton * _derivative(cubic, s))
            better = torch.where((better >= low) & (better <= high), better, (low + high) / 2)
            # a step cubes the error: what moved by less than this now is at rounding
            rough = ~((better - s).abs() < torch.finfo(s.dtype).eps ** (1 / 3))
            s = better
            if not rough.any():
                break
        return s, rough


class _ElementwiseLinearization(Linearization):
    """Derivatives from the moments int s^j exp(q), j = 0..3: those of splines are sums of them.

    A point depends on the parameters through the whole intervals between the middle knot and its
    own, alike for all points of that interval, and through the four moments of the part of it.
    """

    def __init__(self, spline: _LogSlope, at: _Place):
        self.spline, self.at = spline, at
        cubic = spline.cubic(at.interval)
        q = _polynomial(cubic, at.s)
        self.y, piece, parts = spline.integral(cubic, at.interval, at.s, moments=4)
        powers = spline.piece_nodes[..., None] ** torch.arange(4).to(q)
        pieces = (spline.shares[..., None] * powers).sum(-2)  # (d, k, pieces, 4)
        self.whole = pieces.sum(2)  # moments of whole intervals, (d, k, 4)
        before = (pieces.cumsum(2) - pieces).reshape(spline.d, -1, 4).unbind(-1)
        self.slope = q.exp()
        tail = at.beyond * self.slope
        self.moments = []  # of the interval up to the point, four times (n, d)
        for table, part in zip(before, parts, strict=True):
            self.moments.append(spline.look_up(table.contiguous(), piece) + part + tail)
            tail = tail * at.s
        self.y = self.y + at.beyond * self.slope
        self.log_det = q.sum(1)
        self.slope_q = torch.where(at.beyond != 0, 0.0, _derivative(cubic, at.s) / spline.h)

    @cached_property
    def by_theta(self):
        """dy_i/dtheta for the parameters of coordinate i, (n, d, k)."""
        spline, interval = self.spline, self.at.interval
        n, d = interval.shape
        table = _share_ends(self._between_knots())
        by_theta = self.y.new_ones(n, d, spline.k)
        by_theta[:, :, 1:] = table[spline.coordinate, interval]
        by_spline = torch.stack(self.moments, -1) @ spline.splines.T
        for j in range(4):
            column = (interval + j - 2).clamp(0, spline.k - 2) + 1
            by_theta.scatter_add_(2, column[..., None], by_spline[..., j, None])
        return by_theta

    def _between_knots(self):
        """int exp(q) B_j from the middle knot to each knot, (d, k, k + 3), for all B-splines."""
        spline, k = self.spline, self.spline.k
        table = self.whole.new_zeros(spline.d, k + 1, k + 3)
        rows = torch.arange(k, device=table.device)
        for j, column in enumerate((self.whole @ spline.splines.T).unbind(-1)):
            table[:, rows + 1, rows + j] = column
        table = table.cumsum(1)
        return (table - table[:, spline.middle, None])[:, :k]

    def _gather_intervals(self, by_interval):
        """The transpose of :meth:`_between_knots` times (d, k, r), shape (d, k + 3, r)."""
        k, middle = self.spline.k, self.spline.middle
        below, above = by_interval[:, :middle], by_interval[:, middle:]
        # interval c lies between the middle and the knots above it, or those up to it
        above = above.flip(1).cumsum(1).flip(1) - above
        passed = torch.cat([-below.cumsum(1), above], 1)
        out = by_interval.new_zeros(len(by_interval), k + 3, by_interval.shape[2])
        for j, weight in enumerate((self.whole @ self.spline.splines.T).unbind(-1)):
            out[:, j : j + k] += weight[:, :, None] * passed
        return out

    def _sum(self, values):
        """Sums of values (n, d) over the points of each interval, (d, k)."""
        spline = self.spline
        total = values.new_zeros(spline.d * spline.k)
        return total.index_add_(0, self._cell, values.reshape(-1)).view(spline.d, spline.k)

    @cached_property
    def _cell(self):
        return (self.at.interval + self.spline.coordinate * self.spline.k).reshape(-1)

    def coordinate_moments(self, weights, columns):
        # dy/dtheta = (1, between(interval) + sum_j moment_j spline_j): sums over the points of an
        # interval first, of products of moments, and then a small matrix for each coordinate
        spline, k, d = self.spline, self.spline.k, self.spline.d
        splines = spline.splines
        weighted = [weights * moment for moment in self.moments]
        ones = self._sum(weights)
        first = torch.stack([self._sum(w) for w in weighted], 2) @ splines.T
        second = self.whole.new_empty(d, k, 4, 4)
        for i in range(4):
            for j in range(i + 1):
                second[:, :, i, j] = self._sum(weighted[i] * self.moments[j])
                second[:, :, j, i] = second[:, :, i, j]
        second = splines @ second @ splines.T
        between = self._between_knots()
        half = 0.5 * ones[:, :, None] * between
        for j, column in enumerate(first.unbind(-1)):
            half.diagonal(j, 1, 2).add_(column)
        gram = self._gather_intervals(half)
        gram = gram + gram.mT
        for i in range(4):
            for j in range(4):
                gram[:, i : i + k, j : j + k].diagonal(0, 1, 2).add_(second[:, :, i, j])
        # the shift, whose column is one, stands with the columns asked for
        right = [torch.ones_like(weights), *columns.unbind(-1)]
        by_ones = torch.stack([self._sum(weights * r) for r in right], 2)
        by_moments = torch.stack(
            [torch.stack([self._sum(w * r) for w in weighted], 2) @ splines.T for r in right], 3
        )
        cross = self._gather_intervals(by_ones)
        for j, rows in enumerate(by_moments.unbind(2)):
            cross[:, j : j + k] += rows
        gram = _share_ends(_share_ends(gram).mT)
        cross = _share_ends(cross.mT).mT
        top = by_ones.sum(1, keepdim=True)
        own = torch.cat(
            [
                torch.cat([top[:, :, :1], cross[:, :, :1].mT], 2),
                torch.cat([cross[:, :, :1], gram], 2),
            ],
            1,
        )
        return own, torch.cat([top[:, :, 1:], cross[:, :, 1:]], 1)

    def grad_log_det(self):
        return self.slope_q

    def solve(self, v):
        return v / self.slope

    def solve_transposed(self, v):
        return v / (self.slope if v.ndim == 2 else self.slope[:, None])

    def jvp(self, dtheta, dx=None):
        spline = self.spline
        dshift, dcoefficients = dtheta.view(spline.d, spline.k).split([1, spline.k - 1], 1)
        dcubics = spline.as_cubics(dcoefficients)
        whole = (self.whole * dcubics).sum(-1)
        dvalues = whole.cumsum(1) - whole
        dvalues = dvalues - dvalues[:, spline.middle, None] + dshift
        dy = spline.look_up(dvalues, self.at.interval)
        for moment, table in zip(self.moments, dcubics.unbind(-1), strict=True):
            dy = dy + moment * spline.look_up(table.contiguous(), self.at.interval)
        return dy if dx is None else dy + self.slope * dx

    def vjp(self, v):
        spline, k = self.spline, self.spline.k
        ones = self._sum(v)
        moments = torch.stack([self._sum(v * moment) for moment in self.moments], 2)
        by_spline = self._gather_intervals(ones[:, :, None])[:, :, 0]
        for j, column in enumerate((moments @ spline.splines.T).unbind(-1)):
            by_spline[:, j : j + k] += column
        dtheta = torch.cat([ones.sum(1, keepdim=True), _share_ends(by_spline)], 1)
        return dtheta.reshape(-1), v * self.slope

    def jacobian(self, left=None):
        n, d, p = self.by_theta.shape
        if left is None:
            left = torch.eye(d).to(self.by_theta).expand(n, d, d)
        by_theta = left[:, :, :, None] * self.by_theta[:, None]
        return by_theta.reshape(n, left.shape[1], d * p), left * self.slope[:, None]

    def coordinate_jacobian(self):
        return self.by_theta

    def coordinate_slope(self):
        return self.slope


def _share_ends(table):
    """Sum the three columns at either end, which stand for one coefficient."""
    return torch.cat(
        [table[..., :3].sum(-1, keepdim=True), table[..., 3:-3], table[..., -3:].sum(-1, True)], -1
    )
