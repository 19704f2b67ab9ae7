r"""The law of one coordinate given those before it, as functions of its parameters.

    S(y; z) = m(z) + int_c^y exp q(u, z) du ,   m = sum_a theta_a0 A_a(z) ,
    q = sum_ab theta_ab A_a(z) B_b(y) ,

z being the coordinates before it: (*) of :mod:`.conditional`, without the index.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from .bases import as_cells
from .factor_points import Local

_EXACT = 1e-8  # relative error of a linear function that the products hold


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
        drawn = np.zeros((count, i))
        for j in self.parents:
            basis = self.bases[j]
            drawn[:, j] = generator.uniform(basis.lower, basis.upper, count)
        z = torch.from_numpy(drawn)
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
