"""Functions and order of a :class:`ConditionalFlow`, by what is known of the problem."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import reverse_cuthill_mckee
from torch import Tensor

from ..structure import components, ties
from .conditional import ConditionalFlow

_PLANE = 2  # coordinates of a block that products of splines are affordable for
_INTERVALS = 24  # of the splines
_SATURATION = 3.2  # of the polynomials of the coordinate itself
_FINEST = 120  # cells that the box of a coordinate is cut into, at most


@dataclass(frozen=True)
class _Richness:
    """How many functions the coordinates of a larger block get.

    ``own`` functions of a coordinate itself; polynomials up to ``degree`` of its neighbours, of
    which those up to ``coupled`` are multiplied with ``beside`` own functions; products of two up
    to degree ``pairs`` each, with ``paired`` own functions; ``budget`` parameters at most, but for
    the first two kinds.
    """

    own: int
    beside: int
    degree: int
    coupled: int
    pairs: int
    paired: int
    budget: int

    @classmethod
    def of(cls, size: int, neighbours: int, capacity: int) -> _Richness:
        """For a block of so many coordinates: few coordinates can afford more.

        Where a coordinate has so many ``neighbours`` before it that not all of them fit, each gets
        little: what is left out altogether is not even correlated, and points do for a few
        parameters each.
        """
        if size <= 3:
            rich = cls(10, 10, 6, 4, 3, 6, 250)
        elif size <= 5:
            rich = cls(8, 8, 5, 3, 2, 4, 150)
        elif size <= 20:
            rich = cls(8, 8, 4, 3, 2, 4, 150)
        else:
            rich = cls(8, 8, 4, 2, 2, 2, 100)
        more = capacity - 1
        rich = replace(
            rich,
            own=rich.own + 2 * more,
            beside=rich.beside + 2 * more,
            degree=rich.degree + more,
            coupled=rich.coupled + more,
            budget=rich.budget * capacity,
        )
        rest = rich.budget - 1 - rich.own
        if neighbours * rich.coupled * (1 + rich.beside) <= rest:
            return rich
        each = 2 + rich.degree
        if neighbours * each <= rest:
            return replace(rich, coupled=1, beside=2, pairs=0)
        return replace(rich, coupled=1, beside=0, degree=1, pairs=0)


def choose_conditional(
    interacts: np.ndarray,
    mean: Tensor,
    covariance: Tensor,
    seen: np.ndarray,
    capacity: int = 1,
    splines: bool = True,
) -> ConditionalFlow:
    """Conditional densities that suit a potential.

    Coordinates that have nothing to do with each other, directly or through others, are
    independent at all times and get separate blocks. Blocks of one or two coordinates get cubic
    splines and all their products; larger ones polynomials of a coordinate's neighbours in the
    graph of V, fewer of their neighbours, and products of two of them, times a few saturating
    functions of the coordinate itself.

    Parameters
    ----------
    interacts : ndarray (d, d) of bool
        See :class:`skfokker.structure.Structure`.
    mean, covariance : Tensor (d,), (d, d)
        Of the start.
    seen : ndarray (k, n, d)
        Particles of the equation at k times.
    capacity : int
        Multiplies the number of functions.
    splines : bool
        Whether planes get splines: they need a diffusion that keeps their small scales at rest.
    """
    d, near = len(interacts), ties(interacts, covariance)
    scale = covariance.diagonal().sqrt().cpu().numpy()
    box = bounds(mean.cpu().numpy(), scale, seen)
    # quadratures have to resolve the narrowest law on the way
    spans = np.ptp(box, axis=0)
    widths = np.minimum(spans / 36, 0.7 * np.minimum(scale, seen.std(1).min(0)))
    order, plane, sizes = [], np.empty(d, dtype=bool), np.empty((d, 2), dtype=int)
    for members in components(interacts, covariance):
        inner = near[np.ix_(members, members)]
        arranged = _block_order(inner, seen[:, :, members])
        order += [int(members[k]) for k in arranged]
        before = np.tril(inner[np.ix_(arranged, arranged)], -1).sum(1)
        sizes[members] = len(members), before.max()
        fine = (spans / widths)[members].max() <= _FINEST
        plane[members] = splines and len(members) <= _PLANE and fine
    position = {coordinate: i for i, coordinate in enumerate(order)}
    own: list = [None] * d
    features: list = [None] * d
    groups: list = [None] * d
    for i, coordinate in enumerate(order):
        lower, upper = (float(b) for b in box[:, coordinate])
        if plane[coordinate]:
            points = seen[:, :, coordinate].ravel()
            knots = spline_knots(points, lower, upper, _INTERVALS * capacity)
            own[i] = ("splines", knots, float(widths[coordinate]))
            features[i] = ("splines", knots)
            groups[i] = [_everything(features, order, near, i)]
        else:
            size, neighbours = sizes[coordinate].tolist()
            rich = _Richness.of(size, neighbours, capacity)
            own[i] = ("polynomials", lower, upper, rich.own, _SATURATION)
            points = seen[:, :, coordinate]
            ends = float(points.min()), float(points.max())
            features[i] = ("polynomials", *ends, rich.degree + 1)
            groups[i] = _neighbours(near, order, position, i, rich)
    return ConditionalFlow(own, features, groups, order, capacity)


def bounds(mean: np.ndarray, scale: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Bounds (2, d) that the law is expected to stay within.

    Six standard deviations of the start, and what particles have seen later with a third of its
    width on either side.
    """
    low, high = seen.min((0, 1)), seen.max((0, 1))
    margin = 0.35 * np.ptp(seen[1:], axis=(0, 1))
    return np.stack(
        [np.minimum(mean - 6 * scale, low - margin), np.maximum(mean + 6 * scale, high + margin)]
    )


