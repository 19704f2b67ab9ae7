"""Divergences of vector fields by central differences, exact or as unbiased estimates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

_ROWS = 2**14  # points to move at a time
STEP = 1e-5  # of a difference, in units of the spread of a coordinate


def divergence(
    field: Callable[[Tensor], Tensor],
    y: Tensor,
    step: Tensor,
    groups: Sequence[Tensor],
    generator: torch.Generator | None = None,
) -> Tensor:
    """sum_i d field_i / dy_i (n,) at points y (n, d), by one central difference a group.

    The coordinates of a group are moved together, each in a random direction s_i = +-1 of its own:
    the difference is s . J s restricted to the group, whose mean is the sum of the diagonal
    whatever J is, and which has no noise where the coordinates of the group do not act on each
    other (Hutchinson 1990, block by block). Groups of one coordinate are exact.

    Parameters
    ----------
    field : callable
        Maps points (n, d) to vectors (n, d).
    y : Tensor (n, d)
    step : Tensor (d,)
        How far each coordinate is moved.
    groups : sequence of Tensor
        Indices: a partition of the coordinates.
    generator : torch.Generator, optional
        Of the directions.
    """
    total, together = torch.zeros_like(y[:, 0]), max(1, _ROWS // (2 * len(y)))
    for start in range(0, len(groups), together):
        moves = []
        for group in groups[start : start + together]:
            signs = torch.ones(len(y), len(group), dtype=torch.float64)
            if len(group) > 1:
                signs = 2.0 * torch.randint(2, signs.shape, generator=generator) - 1
            move = torch.zeros_like(y)
            move[:, group.to(y.device)] = signs.to(y)
            moves.append(move)
        shifts = [side * step * move for move in moves for side in (1, -1)]
        fields = field(torch.cat([y + shift for shift in shifts])).split(len(y))
        for move, ahead, behind in zip(moves, fields[::2], fields[1::2], strict=True):
            total += (move * (ahead - behind) / (2 * step)).sum(1)
    return total


def steps(y: Tensor) -> Tensor:
    """How far to move each coordinate (d,) of points y (n, d): ``STEP`` of its median deviation."""
    centre = y.median(0).values
    spread = (y - centre).abs().median(0).values
    return STEP * torch.where(spread > 0, spread, torch.ones_like(spread))


def colour(interacts: np.ndarray) -> list[Tensor]:
    """A partition of coordinates such that none of a group interact (greedy, most tied first).

    Parameters
    ----------
    interacts : ndarray (d, d) of bool
    """
    ties = np.asarray(interacts, dtype=bool) | np.asarray(interacts, dtype=bool).T
    ties = ties & ~np.eye(len(ties), dtype=bool)
    colours = np.full(len(ties), -1)
    for i in np.argsort(-ties.sum(1), kind="stable"):
        taken = set(colours[ties[i]])
        colours[i] = next(c for c in range(len(ties)) if c not in taken)
    return [torch.from_numpy(np.flatnonzero(colours == c)) for c in range(colours.max() + 1)]


def spread_out(d: int, n_groups: int) -> list[Tensor]:
    """d coordinates in at most ``n_groups`` groups, neighbours in different ones."""
    n_groups = min(d, n_groups)
    return [torch.arange(start, d, n_groups) for start in range(n_groups)]
