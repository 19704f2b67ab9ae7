"""A factor at given prefixes: its values, its scores and their derivatives in y."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .bases import ORDER

if TYPE_CHECKING:
    from .factor import Factor, Products

_LOG_2PI = math.log(2 * math.pi)


class Local:
    """A factor at P prefixes: functions of y_i alone.

    Attributes
    ----------
    table : Tensor (nA, 1 + nB)
    shift : Tensor (P,)
        m_i.
    coefficients : Tensor (P, nB)
        Of the own functions in q_i.
    """

    def __init__(self, factor: Factor, table: Tensor, products: Products):
        self.factor, self.table, self.products = factor, table, products
        both = products.values @ table
        self.shift, self.coefficients = both[:, 0], both[:, 1:]
        cells = factor.cells
        self.edges = cells.edges.to(both)
        self.widths = cells.widths.to(both)

    def log_slope(self, y: Tensor) -> Tensor:
        """q_i at y (P, ...)."""
        return self.factor.own.combine(self.coefficients, y)

    @cached_property
    def on_nodes(self) -> Tensor:
        """exp(q_i) at the nodes of the cells (P, N)."""
        return (self.coefficients @ self.factor.on_nodes.to(self.coefficients).T).exp()

    @cached_property
    def at_edges(self) -> Tensor:
        """Integrals of exp(q_i) from the middle edge to every edge (P, n + 1)."""
        whole = self.on_nodes @ self.factor.cells.summing.to(self.on_nodes)
        edges = torch.cat([torch.zeros_like(whole[:, :1]), whole.cumsum(1)], 1)
        return edges - edges[:, self.factor.cells.middle, None]

    def _partial(self, y: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Nodes (P, ORDER) of the part of cell k (P,) up to y (P,), and its length."""
        cells = self.factor.cells
        length = y - self.edges[k]
        return self.edges[k, None] + length[:, None] * cells.unit_nodes.to(y), length

    def _integral(self, y: Tensor, k: Tensor) -> Tensor:
        nodes, length = self._partial(y, k)
        slopes = self.log_slope(nodes).exp()
        start = self.at_edges.gather(1, k[:, None])[:, 0]
        return start + length * (slopes @ self.factor.cells.unit_weights.to(y))

    def cell(self, y: Tensor) -> Tensor:
        """The cell (P,) that holds y, or is closest."""
        k = torch.searchsorted(self.edges, y.detach().contiguous(), right=True) - 1
        return k.clamp(0, len(self.widths) - 1)

    def latent(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """S_i and q_i at y (P,)."""
        inside = y.clamp(self.factor.own.lower, self.factor.own.upper)
        q = self.log_slope(inside)
        value = self.shift + self._integral(inside, self.cell(inside))
        return value + q.exp() * (y - inside), q

    def quantile(self, x: Tensor, exact: bool = True) -> Tensor:
        """y (P,) with S_i(y) = x: Newton within the cell; only its start where not ``exact``."""
        target = x - self.shift
        edges, n = self.at_edges, len(self.widths)
        k = (torch.searchsorted(edges.contiguous(), target[:, None].contiguous(), right=True) - 1)[
            :, 0
        ]
        below, above = k < 0, k >= n
        k = k.clamp(0, n - 1)
        left, width = self.edges[k], self.widths[k]
        low, rise = edges.gather(1, k[:, None])[:, 0], edges.gather(1, k[:, None] + 1)[:, 0]
        rise = rise - low
        share = ((target - low) / rise).clamp(0, 1)
        # inverse cubic Hermite interpolation between the edges
        ends = torch.stack([left, left + width], 1)
        slopes = self.log_slope(ends).neg().exp() * (rise / width)[:, None]
        ok = (slopes < 3).all(1)  # monotone
        s, a, b = share, slopes[:, 0], slopes[:, 1]
        cubic = s * (s * (3 - 2 * s) + (1 - s) * ((1 - s) * a - s * b))
        y = left + width * torch.where(ok, cubic, share).clamp(0, 1)
        if exact:
            y = self._newton(y, target, k, left, left + width)
        if below.any() or above.any():
            lower, upper = self.factor.own.lower, self.factor.own.upper
            bounds = torch.tensor([lower, upper]).to(y).expand(len(y), 2)
            slope = self.log_slope(bounds).neg().exp()
            y = torch.where(below, lower + (target - edges[:, 0]) * slope[:, 0], y)
            y = torch.where(above, upper + (target - edges[:, -1]) * slope[:, 1], y)
        return y

    def _newton(self, y, target, k, low, high):
        out, active = y.clone(), torch.arange(len(y), device=y.device)
        here = self
        for _ in range(60):
            error = here._integral(y, k) - target
            high = torch.where(error > 0, y, high)
            low = torch.where(error > 0, low, y)
            step = error * here.log_slope(y).neg().exp()
            after = y - step
            inside = (after >= low) & (after <= high)
            after = torch.where(inside, after, (low + high) / 2)
            # quadratic convergence: after a step of 3e-8 the error is that of rounding
            done = inside & ((after - y).abs() <= 3e-8 * (1 + y.abs()))
            done |= (error.abs() <= 1e-14 * (1 + target.abs())) | (high - low <= 1e-15 * y.abs())
            y = after
            if done.all():
                break
            if done.float().mean() > 0.5:
                out[active] = y
                go = ~done
                active, y, target, k = active[go], y[go], target[go], k[go]
                low, high, here = low[go], high[go], here.rows(go)
        out[active] = y
        return out

    def rows(self, index: Tensor) -> Local:
        """The same for some of the prefixes."""
        part = Local.__new__(Local)
        part.factor, part.edges, part.widths = self.factor, self.edges, self.widths
        part.shift, part.coefficients = self.shift[index], self.coefficients[index]
        part.__dict__["at_edges"] = self.at_edges[index]
        return part

    def at_samples(self, y: Tensor) -> AtSamples:
        """At one y_i a prefix, y (P,)."""
        return AtSamples(self, y)

    def at_nodes(self) -> AtNodes:
        """At the nodes of the cells, the same for all prefixes."""
        return AtNodes(self)


class Points:
    """S_i, q_i and the scores of a factor at Q values of y_i for every prefix.

    Attributes
    ----------
    latent, log_slope, slope : Tensor (P, Q)
        S_i, q_i and dS_i / dy_i = exp(q_i).
    own, own1 : Tensor (P or 1, Q, nB)
        B_b and its derivative.
    integrals : Tensor (P, Q, nB)
        I_b.
    """

    local: Local
    latent: Tensor
    log_slope: Tensor
    own: Tensor
    own1: Tensor
    integrals: Tensor

    @cached_property
    def slope(self) -> Tensor:
        """exp(q_i) (P, Q)."""
        return self.log_slope.exp()

    @cached_property
    def log_density(self) -> Tensor:
        """log p_i (P, Q)."""
        return self.log_slope - 0.5 * self.latent.square() - 0.5 * _LOG_2PI

    def _contract(self, functions: Tensor, coefficients: Tensor) -> Tensor:
        """sum_b functions_b coefficients_b, (P, Q), for coefficients (P, nB)."""
        return torch.matmul(functions, coefficients[:, :, None])[:, :, 0]

    @cached_property
    def score(self) -> Tensor:
        """d log p_i / dy_i (P, Q)."""
        return self._contract(self.own1, self.local.coefficients) - self.latent * self.slope

    @cached_property
    def phi(self) -> Tensor:
        """phi_ab / A_a, (P, Q, 1 + nB)."""
        latent = self.latent[..., None]
        return torch.cat([-latent, self.own - latent * self.integrals], -1)

    @cached_property
    def phi_own(self) -> Tensor:
        """Its derivative in y_i."""
        latent, slope = self.latent[..., None], self.slope[..., None]
        grown = self.own1 - slope * (self.integrals + latent * self.own)
        return torch.cat([-slope, grown], -1)

    def along(self, change: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of S_i and of q_i (P, Q) where m_i and the coefficients change.

        ``change`` (P, 1 + nB) holds the derivatives of m_i and of the coefficients.
        """
        by_coefficients = change[:, 1:]
        latent = change[:, :1] + self._risen(by_coefficients)
        return latent, self._contract(self.own, by_coefficients)

    def phi_moved(self, change: Tensor) -> Tensor:
        """The derivative of phi_ab / A_a (P, Q, 1 + nB); ``change`` as for :meth:`along`."""
        by_coefficients = change[:, 1:]
        latent = (change[:, :1] + self._risen(by_coefficients))[..., None]
        integrals = self._weighted(by_coefficients)
        scores = -latent * self.integrals - self.latent[..., None] * integrals
        return torch.cat([-latent, scores], -1)

    def curvature(self, change: Tensor, bend: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivative of log p_i (P, Q) in one coordinate before.

        ``change`` and ``bend`` (P, 1 + nB) are first and second derivatives of m_i and of the
        coefficients.
        """
        (s1, q1), (s2, q2) = self.along(change), self.along(bend)
        s2 = s2 + self._square(change[:, 1:])
        return q1 - self.latent * s1, q2 - s1.square() - self.latent * s2

    def own_curvature(self) -> Tensor:
        """d^2 log p_i / dy_i^2 (P, Q)."""
        q1 = self._contract(self.own1, self.local.coefficients)
        q2 = self._contract(self._own2(), self.local.coefficients)
        return q2 - self.slope.square() - self.latent * self.slope * q1

    def _own2(self) -> Tensor:
        """Second derivatives of the own functions."""
        raise NotImplementedError

    def _risen(self, coefficients: Tensor) -> Tensor:
        """int exp(q) (sum_c coefficients_c B_c) (P, Q)."""
        return self._contract(self.integrals, coefficients)

    def _weighted(self, coefficients: Tensor) -> Tensor:
        """int exp(q) B_b (sum_c coefficients_c B_c) (P, Q, nB)."""
        raise NotImplementedError

    def _square(self, coefficients: Tensor) -> Tensor:
        """int exp(q) (sum_c coefficients_c B_c)^2 (P, Q)."""
        raise NotImplementedError


class AtNodes(Points):
    """At the Gauss nodes of the cells: a quadrature of y_i, the same for all prefixes."""

    def __init__(self, local: Local):
        self.local, factor = local, local.factor
        self.cells, like = factor.cells, local.coefficients
        self.nodes, self.weights = self.cells.nodes.to(like), self.cells.weights.to(like)
        self.own = factor.on_nodes.to(like)[None]
        self.own1 = factor.own(self.nodes, 1)[None]
        self.log_slope = local.coefficients @ self.own[0].T
        grown, _ = self.cells.cumulative(local.on_nodes)
        self.latent = local.shift[:, None] + grown

    @cached_property
    def integrals(self) -> Tensor:  # type: ignore[override]
        """I_b (P, Q, nB)."""
        return self.cells.cumulative(self.local.on_nodes[..., None] * self.own)[0]

    def _contract(self, functions, coefficients):
        if len(functions) == 1:
            return coefficients @ functions[0].T
        return super()._contract(functions, coefficients)

    def _risen(self, coefficients):
        return self.cells.cumulative(self.local.on_nodes * (coefficients @ self.own[0].T))[0]

    def _own2(self):
        return self.local.factor.own(self.nodes, 2)[None]

    def _weighted(self, coefficients):
        weight = self.local.on_nodes * (coefficients @ self.own[0].T)
        return self.cells.cumulative(weight[..., None] * self.own)[0]

    def _square(self, coefficients):
        weight = self.local.on_nodes * (coefficients @ self.own[0].T).square()
        return self.cells.cumulative(weight)[0]


class AtSamples(Points):
    """At one y_i a prefix (Q = 1)."""

    def __init__(self, local: Local, y: Tensor):
        self.local, factor, cells = local, local.factor, local.factor.cells
        own = factor.own
        inside = y.clamp(own.lower, own.upper)
        self.beyond = (y - inside)[:, None]
        k = local.cell(inside)
        nodes, length = local._partial(inside, k)
        self.on_nodes = factor.on_nodes.to(y)  # (N, nB)
        self.on_part = own(nodes)  # (P, ORDER, nB)
        part = (self.on_part @ local.coefficients[:, :, None])[:, :, 0].exp()
        self.part = part * (length[:, None] * cells.unit_weights.to(y))
        # +1 on the whole cells between the middle and y, -1 where y is below the middle
        signs = cells.signs.to(y)[k].repeat_interleave(ORDER, 1)
        self.whole = local.on_nodes * signs.mul_(cells.weights.to(y))
        self.own, self.own1, self._bent = (f[:, None] for f in own.derivatives(y))
        self.log_slope = self._contract(self.own, local.coefficients)
        rest = self.beyond * self.slope
        whole = local.at_edges.gather(1, k[:, None])
        self.latent = local.shift[:, None] + whole + self.part.sum(1, keepdim=True) + rest
        self.integrals = (
            (self.whole @ self.on_nodes)
            + (self.part[:, None] @ self.on_part)[:, 0]
            + rest * self.own[:, 0]
        )[:, None]

    def add_curvature(self, score: Tensor, curvature: Tensor) -> None:
        """Add d log p_i / dz to ``score`` and d^2 log p_i / dz^2 to ``curvature``, (P, d) each."""
        factor, products = self.local.factor, self.local.products
        score[:, factor.index] += self.score[:, 0]
        curvature[:, factor.index] += self.own_curvature()[:, 0]
        for j in factor.parents:
            change = products.derivative(j) @ self.local.table
            bend = products.derivative(j, 2) @ self.local.table
            first, second = self.curvature(change, bend)
            score[:, j] += first[:, 0]
            curvature[:, j] += second[:, 0]

    def _own2(self):
        return self._bent

    def _terms(self, coefficients):
        nodes = coefficients @ self.on_nodes.T
        part = (self.on_part @ coefficients[:, :, None])[:, :, 0]
        return nodes, part, self._contract(self.own, coefficients)

    def _weighted(self, coefficients):
        nodes, part, here = self._terms(coefficients)
        inside = (self.whole * nodes) @ self.on_nodes
        inside = inside + ((self.part * part)[:, None] @ self.on_part)[:, 0]
        return (inside + self.beyond * self.slope * here * self.own[:, 0])[:, None]

    def _square(self, coefficients):
        nodes, part, here = self._terms(coefficients)
        inside = _dot(self.whole * nodes, nodes) + _dot(self.part * part, part)
        return inside + self.beyond * self.slope * here.square()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Scalar products of rows, (P, 1)."""
    return (a[:, None] @ b[:, :, None])[:, :, 0]
