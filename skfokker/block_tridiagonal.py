"""Symmetric positive definite systems whose blocks are coupled to the next one only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def solve_block_tridiagonal(
    diagonal: Sequence[Tensor], beside: Sequence[Tensor], right: Sequence[Tensor]
) -> list[Tensor] | None:
    """Solution of A x = b by a block Cholesky factorisation; None where A is not positive definite.

    LAPACK's band solvers do the same a column at a time: several threads of them cost many times
    the work of one.

    Parameters
    ----------
    diagonal : sequence of B Tensors (n_k, n_k)
    beside : sequence of B - 1 Tensors (n_k, n_{k+1})
        To the right of the diagonal.
    right : sequence of B Tensors (n_k,)

    Returns
    -------
    list of B Tensors (n_k,), or None
    """
    roots: list[Tensor] = []
    links: list[Tensor] = []
    halves: list[Tensor] = []
    for k, (square, b) in enumerate(zip(diagonal, right, strict=True)):
        b = b[:, None]
        if k:
            square = square - links[-1].mT @ links[-1]
            b = b - links[-1].mT @ halves[-1]
        root, info = torch.linalg.cholesky_ex(square)
        if int(info):
            return None
        roots.append(root)
        halves.append(torch.linalg.solve_triangular(root, b, upper=False))
        if k < len(beside):
            links.append(torch.linalg.solve_triangular(root, beside[k], upper=False))
    out: list[Tensor] = []
    for k in reversed(range(len(roots))):
        b = halves[k] - links[k] @ out[-1] if out else halves[k]
        out.append(torch.linalg.solve_triangular(roots[k].mT, b, upper=True))
    return [x[:, 0] for x in reversed(out)]
