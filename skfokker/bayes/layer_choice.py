"""Which conditional densities a layer gets: those whose scores explain what is left of p."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..flows import ConditionalFlow
from ..flows.bases import as_basis

_BOX, _OWN, _SATURATION = 5.0, 6, 2.0  # of the functions of a coordinate itself
_REACH, _DEGREE = 3.5, 3  # of the polynomials of coordinates before it
_CHANCE = 9.0  # squared t-value below which a gain is chance
_LEAST = 3e-4  # nats, about: gains not worth a parameter
_COUPLED = 4  # own functions that a coordinate before may multiply


@dataclass
class _Wanted:
    """What one coordinate gets: own functions, and groups with their gains."""

    n_own: int = 0
    gain: float = 0.0
    groups: list = field(default_factory=list)  # (gain, size, (parents, functions, n_own))


def choose_layer(
    u: Tensor, rest: Tensor, weights: Tensor, budget: int
) -> tuple[Tensor, ConditionalFlow] | None:
    """Turn and conditional densities of the next layer; None where nothing is worth it.

    At the identity the scores of all candidates are known in closed form. What each explains of
    ``rest`` on its own is its gain; the order of the coordinates, or the turn to the principal axes
    of ``rest``, is the one with the largest sum (D. Bigoni, Y. Marzouk, C. Prieur, O. Zahm,
    "Nonlinear dimension reduction for surrogate modeling using gradient information", 2022).

    Parameters
    ----------
    u : Tensor (n, d)
    rest : Tensor (n, d)
        grad log p - grad log q.
    weights : Tensor (n,)
        Of sum 1.
    budget : int
        Parameters, at most.
    """
    length = rest.norm(dim=1)
    rest = rest * ((3 * length.median() + 2) / length.clamp_min(1e-300)).clamp_max(1)[:, None]
    moments = (weights[:, None] * rest).T @ rest
    identity = torch.eye(u.shape[1], dtype=torch.float64)
    order = torch.argsort(moments.diagonal(), descending=True)
    axes = torch.linalg.eigh(moments)[1]
    best, chosen = 0.0, None
    for turn in (identity[:, order], identity[:, order.flip(0)], axes.flip(1), axes):
        groups, gain = _groups(u @ turn, rest @ turn, weights, budget)
        if gain > 1.1 * best:
            best, chosen = gain, (turn, groups)
    if chosen is None:
        return None
    turn, groups = chosen
    d = len(turn)
    own = ("polynomials", -_BOX, _BOX, _OWN, _SATURATION)
    features = ("polynomials", -_REACH, _REACH, _DEGREE + 1)
    return turn, ConditionalFlow([own] * d, [features] * d, groups)


def _groups(z, rest, weights, budget) -> tuple[list, float]:
    """Groups of every coordinate, the best for their size first, and their total gain."""
    basis = as_basis(("polynomials", -_REACH, _REACH, _DEGREE + 1))
    tables = basis(z)[..., 1:], basis(z, 1)[..., 1:]
    wanted = [_coordinate(i, z, rest, weights, tables) for i in range(z.shape[1])]
    groups: list[list] = [[((), [], one.n_own)] for one in wanted]
    size = sum(1 + one.n_own for one in wanted)
    gain = sum(one.gain for one in wanted)
    offers = [(g / n, g, n, i, group) for i, one in enumerate(wanted) for g, n, group in one.groups]
    for _, more, n, i, group in sorted(offers, key=lambda offer: -offer[0]):
        if size + n <= budget:
            groups[i].append(group)
            size, gain = size + n, gain + more
    return groups, gain


def _coordinate(i, z, rest, weights, tables) -> _Wanted:
    """Candidates of coordinate i, those that chance does not explain."""
    n = len(z)
    alone = ConditionalFlow(
        [("polynomials", -_BOX, _BOX, _OWN, _SATURATION)],
        [("polynomials", -1.0, 1.0, 1)],
        [[((), [], _OWN)]],
    )
    column = z[:, i, None]
    points = alone.linearize(torch.zeros(1 + _OWN, dtype=torch.float64), column, column).points[0]
    phi, phi1 = points.phi[:, 0], points.phi_own[:, 0]
    w, mine = weights[:, None], rest[:, i, None]

    def judge(product, norm, noise, extra=0.0):
        gain = product.square() / norm.clamp_min(1e-300)
        good = product.square() > (_CHANCE + extra) * noise
        return torch.where(good & (gain > _LEAST), gain, 0.0)

    gain = judge((w * mine * phi1).sum(0), (w * phi1**2).sum(0), (w**2 * mine**2 * phi1**2).sum(0))
    used = gain.nonzero()
    out = _Wanted(int(used.max()) if len(used) else 0, float(gain.sum()))
    if i == 0:
        return out
    # one coordinate before times own functions
    f, f1 = (table[:, :i].reshape(n, -1) for table in tables)
    theirs = rest[:, :i].repeat_interleave(_DEGREE, 1)
    moved = f1 * theirs
    single = judge(
        f.T @ (w * mine * phi1) + moved.T @ (w * phi),
        (f**2).T @ (w * phi1**2) + (f1**2).T @ (w * phi**2),
        (f**2).T @ (w * mine * phi1) ** 2 + (moved**2).T @ (w * phi) ** 2,
    ).view(i, _DEGREE, -1)
    single[..., 1 + _COUPLED :] = 0
    for j in single.sum((1, 2)).nonzero()[:, 0].tolist():
        degree = int(single[j].sum(1).nonzero().max()) + 1
        n_own = int(single[j].sum(0).nonzero().max())
        group = ((j,), [list(range(1, degree + 1))], n_own)
        out.groups.append((float(single[j].sum()), degree * (1 + n_own), group))
    # two coordinates before, linear in both, in m and in the scale
    f, f1, theirs = tables[0][:, :i, 0], tables[1][:, :i, 0], rest[:, :i]
    moved, pairs = f1 * theirs, []
    for b in (0, 1):
        p, p1 = phi[:, b, None], phi1[:, b, None]
        halves = (
            moved.T @ (w * p * f),
            (f1**2).T @ (w * p**2 * f**2),
            (moved**2).T @ ((w * p) ** 2 * f**2),
        )
        product = f.T @ (w * p1 * mine * f) + halves[0] + halves[0].T
        norm = (f**2).T @ (w * p1**2 * f**2) + halves[1] + halves[1].T
        noise = (f**2).T @ ((w * p1 * mine) ** 2 * f**2) + halves[2] + halves[2].T
        pairs.append(torch.triu(judge(product, norm, noise, 3.0), 1))
    total = pairs[0] + pairs[1]
    for j, k in total.nonzero().tolist():
        n_own = int(pairs[1][j, k] > 0)
        out.groups.append((float(total[j, k]), 1 + n_own, ((j, k), [[1], [1]], n_own)))
    return out