def _everything(features, order, near, i):
    """All products of the functions of the coordinate before it in the block, if there is one."""
    parents = [j for j in range(i) if near[order[i], order[j]]]
    functions = [list(range(len(features[j][1]) + 2)) for j in parents]
    return (tuple(parents), functions, 10**6)


def _neighbours(near, order, position, i, rich):
    """Groups of products for coordinate i, the most important first, up to the budget."""
    coordinate = order[i]
    first = [position[j] for j in np.flatnonzero(near[coordinate]) if position[j] < i]
    second = set()
    for j in np.flatnonzero(near[coordinate]):
        second |= {position[k] for k in np.flatnonzero(near[j]) if position[k] < i}
    second = sorted(second - set(first) - {i}, reverse=True)
    first = sorted(first, reverse=True)
    low, high = list(range(1, rich.coupled + 1)), list(range(rich.coupled + 1, rich.degree + 1))
    both = list(range(1, rich.pairs + 1))
    needed = [((), [], rich.own), *(((j,), [low], rich.beside) for j in first)]
    wanted = [((j,), [high], 0) for j in first]
    wanted += [((j,), [[1, 2]], 2) for j in second]
    pairs = [*combinations(first, 2), *((j, k) for j in first for k in second)] if both else []
    wanted += [(tuple(sorted(pair)), [both, both], rich.paired) for pair in pairs]
    sizes = [math.prod(map(len, functions)) * (1 + n) for _, functions, n in needed + wanted]
    chosen, total = needed, sum(sizes[: len(needed)])
    for group, size in zip(wanted, sizes[len(needed) :], strict=True):
        if total + size <= rich.budget:
            chosen.append(group)
            total += size
    return chosen


def _block_order(near: np.ndarray, seen: np.ndarray) -> list[int]:
    """The order in which each coordinate is best predicted by those before it.

    Candidates are the order given, that of least bandwidth, and both backwards; the measure is the
    variance that quadratic polynomials of the neighbours before leave to the particles at the end.
    """
    d = len(near)
    if d == 1:
        return [0]
    narrow = [int(k) for k in reverse_cuthill_mckee(csr_matrix(near), symmetric_mode=True)]
    given = list(range(d))
    candidates = [given, given[::-1], narrow, narrow[::-1]]
    x = seen[-1]
    x = (x - x.mean(0)) / x.std(0)

    def unexplained(order):
        total = 0.0
        for i in range(1, d):
            before = [j for j in order[:i] if near[order[i], j]][-8:]
            if before:
                z = x[:, before]
                design = np.column_stack([np.ones(len(z)), z, z * z])
                target = x[:, order[i]]
                rest = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
                total += np.log(max(float(rest.var()), 1e-12))
        return total

    values = [unexplained(order) for order in candidates]
    best = min(values)
    # the first one that is as good as any
    return next(o for o, v in zip(candidates, values, strict=True) if v <= best + 1e-3 * d)


def spline_knots(points: np.ndarray, lower: float, upper: float, n: int) -> list[float]:
    """n + 1 knots on [lower, upper], closer where ``points`` (k,) lie, up to four times.

    Their density is that of the points to the power 1 / 3, no less than a quarter of its maximum.
    """
    count, edges = np.histogram(points, bins=60, range=(lower, upper))
    kernel = np.exp(-0.5 * (np.arange(-6, 7) / 2) ** 2)
    density = np.convolve(count.astype(float), kernel / kernel.sum(), mode="same") ** (1 / 3)
    density = np.maximum(density, density.max() / 4)
    mass = np.concatenate([[0.0], np.cumsum(density)])
    knots = np.interp(np.linspace(0, mass[-1], n + 1), mass, edges)
    knots[[0, -1]] = lower, upper
    return [float(k) for k in knots]
