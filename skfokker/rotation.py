"""Coordinates in which a potential is a sum over small blocks: an orthogonal matrix, if any is.

Hessians of V at several points, and the covariance of the start, have a common block structure
exactly where V(mean + Q z) and the start fall into independent blocks of z. The eigenvectors of a
random combination of these matrices show it (K. Murota, Y. Kanno, M. Kojima, S. Kojima, "A
numerical algorithm for block-diagonal decomposition of matrix *-algebras", Japan Journal of
Industrial and Applied Mathematics 27 (2010)) but for pairs of eigenvalues that are close by
chance. Jacobi rotations of all matrices together (J.-F. Cardoso and A. Souloumiac, "Jacobi angles
for simultaneous diagonalization", SIAM Journal on Matrix Analysis 17 (1996)) put these right.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from .structure import components

NOISE = 1e-5  # relative size of what is nothing in a Hessian by finite differences
_STEP = 3e-5  # of these differences, in standard deviations of the start
_SMALL = 2  # coordinates of a block that needs no splitting
_SWEEPS = 10
_N_PAIRS = 64


@torch.no_grad()
def find_rotation(
    potential, mean: Tensor, scale: Tensor, interacts: np.ndarray, reached: Tensor
) -> np.ndarray | None:
    """An orthogonal Q such that V(mean + Q z) and the start fall into smaller blocks than V(x).

    Coordinates that are blocks of their own already stay as they are. What is found at some
    points has to hold at others, further out and where the particles go, and gradients there have
    to be what they are when a block of z is exchanged between two points.

    Parameters
    ----------
    potential : Potential
    mean, scale : Tensor (d,), (d, d)
        Of a Gaussian start, scale a root of its covariance.
    interacts : ndarray (d, d) of bool
        See :class:`skfokker.structure.Structure`.
    reached : Tensor (n, d)
        Where particles are later; finite.

    Returns
    -------
    ndarray (d, d) or None
        None where nothing is gained.
    """
    d = len(mean)
    covariance = scale @ scale.T
    together = components(interacts, covariance)
    if max(map(len, together)) <= _SMALL:
        return None
    generator = torch.Generator().manual_seed(6)
    sizes = torch.tensor([0.0] + 4 * [1.0] + 4 * [3.0] + 3 * [2.0] + 2 * [5.0])[:, None].to(mean)
    z = torch.randn(len(sizes), d, dtype=torch.float64, generator=generator).to(mean)
    points, fresh = (mean + (sizes * z) @ scale.T).split([9, 5])
    half = len(reached) // 2
    step = _STEP * float(covariance.diagonal().sqrt().mean())
    seen = _hessians(potential, torch.cat([points, reached[: min(half, 6)]]), step)
    if len(seen) < 3:
        return None
    matrices = np.concatenate([seen, covariance.cpu().numpy()[None]])
    rotation, blocks = np.eye(d), []
    for members in together:
        if len(members) <= _SMALL:
            blocks.append(members)
            continue
        part = np.ix_(members, members)
        basis, found = joint_blocks(np.stack([matrix[part] for matrix in matrices]))
        if len(found) > 1:
            rotation[part] = basis
        blocks += [members[block] for block in found]
    if len(blocks) == len(together):
        return None
    fresh = torch.cat([fresh, reached[half:][:4]])
    others = [*_hessians(potential, fresh, step), covariance.cpu().numpy()]
    apart = ~_same_block(blocks)
    for matrix in others:
        turned = np.abs(rotation.T @ matrix @ rotation)
        if turned[apart].max() > NOISE * turned.max():
            return None
    pairs = (
        mean
        + 1.5
        * torch.randn(2 * _N_PAIRS, d, dtype=torch.float64, generator=generator).to(mean)
        @ scale.T
    )
    for x in (pairs, reached):
        if len(x) > 1 and not _exchanges(
            potential, mean, torch.from_numpy(rotation).to(mean), blocks, x
        ):
            return None
    return rotation


def _same_block(blocks):
    """Whether two coordinates are in one block, (d, d)."""
    label = np.empty(sum(map(len, blocks)), dtype=int)
    for k, block in enumerate(blocks):
        label[block] = k
    return label[:, None] == label


def _hessians(potential, points: Tensor, step: float) -> np.ndarray:
    """Hessians of V (k, d, d) by central differences, at those points where they are finite."""
    shifts = step * torch.eye(points.shape[1]).to(points)
    found = []
    for x in points:
        gradient = potential.value_and_grad(torch.cat([x + shifts, x - shifts]))[1]
        above, below = gradient.chunk(2)
        hessian = (above - below) / (2 * step)
        if torch.isfinite(hessian).all():
            found.append(((hessian + hessian.T) / 2).cpu().numpy())
    return np.array(found)


def _exchanges(potential, mean, rotation, blocks, x) -> bool:
    """Whether blocks of z can be exchanged between points x (n, d) and leave others' gradients."""
    x, y = x[: len(x) // 2], x[len(x) // 2 :][: len(x) // 2]
    generator = torch.Generator().manual_seed(7)
    chosen = torch.rand(len(x), len(blocks), generator=generator) < 0.5
    swap = torch.empty(x.shape, dtype=torch.bool)
    for k, block in enumerate(blocks):
        swap[:, torch.from_numpy(block)] = chosen[:, k, None]
    swap = swap.to(x.device)
    mixed = mean + torch.where(swap, (x - mean) @ rotation, (y - mean) @ rotation) @ rotation.T
    gradients = potential.value_and_grad(torch.cat([x, y, mixed]))[1] @ rotation
    at_x, at_y, at_mixed = gradients.view(3, *x.shape)
    gap = (at_mixed - torch.where(swap, at_x, at_y)).norm(dim=1)
    size = at_x.norm(dim=1) + at_y.norm(dim=1)
    known = torch.isfinite(gap) & torch.isfinite(size)
    return bool((gap <= NOISE * size)[known].all())


def joint_blocks(
    matrices: np.ndarray, tolerance: float = NOISE
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The finest block structure that symmetric matrices have in common.

    Parameters
    ----------
    matrices : ndarray (k, d, d)
        Symmetric.
    tolerance : float
        Entries below this share of a matrix's norm are taken for noise.

    Returns
    -------
    basis : ndarray (d, d)
        Orthogonal: ``basis.T @ matrix @ basis`` is block diagonal, for every matrix.
    blocks : list of ndarray
        Columns of every block, the largest block first; one block of all where there is nothing
        to be found.
    """
    matrices = (matrices + matrices.transpose(0, 2, 1)) / 2
    norms = np.linalg.norm(matrices, axis=(1, 2))
    # where V is flat there is nothing but noise to be scaled up
    norms = np.maximum(norms, 1e-3 * np.median(norms) + np.finfo(float).tiny)
    matrices = matrices / norms[:, None, None]
    weights = np.random.RandomState(0).randn(len(matrices))
    basis = np.linalg.eigh(np.tensordot(weights, matrices, 1))[1]
    turned = basis.T @ matrices @ basis
    basis, turned = _jacobi(basis, turned)
    label = connected_components(np.abs(turned).max(0) > tolerance, directed=False)[1]
    blocks = [np.flatnonzero(label == k) for k in range(label.max() + 1)]
    blocks = sorted(blocks, key=len, reverse=True)
    ends = np.cumsum([len(block) for block in blocks])
    return basis[:, np.concatenate(blocks)], np.split(np.arange(len(basis)), ends[:-1])


def _jacobi(basis, turned):
    """Jacobi rotations that make all matrices (k, d, d) as diagonal as they can be together.

    Every round turns d / 2 disjoint planes at once.
    """
    d = len(basis)
    players = np.arange(d + d % 2)  # of a round robin; one sits out where d is odd
    for _ in range(_SWEEPS):
        largest = 0.0
        for _ in range(len(players) - 1):
            half = len(players) // 2
            p, q = players[:half], players[half:][::-1]
            p, q = np.minimum(p, q), np.maximum(p, q)
            p, q = p[q < d], q[q < d]
            apart = turned[:, p, p] - turned[:, q, q]
            coupled = 2 * turned[:, p, q]
            on = (apart * apart - coupled * coupled).sum(0)
            off = 2 * (apart * coupled).sum(0)
            angle = 0.5 * np.arctan2(off, on + np.hypot(on, off))
            # a plane that the matrices say nothing of but noise is left as it is
            angle[(apart**2 + coupled**2).sum(0) < 1e-16] = 0.0
            largest = max(largest, float(np.abs(angle).max(initial=0.0)))
            c, s = np.cos(angle), np.sin(angle)
            _turn(basis, p, q, c, s)
            _turn(turned, p, q, c, s)
            _turn(turned.transpose(0, 2, 1), p, q, c, s)
            players[1:] = np.roll(players[1:], 1)
        if largest < 1e-9:
            break
    return basis, turned


def _turn(array, p, q, c, s):
    """Columns p and q of an array (..., d), turned in place."""
    a, b = array[..., p], array[..., q]
    array[..., p], array[..., q] = c * a + s * b, c * b - s * a
