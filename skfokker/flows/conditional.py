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

import copy
import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .base import Flow, Linearization
from .bases import ORDER, as_basis, as_cells
from .inverse import _Solve

_LOG_2PI = math.log(2 * math.pi)
_EXACT = 1e-8  # relative error of a linear function that the products hold


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
    def chosen(self) -> bool:
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
        order = self._order(y.shape[1])
        z = y[:, order]
        tables = self._tables(z)
        score, divergence, rate = torch.zeros_like(z), torch.zeros_like(z[:, 0]), 0.0
        for i, (part, change) in enumerate(zip(self.split(theta), self.split(dtheta), strict=True)):
            factor = self.factors[i]
            products = factor.products(tables)
            at = factor.local(part, products).at_samples(z[:, i])
            divergence = divergence + at.add_curvature(score)
            rate = rate + (at.phi[:, 0] * (products.values @ factor.table(change))).sum(1)
        out = torch.empty_like(score)
        out[:, order] = score
        return out, divergence, rate

    def log_density_rate(self, theta, dtheta, y):
        return self.score_divergence_and_rate(theta, dtheta, y)[2]


class _Backwards:
    """A linearization of T that solves with dS/dy, S the inverse of T."""

    def __init__(self, linearization):
        self.solve = linearization._push
        self.solve_transposed = linearization._pull


class Tables:
    """Functions of single coordinates at points z (P, d), each computed once.

    Columns of z may be filled in as they become known, before they are asked for.
    """

    def __init__(self, bases, z: Tensor):
        self.bases, self.z = bases, z
        self._known: dict[tuple[int, int], Tensor] = {}

    def __call__(self, j: int, order: int = 0) -> Tensor:
        """Derivatives of the functions of coordinate j, (P, K)."""
        key = (j, order)
        if key not in self._known:
            self._known[key] = self.bases[j](self.z[:, j], order)
        return self._known[key]


