r"""One coordinate given those before it: the Knothe-Rosenblatt map of conditional densities.

rho_theta(y) = prod_i p_i(y_i | y_<i), each factor the image of N(0, 1) under the inverse of

    S_i(y_i; y_<i) = m_i(y_<i) + int_c^{y_i} exp q_i(u, y_<i) du ,                             (*)
    m_i = sum_a theta_a0 A_a(y_<i) ,      q_i = sum_ab theta_ab A_a(y_<i) B_b(y_i) .

S_i grows in y_i whatever theta is, so that rho_theta is normalised and the map invertible; outside
the intervals on which the B_b vary S_i is affine in y_i, and the density falls like that of a
Gaussian. The score of a parameter, phi = d log p_i / d theta, is

    phi_a0 = -S_i A_a ,      phi_ab = A_a (B_b - S_i I_b) ,      I_b = int_c^{y_i} exp(q_i) B_b ,

and has mean zero given y_<i.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .base import Flow, Linearization
from .bases import as_basis
from .factor import Factor, Tables
from .factor_points import Local, Points
from .inverse import _Solve


class ConditionalFlow(Flow):
    r"""Conditional densities, smooth, normalised and multimodal where they have to be.

    Coordinate by coordinate y_i has the law of :math:`S_i^{-1}(x_i; y_{<i})` with x_i from N(0, 1)
    and :math:`S_i = m_i(y_{<i}) + \int \exp q_i(u, y_{<i}) du`. How m_i and q_i depend on the
    coordinates before is a sum of products of functions of one coordinate each.

    Parameters
    ----------
    own : list of basis, optional
        For every coordinate the functions B_b of y_i in q_i: ``("splines", knots)`` or
        ``("polynomials", lower, upper, size[, saturation])``. None lets a fit choose all of them
        by the problem: where particles sent ahead go, and which coordinates interact.
    features : list of basis, optional
        For every coordinate the functions of it that later coordinates may depend on.
    groups : list of list of (parents, functions, n_own), optional
        For every coordinate the groups of products A_a: all products of one function for each of
        the ``parents`` (tuple of coordinates before it), out of its list in ``functions``. The
        products enter m_i, and q_i with the first ``n_own`` functions of y_i.
    order : list of int, optional
        The coordinate of x that is taken first, second, ...; None takes them as they come. The
        other parameters count coordinates in this order.
    capacity : int, default=1
        Multiplies the size of what a fit chooses.
    """

    closed_form = True
    marched_by_scores = True

    def __init__(self, own=None, features=None, groups=None, order=None, capacity=1):
        self.own = own
        self.features = features
        self.groups = groups
        self.order = order
        self.capacity = capacity

    @property
    def chosen(self) -> bool:  # type: ignore[override]
        """Whether the functions are given; if not a fit has to choose them."""
        return self.own is not None

    def summary(self) -> str:
        """A line that says what it consists of."""
        if not self.chosen:
            return "ConditionalFlow()"
        sizes = [len(block) for block in self.blocks()]
        blocks = ", ".join(f"{sizes.count(k)} of {k}" for k in sorted(set(sizes)))
        return (
            f"ConditionalFlow, {self.n_parameters(len(self.own))} parameters; independent blocks "
            f"of coordinates: {blocks}"
        )

    @property
    def factors(self) -> list[Factor]:
        """The conditional densities, in order."""
        key = (self.own, self.features, self.groups)
        known, factors = self.__dict__.get("_prepared", (None, None))
        if known is None or any(a is not b for a, b in zip(known, key, strict=True)):
            if not self.chosen:
                raise ValueError(
                    "this ConditionalFlow() has no functions yet: a fit chooses them, or give it "
                    "own, features and groups."
                )
            bases = [as_basis(spec) for spec in self.features]
            triples = zip(self.own, self.groups, strict=True)
            factors = [Factor(i, as_basis(o), g, bases) for i, (o, g) in enumerate(triples)]
            self._prepared = key, factors
        return factors

    def __getstate__(self):
        state = dict(super().__getstate__())
        state.pop("_prepared", None)
        return state

    def _order(self, d: int) -> list[int]:
        if self.chosen and len(self.own) != d:
            raise ValueError(
                f"this ConditionalFlow has functions for {len(self.own)} coordinates, but the "
                f"points have {d}: choose them anew with ConditionalFlow()."
            )
        return list(range(d)) if self.order is None else list(self.order)

    def n_parameters(self, d):
        return sum(factor.size for factor in self.factors)

    def numbers_per_point(self, d):
        return d * d + max(5 * len(f.cells.nodes) + f.size for f in self.factors)

    def blocks(self) -> list[list[int]]:
        """Sets of coordinates, in the order of the flow, that do not depend on each other."""
        label = list(range(len(self.factors)))
        for factor in self.factors:
            for j in factor.parents:
                old, new = label[factor.index], label[j]
                label = [new if k == old else k for k in label]
        return [[i for i, k in enumerate(label) if k == name] for name in sorted(set(label))]

    def centre(self, d: int) -> Tensor:
        """The middles of the intervals on which the own functions vary, (d,) as points are."""
        out = torch.empty(d, dtype=torch.float64)
        middles = [(f.own.lower + f.own.upper) / 2 for f in self.factors]
        out[self._order(d)] = torch.tensor(middles, dtype=torch.float64)
        return out

    def _tables(self, z: Tensor) -> Tables:
        """Functions of the coordinates of z (P, d), which are in the order of the flow."""
        return Tables(self.factors[0].bases, z)

    def split(self, theta: Tensor) -> tuple[Tensor, ...]:
        """Views of theta, one a factor."""
        return theta.split([factor.size for factor in self.factors])

    def init(self, d, generator=None):
        self._order(d)
        identity = torch.eye(d, dtype=torch.float64)
        return self.with_affine(None, torch.zeros(d, dtype=torch.float64), identity)

    def starts_at_identity(self, d):
        return True

    def with_affine(self, theta, mean, scale):
        """Parameters of N(mean, scale scale^T), theta being that of N(0, I) or None.

        Exact as far as the features reach; None where they do not hold the linear functions.
        """
        if theta is not None and not torch.equal(theta.cpu(), self.init(len(mean))):
            return None
        order = self._order(len(mean))
        mean, scale = mean.cpu().double(), scale.cpu().double()
        covariance = (scale @ scale.T)[order][:, order]
        root = torch.linalg.cholesky(covariance)
        whitener = torch.linalg.inv(root)
        parts = [f.gaussian(mean[order], whitener[i]) for i, f in enumerate(self.factors)]
        if any(part is None for part in parts):
            return None
        out = torch.cat(parts)
        return out if theta is None else out.to(theta)

    def forward(self, theta, x):
        with torch.no_grad():
            y = self._push(theta, x)
        if torch.is_grad_enabled() and (theta.requires_grad or x.requires_grad):
            # implicit function theorem: one Newton step from the solution carries the derivatives
            with torch.no_grad():
                here = self.linearize(theta, x, y)
            y = y + _Solve.apply(x - self.inverse(theta, y)[0], _Backwards(here))
        return y, -self.inverse(theta, y)[1]

    def _push(self, theta: Tensor, x: Tensor) -> Tensor:
        z, order = torch.zeros_like(x), self._order(x.shape[1])
        tables = self._tables(z)
        for i, part in enumerate(self.split(theta)):
            factor = self.factors[i]
            local = factor.local(part, factor.products(tables))
            z[:, i] = local.quantile(x[:, order[i]])
        y = torch.empty_like(z)
        y[:, order] = z
        return y

    def inverse(self, theta, y):
        order = self._order(y.shape[1])
        z, columns, log_det = y[:, order], [], torch.zeros_like(y[:, 0])
        tables = self._tables(z)
        for i, part in enumerate(self.split(theta)):
            factor = self.factors[i]
            local = factor.local(part, factor.products(tables))
            latent, q = local.latent(z[:, i])
            columns.append(latent)
            log_det = log_det + q
        back = np.argsort(order).tolist()
        return torch.stack(columns, 1)[:, back], log_det

    def linearize(self, theta, x, y=None):
        return _ConditionalLinearization(self, theta, x, y)

    def score_and_divergence(self, theta, y):
        return self.score_divergence_and_rate(theta, torch.zeros_like(theta), y)[:2]

    def score_divergence_and_rate(self, theta, dtheta, y):
        score, curvature, rate = self.score_curvature_and_rate(theta, dtheta, y)
        return score, curvature.sum(1), rate

    def score_curvature_and_rate(self, theta, dtheta, y):
        """grad log rho, the second derivative in each coordinate, and the rate of log rho.

        Of shapes (n, d), (n, d) and (n,), at fixed y (n, d).
        """
        order = self._order(y.shape[1])
        z = y[:, order]
        tables = self._tables(z)
        score, curvature, rate = torch.zeros_like(z), torch.zeros_like(z), 0.0
        for i, (part, change) in enumerate(zip(self.split(theta), self.split(dtheta), strict=True)):
            factor = self.factors[i]
            products = factor.products(tables)
            at = factor.local(part, products).at_samples(z[:, i])
            at.add_curvature(score, curvature)
            rate = rate + (at.phi[:, 0] * (products.values @ factor.table(change))).sum(1)
        out, bends = torch.empty_like(score), torch.empty_like(score)
        out[:, order], bends[:, order] = score, curvature
        return out, bends, rate

    def log_density_rate(self, theta, dtheta, y):
        return self.score_divergence_and_rate(theta, dtheta, y)[2]


class _Backwards:
    """A linearization of T that solves with dS/dy, S the inverse of T."""

    def __init__(self, linearization):
        self.solve = linearization._push
        self.solve_transposed = linearization._pull


class _ConditionalLinearization(Linearization):
    """Derivatives of T = S^{-1}, from those of S at y = T(x)."""

    def __init__(self, flow, theta, x, y=None):
        self.flow, self.theta, self.x = flow, theta, x
        order = flow._order(x.shape[1])
        self.order = torch.tensor(order).to(x.device)
        z = torch.zeros_like(x) if y is None else y[:, self.order]
        tables = flow._tables(z)
        self.locals, self.points = [], []
        for i, part in enumerate(flow.split(theta)):
            factor = flow.factors[i]
            local = factor.local(part, factor.products(tables))
            if y is None:
                z[:, i] = local.quantile(x[:, order[i]])
            self.locals.append(local)
            self.points.append(local.at_samples(z[:, i]))
        self.y = self._from_order(z) if y is None else y
        self.log_det = -sum(p.log_slope[:, 0] for p in self.points)

    @cached_property
    def by_z(self) -> Tensor:
        """dS/dz (n, d, d), lower triangular."""
        n, d = self.x.shape
        out = self.x.new_zeros(n, d, d)
        for i, (local, points) in enumerate(zip(self.locals, self.points, strict=True)):
            out[:, i, i] = points.slope[:, 0]
            weights = _latent_weights(local, points)
            for j, value in local.products.pull(weights):
                out[:, i, j] += value
        return out

    @cached_property
    def score_z(self) -> Tensor:
        """Gradient in z of log |det dS/dz| (n, d)."""
        out = torch.zeros_like(self.x)
        for i, (local, points) in enumerate(zip(self.locals, self.points, strict=True)):
            out[:, i] += points._contract(points.own1, local.coefficients)[:, 0]
            weights = points.own[:, 0] @ local.table[:, 1:].T
            for j, value in local.products.pull(weights):
                out[:, j] += value
        return out

    def _from_order(self, z):
        out = torch.empty_like(z)
        out[..., self.order] = z
        return out

    def solve(self, v):
        return self._from_order((self.by_z @ v[:, self.order, None])[:, :, 0])

    def solve_transposed(self, v):
        rows = (v[:, None] if v.ndim == 2 else v)[..., self.order]
        out = self._from_order(rows @ self.by_z)
        return out[:, 0] if v.ndim == 2 else out

    def _push(self, v):
        """dT/dx v for v (n, d)."""
        z = torch.linalg.solve_triangular(self.by_z, v[:, self.order, None], upper=False)
        return self._from_order(z[:, :, 0])

    def _pull(self, v):
        """(dT/dx)^T v for v (n, d), or for every row of v (n, r, d)."""
        rows = (v[:, None] if v.ndim == 2 else v)[..., self.order]
        out = torch.linalg.solve_triangular(self.by_z, rows, upper=False, left=False)
        out = self._from_order(out)
        return out[:, 0] if v.ndim == 2 else out

    def push_score(self, score):
        return self.solve_transposed(score) + self._from_order(self.score_z)

    def grad_log_det(self):
        return -self._pull(self._from_order(self.score_z))

    def moved(self, dtheta: Tensor) -> Tensor:
        """dS/dtheta dtheta at fixed y (n, d)."""
        columns = []
        for i, part in enumerate(self.flow.split(dtheta)):
            local, points = self.locals[i], self.points[i]
            change = local.products.values @ local.factor.table(part)
            columns.append(change[:, 0] + (points.integrals[:, 0] * change[:, 1:]).sum(1))
        return self._from_order(torch.stack(columns, 1))

    def jvp(self, dtheta, dx=None):
        moved = -self.moved(dtheta)
        return self._push(moved if dx is None else moved + dx)

    def vjp(self, v):
        pulled = self._pull(v)
        u, parts = pulled[:, self.order], []
        for i, (local, points) in enumerate(zip(self.locals, self.points, strict=True)):
            by = torch.cat([torch.ones_like(u[:, :1]), points.integrals[:, 0]], 1)
            table = -local.products.values.T @ (u[:, i, None] * by)
            parts.append(local.factor.pick(table))
        return torch.cat(parts), pulled

    def jacobian(self, left=None):
        n, d = self.x.shape
        if left is None:
            left = torch.eye(d).to(self.x).expand(n, d, d)
        pulled = self._pull(left)
        u, parts = pulled[..., self.order], []
        for i, (local, points) in enumerate(zip(self.locals, self.points, strict=True)):
            by = torch.cat([torch.ones_like(self.x[:, :1]), points.integrals[:, 0]], 1)
            table = local.products.values[:, :, None] * by[:, None]
            parts.append(-u[:, :, i, None] * local.factor.pick(table)[:, None])
        return torch.cat(parts, 2), pulled


def _latent_weights(local: Local, points: Points) -> Tensor:
    """dS_i / dA_a (n, nA) at samples."""
    both = torch.cat([torch.ones_like(points.latent), points.integrals[:, 0]], 1)
    return both @ local.table.T
