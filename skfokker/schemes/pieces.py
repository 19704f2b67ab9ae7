"""A linearization at many points, a block of them at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ..flows.base import Flow, Linearization


class Pieces(Linearization):
    """T and its derivatives, block by block.

    Parameters
    ----------
    flow, theta
        T and its parameters (m,).
    x : Tensor (n, d)
    rows : sequence of slice
        The blocks.
    keep : bool
        Hold all derivatives; otherwise they are computed anew in every pass, and there is never
        more than one block of them in memory.
    """

    def __init__(self, flow: Flow, theta: Tensor, x: Tensor, rows: Sequence[slice], keep: bool):
        self.flow, self.theta, self.x, self.rows = flow, theta, x, rows
        self.kept = [flow.linearize(theta, x[r]) for r in rows] if keep else None
        if self.kept is not None:
            images = [(part.y, part.log_det) for part in self.kept]
        else:
            images = [flow.forward(theta, x[r]) for r in rows]
        self.y, self.log_det = (torch.cat(parts) for parts in zip(*images, strict=True))

    def blocks(self) -> Iterator[tuple[slice, Linearization]]:
        """Rows, and T linearized there."""
        for k, rows in enumerate(self.rows):
            kept = self.kept and self.kept[k]
            yield rows, kept or self.flow.linearize(self.theta, self.x[rows])

    def push_score(self, score):
        return torch.cat([part.push_score(score[rows]) for rows, part in self.blocks()])

    def solve(self, v):
        return torch.cat([part.solve(v[rows]) for rows, part in self.blocks()])

    def solve_transposed(self, v):
        return torch.cat([part.solve_transposed(v[rows]) for rows, part in self.blocks()])

    def jvp(self, dtheta, dx=None):
        parts = []
        for rows, part in self.blocks():
            parts.append(part.jvp(dtheta, None if dx is None else dx[rows]))
        return torch.cat(parts)

    def law_velocity(self, dtheta):
        return torch.cat([part.law_velocity(dtheta) for _, part in self.blocks()])

    def law_pull_back(self, v):
        parts = [part.law_pull_back(v[rows]) for rows, part in self.blocks()]
        return sum(parts[1:], parts[0])

    def vjp(self, v):
        by_theta, by_x = zip(*(part.vjp(v[rows]) for rows, part in self.blocks()), strict=True)
        return sum(by_theta[1:], by_theta[0]), torch.cat(by_x)

    def tangent(self, *moved):
        """Of an affine map: the same at all points."""
        return self.flow.linearize(self.theta, self.x[:1]).tangent(*moved)