class Products:
    """The products A_a of a factor at prefixes, and their derivatives.

    Attributes
    ----------
    values : Tensor (P, nA)
    """

    def __init__(self, factor: Factor, tables: Tables):
        self.factor, self.tables = factor, tables
        self.values = self._all()

    def rows(self, index: slice) -> Products:
        """The values alone, at some of the prefixes."""
        part = Products.__new__(Products)
        part.factor, part.values = self.factor, self.values[index]
        part.tables = Tables(self.tables.bases, self.tables.z[index])
        return part

    def _block(self, group, by: int | None = None, order: int = 0) -> Tensor:
        parents, functions, _ = group
        block = None
        for j, chosen in zip(parents, functions, strict=True):
            table = self.tables(j, order if j == by else 0)[:, chosen]
            block = table if block is None else (block[:, :, None] * table[:, None]).flatten(1)
        return self.tables.z.new_ones(len(self.tables.z), 1) if block is None else block

    def _all(self):
        return torch.cat([self._block(group) for group in self.factor.groups], 1)

    @cached_property
    def slopes(self) -> list[tuple[int, slice, Tensor]]:
        """Where A depends on a coordinate before: j, columns of A, their derivatives in z_j."""
        return [
            (j, columns, self._block(group, j, 1))
            for group, columns in zip(self.factor.groups, self.factor.columns, strict=True)
            for j in group[0]
        ]

    def derivative(self, j: int, order: int = 1) -> Tensor:
        """d^order A / dz_j^order (P, nA)."""
        out = torch.zeros_like(self.values)
        for group, columns in zip(self.factor.groups, self.factor.columns, strict=True):
            if j in group[0]:
                out[:, columns] = self._block(group, j, order)
        return out

    def along(self, v: Tensor) -> Tensor:
        """sum_j v_j dA / dz_j (P, nA) for v (P, >= i)."""
        out = torch.zeros_like(self.values)
        for j, columns, slopes in self.slopes:
            out[:, columns] += v[:, j, None] * slopes
        return out

    def pull(self, w: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Pairs of j and sum_a w_a dA_a / dz_j (P,), for w (P, nA)."""
        for j, columns, slopes in self.slopes:
            yield j, (w[:, columns] * slopes).sum(1)


class Factor:
    """p_i(y_i | y_<i) as functions of its parameters: what (*) of this module says.

    Attributes
    ----------
    index : int
        i, in the order of the flow.
    parents : list of int
        Coordinates that it depends on.
    size : int
        Number of parameters.
    n_products, n_own : int
        nA and nB.
    active : Tensor (size,)
        Where the parameters stand in an array (nA, 1 + nB).
    """

    def __init__(self, index, own, groups, bases):
        self.index, self.own, self.bases = index, own, bases
        self.groups = [
            (tuple(parents), [_as_slice(f) for f in functions], int(n_own))
            for parents, functions, n_own in groups
        ]
        self.cells = as_cells(own)
        self.parents = sorted({j for group in self.groups for j in group[0]})
        if any(j >= index for j in self.parents):
            raise ValueError(
                f"coordinate {index} of a ConditionalFlow may depend on those before it only, got "
                f"parents {self.parents}."
            )
        self.columns, self.used, active, start, n_own = [], [], [], 0, own.size
        for _, functions, used in self.groups:
            count = math.prod(
                f.stop - f.start if isinstance(f, slice) else len(f) for f in functions
            )
            self.columns.append(slice(start, start + count))
            rows = np.arange(start, start + count)[:, None] * (1 + n_own)
            self.used.append(1 + min(used, n_own))
            active.append((rows + np.arange(self.used[-1])).ravel())
            start += count
        self.n_products, self.n_own = start, n_own
        self.active = torch.from_numpy(np.concatenate(active))
        self.size = len(self.active)
        self.full = self.size == start * (1 + n_own)
        self.on_nodes = own(self.cells.nodes)  # (N, nB)

    def refined(self, n: int) -> Factor:
        """The same on cells cut into n each."""
        out = copy.copy(self)
        out.cells = self.cells.split(n)
        out.on_nodes = self.own(out.cells.nodes)
        return out

    def table(self, theta: Tensor) -> Tensor:
        """theta (size,) as an array (nA, 1 + nB)."""
        if self.full:
            return theta.view(self.n_products, -1)
        out = theta.new_zeros(self.n_products * (1 + self.n_own))
        return out.index_put((self.active.to(theta.device),), theta).view(self.n_products, -1)

    def pick(self, table: Tensor) -> Tensor:
        """The entries of an array (..., nA, 1 + nB) that are parameters, (..., size)."""
        flat = table.flatten(-2)
        return flat if self.full else flat[..., self.active.to(table.device)]

    def expand(self, products: Tensor, functions: Tensor) -> Tensor:
        """products_a functions_b of the parameters (P, size), of arrays (P, nA) and (P, 1 + nB)."""
        blocks = []
        for columns, used in zip(self.columns, self.used, strict=True):
            block = products[:, columns, None] * functions[:, None, :used]
            blocks.append(block.flatten(1))
        return torch.cat(blocks, 1)

    def products(self, z: Tensor | Tables) -> Products:
        """A at points z (P, >= i), which may be given as tables of their functions."""
        return Products(self, z if isinstance(z, Tables) else Tables(self.bases, z))

    def local(self, theta: Tensor, products: Products) -> Local:
        """The factor at these prefixes."""
        return Local(self, self.table(theta), products)

    def gaussian(self, mean: Tensor, row: Tensor) -> Tensor | None:
        """theta of S_i = sum_j row_j (y_j - mean_j); None where the products do not hold that."""
        i = self.index
        others = [j for j in range(i) if j not in self.parents]
        if (row[others].abs() > _EXACT * row[: i + 1].abs().max()).any():
            return None
        generator = np.random.default_rng(0)
        count = 4 * self.n_products + 50
        z = np.zeros((count, i))
        for j in self.parents:
            basis = self.bases[j]
            z[:, j] = generator.uniform(basis.lower, basis.upper, count)
        z = torch.from_numpy(z)
        anchor = self.cells.edges[self.cells.middle]
        shift = (z - mean[:i])[:, self.parents] @ row[self.parents] + row[i] * (anchor - mean[i])
        products = self.products(z).values
        table = torch.zeros(self.n_products, 1 + self.n_own, dtype=torch.float64)
        table[:, 0] = _least_squares(products, shift)
        if ((products @ table[:, 0] - shift).abs() > _EXACT * (1 + shift.abs().max())).any():
            return None
        constant = _least_squares(products, torch.ones_like(shift))
        ones = _least_squares(self.on_nodes, torch.ones(len(self.on_nodes)).to(self.on_nodes))
        table[:, 1:] = row[i].log() * constant[:, None] * ones
        return self.pick(table)


def _as_slice(numbers):
    """Consecutive numbers as a slice, which makes no copy."""
    first, n = numbers[0], len(numbers)
    return (
        slice(first, first + n) if list(numbers) == list(range(first, first + n)) else list(numbers)
    )


def _least_squares(matrix: Tensor, target: Tensor) -> Tensor:
    return torch.linalg.lstsq(matrix, target[:, None], driver="gelsd").solution[:, 0]


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
        weighted = self.on_nodes * self.factor.cells.weights.to(self.on_nodes)
        whole = weighted.unflatten(1, (-1, ORDER)).sum(2)
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
    def integrals(self) -> Tensor:
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
        self.beyond, self.y = (y - inside)[:, None], y
        k = local.cell(inside)
        nodes, length = local._partial(inside, k)
        self.on_nodes = factor.on_nodes.to(y)  # (N, nB)
        self.on_part = own(nodes)  # (P, ORDER, nB)
        part = (self.on_part @ local.coefficients[:, :, None])[:, :, 0].exp()
        self.part = part * (length[:, None] * cells.unit_weights.to(y))
        # +1 on the whole cells between the middle and y, -1 where y is below the middle
        number = torch.arange(len(cells), device=y.device)
        after, before = number >= cells.middle, number < k[:, None]
        sign = (after & before).to(y) - (~after & ~before).to(y)
        weighted = (local.on_nodes * cells.weights.to(y)).unflatten(1, (-1, ORDER))
        self.whole = (weighted * sign[:, :, None]).flatten(1)
        self.own, self.own1 = own(y)[:, None], own(y, 1)[:, None]
        self.log_slope = self._contract(self.own, local.coefficients)
        rest = self.beyond * self.slope
        self.latent = (
            local.shift[:, None]
            + self.whole.sum(1, keepdim=True)
            + self.part.sum(1, keepdim=True)
            + rest
        )
        self.integrals = (
            (self.whole @ self.on_nodes)
            + (self.part[:, None] @ self.on_part)[:, 0]
            + rest * self.own[:, 0]
        )[:, None]

    def add_curvature(self, score: Tensor) -> Tensor:
        """Add d log p_i / dz to ``score`` (P, d); the sum of its own second derivatives (P,)."""
        factor, products = self.local.factor, self.local.products
        score[:, factor.index] += self.score[:, 0]
        total = self.own_curvature()[:, 0]
        for j in factor.parents:
            change = products.derivative(j) @ self.local.table
            bend = products.derivative(j, 2) @ self.local.table
            first, second = self.curvature(change, bend)
            score[:, j] += first[:, 0]
            total = total + second[:, 0]
        return total

    def rows(self, index) -> AtSamples:
        """The same at some of the prefixes."""
        part = AtSamples.__new__(AtSamples)
        part.local, part.on_nodes = self.local, self.on_nodes
        for name in ("beyond", "y", "on_part", "part", "whole", "own", "own1", "log_slope"):
            setattr(part, name, getattr(self, name)[index])
        part.latent, part.integrals = self.latent[index], self.integrals[index]
        return part

    def _own2(self):
        return self.local.factor.own(self.y, 2)[:, None]

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
        inside = (self.whole * nodes.square()).sum(1) + (self.part * part.square()).sum(1)
        return inside[:, None] + self.beyond * self.slope * here.square()


class _ConditionalLinearization(Linearization):
    """Derivatives of T = S^{-1}, from those of S at y = T(x)."""

    def __init__(self, flow, theta, x, y=None):
        self.flow, self.theta, self.x = flow, theta, x
        self.y = flow._push(theta, x) if y is None else y
        d = x.shape[1]
        self.order = torch.tensor(flow._order(d)).to(x.device)
        z = self.y[:, self.order]
        tables = flow._tables(z)
        self.locals, self.points = [], []
        for i, part in enumerate(flow.split(theta)):
            factor = flow.factors[i]
            local = factor.local(part, factor.products(tables))
            self.locals.append(local)
            self.points.append(local.at_samples(z[:, i]))
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
