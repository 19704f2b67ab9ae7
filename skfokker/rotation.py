"""Coordinates in which an equation falls into small blocks, if there are any.

For a potential that is an orthogonal matrix; for a drift that is no gradient the start becomes
N(0, I) first, and the matrix is orthogonal there.

Hessians of V at several points, and the covariance of the start, have a common block structure
exactly where V(mean + Q z) and the start fall into independent blocks of z. The eigenvectors of a
random combination of these matrices show it (K. Murota, Y. Kanno, M. Kojima, S. Kojima, "A
numerical algorithm for block-diagonal decomposition of matrix *-algebras", Japan Journal of
Industrial and Applied Mathematics 27 (2010)) but for pairs of eigenvalues that are close by
chance. Jacobi rotations of all matrices together (J.-F. Cardoso and A. Souloumiac, "Jacobi angles
for simultaneous diagonalization", SIAM Journal on Matrix Analysis 17 (1996)) put these right.

Jacobians of a drift are not symmetric. Their symmetric parts, and their products with their
transposes, say the same but where blocks are alike: what is left together then is split by the
eigenspaces of a generic symmetric matrix that commutes with all of them.
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
_LARGEST = 24  # coordinates of a block that a commuting matrix is looked for in
_FEW = 4  # combinations of matrices that stand for all of them there


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
    apart = ~same_block(blocks)
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
    turn = torch.from_numpy(rotation).to(mean)

    def gradient(z):
        return potential.value_and_grad(mean + z @ turn.T)[1] @ turn

    for x in (pairs, reached):
        if len(x) > 1 and not exchanges(gradient, blocks, (x - mean) @ turn):
            return None
    return rotation


def same_block(blocks):
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


def exchanges(field, blocks, points: Tensor) -> bool:
    """Whether blocks can be exchanged between points and leave the other blocks' parts of a field.

    Parameters
    ----------
    field : callable
        From points z (n, d) to vectors (n, d).
    blocks : list of ndarray
        Coordinates of every block.
    points : Tensor (n, d)
        In pairs, the first with the one in the middle.
    """
    half = len(points) // 2
    x, y = points[:half], points[half : 2 * half]
    generator = torch.Generator().manual_seed(7)
    chosen = torch.rand(half, len(blocks), generator=generator) < 0.5
    swap = torch.empty(x.shape, dtype=torch.bool)
    for k, block in enumerate(blocks):
        swap[:, torch.from_numpy(block)] = chosen[:, k, None]
    swap = swap.to(x.device)
    at_x, at_y, at_mixed = field(torch.cat([x, y, torch.where(swap, x, y)])).view(3, *x.shape)
    gap = (at_mixed - torch.where(swap, at_x, at_y)).norm(dim=1)
    size = at_x.norm(dim=1) + at_y.norm(dim=1)
    known = torch.isfinite(gap) & torch.isfinite(size)
    return bool((gap <= NOISE * size)[known].all())


def joint_blocks(
    matrices: np.ndarray, tolerance: float = NOISE
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The finest block structure that matrices have in common behind an orthogonal one.

    Parameters
    ----------
    matrices : ndarray (k, d, d)
        Symmetric or not.
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
    norms = np.linalg.norm(matrices, axis=(1, 2))
    # where V is flat there is nothing but noise to be scaled up
    norms = np.maximum(norms, 1e-3 * np.median(norms) + np.finfo(float).tiny)
    matrices = matrices / norms[:, None, None]
    mirrored = matrices.transpose(0, 2, 1)
    together = (matrices + mirrored) / 2
    skewed = np.abs(matrices - mirrored).max((1, 2)) > tolerance
    if skewed.any():
        some, back = matrices[skewed], mirrored[skewed]
        together = np.concatenate([together, back @ some, some @ back])
    weights = np.random.RandomState(0).randn(len(together))
    basis = np.linalg.eigh(np.tensordot(weights, together, 1))[1]
    basis = _jacobi(basis, basis.T @ together @ basis)[0]
    blocks = _connected(basis.T @ matrices @ basis, tolerance)
    if skewed.any():
        for block in blocks:
            if 1 < len(block) <= _LARGEST:
                part = basis[:, block]
                basis[:, block] = part @ _commuting(part.T @ matrices @ part, tolerance)
        blocks = _connected(basis.T @ matrices @ basis, tolerance)
    blocks = sorted(blocks, key=len, reverse=True)
    ends = np.cumsum([len(block) for block in blocks])
    return basis[:, np.concatenate(blocks)], np.split(np.arange(len(basis)), ends[:-1])


def _connected(matrices, tolerance):
    """Coordinates that entries above the tolerance connect."""
    label = connected_components(np.abs(matrices).max(0) > tolerance, directed=False)[1]
    return [np.flatnonzero(label == k) for k in range(label.max() + 1)]


def _commuting(matrices, tolerance):
    """Eigenvectors (m, m) of a generic symmetric M with M A = A M for all matrices A (k, m, m)."""
    m = matrices.shape[1]
    random = np.random.RandomState(1)
    few = np.tensordot(random.randn(_FEW, len(matrices)), matrices, 1)
    rows, columns = np.tril_indices(m)
    units = np.zeros((len(rows), m, m))
    units[np.arange(len(rows)), rows, columns] = units[np.arange(len(rows)), columns, rows] = 1.0
    gaps = np.concatenate([units @ a - a @ units for a in few], 1).reshape(len(rows), -1)
    values, vectors = np.linalg.eigh(gaps @ gaps.T)
    size = np.sqrt(max(float(values[-1]), 0.0))
    free = vectors[:, np.sqrt(np.maximum(values, 0.0)) <= tolerance * size]
    return np.linalg.eigh(np.tensordot(free @ random.randn(free.shape[1]), units, 1))[1]


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
