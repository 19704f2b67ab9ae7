"""Linear coordinates in which an equation falls into small blocks, if there are any.

With x = mean + L u the start is N(0, I), and it stays so behind every orthogonal matrix. So blocks
of a linear map, orthogonal or not, are those of an orthogonal one in u, which Jacobians of the
drift and the diffusion matrix have in common (see :mod:`skfokker.rotation`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..rotation import NOISE, exchanges, joint_blocks, same_block
from ..structure import Structure, components
from .general import GeneralFokkerPlanck

_SMALL = 2  # coordinates of a block that needs no splitting
_N_PAIRS = 64
_STEP = 1e-4  # of differences, in standard deviations of the start


def find_root(
    equation: GeneralFokkerPlanck,
    mean: Tensor,
    scale: Tensor,
    structure: Structure,
    times,
    reached: Tensor,
) -> np.ndarray | None:
    """A matrix R such that the equation of z, x = mean + R z, falls into smaller blocks.

    Within a block D is diagonal, so that coordinates without noise stay apart from those with
    noise. Coordinates that are blocks of their own already stay as they are.

    Parameters
    ----------
    equation : GeneralFokkerPlanck
        Without interaction, D the same at all points.
    mean, scale : Tensor (d,), (d, d)
        Of a Gaussian start, scale a root of its covariance.
    structure : Structure
        Of the equation in x.
    times : sequence of float
    reached : Tensor (n, d)
        Where particles are later; finite.

    Returns
    -------
    ndarray (d, d) or None
        None where nothing is gained.
    """
    together = components(structure.interacts, scale @ scale.T)
    if max(map(len, together)) <= _SMALL:
        return None
    covariance = (scale @ scale.T).cpu().numpy()
    generator = torch.Generator().manual_seed(6)
    sizes = torch.tensor([0.0] + 4 * [1.0] + 4 * [3.0] + 3 * [2.0] + 2 * [5.0])[:, None].to(mean)
    z = torch.randn(len(sizes), len(mean), dtype=torch.float64, generator=generator).to(mean)
    points, fresh = (mean + (sizes * z) @ scale.T).split([9, 5])
    half = len(reached) // 2
    looks = [torch.cat([points, reached[:half][:6]]), torch.cat([fresh, reached[half:][:4]])]
    white = np.zeros_like(covariance)
    for members in together:
        part = np.ix_(members, members)
        white[part] = np.linalg.cholesky(covariance[part])
    (drifts, noises), others = (_seen(equation, points, white, times) for points in looks)
    if len(drifts) < 3:
        return None
    root, blocks = np.eye(len(mean)), []
    for members in together:
        part, found = np.ix_(members, members), [np.arange(len(members))]
        if len(members) > _SMALL:
            drift, noise = (matrices[:, members[:, None], members] for matrices in (drifts, noises))
            basis, found = joint_blocks(np.concatenate([drift, noise]))
            if len(found) > 1:
                axes = [_axes(basis[:, block], noise[0], drift.mean(0)) for block in found]
                root[part] = white[part] @ np.concatenate(axes, 1)
        blocks += [members[block] for block in found]
    if len(blocks) == len(together):
        return None
    turn, apart = np.linalg.solve(white, root), ~same_block(blocks)
    back = np.linalg.inv(turn)
    for matrix in [*(back @ others[0] @ turn), *(back @ others[1] @ back.T)]:
        if np.abs(matrix[apart]).max() > NOISE * np.abs(matrix).max():
            return None
    to_x, to_z = (torch.from_numpy(array).to(mean) for array in (root, np.linalg.inv(root)))

    def field(z):
        return equation.raw_drift(mean + z @ to_x.T) @ to_z.T

    pairs = torch.randn(2 * _N_PAIRS, len(mean), dtype=torch.float64, generator=generator).to(mean)
    for t in times:
        equation.move_to(t)
        for x in (mean + 1.5 * pairs @ scale.T, reached):
            if len(x) > 1 and not exchanges(field, blocks, (x - mean) @ to_z.T):
                return None
    return root


def _seen(equation, points: Tensor, white: np.ndarray, times) -> tuple[np.ndarray, np.ndarray]:
    """Jacobians of the drift in u at points and times, where they are finite, and D in u."""
    to_x, to_u = (torch.from_numpy(a).to(points) for a in (white, np.linalg.inv(white)))
    shifts, drifts, noises = _STEP * to_x.T, [], []
    for t in times:
        equation.move_to(t)
        for x in points:
            above, below = equation.raw_drift(torch.cat([x + shifts, x - shifts])).chunk(2)
            jacobian = to_u @ (above - below).T / (2 * _STEP)
            if torch.isfinite(jacobian).all():
                drifts.append(jacobian.cpu().numpy())
        noises.append((to_u @ equation.terms[1].matrix(points[:1], t)[0] @ to_u.T).cpu().numpy())
    return np.array(drifts), np.array(noises)


def _axes(basis: np.ndarray, noise: np.ndarray, drift: np.ndarray) -> np.ndarray:
    """Orthonormal axes (d, m) of the span of a basis, those of the noise and then of the drift."""
    values, vectors = np.linalg.eigh(basis.T @ noise @ basis)
    basis = basis @ vectors
    new = np.diff(values) > NOISE * max(float(np.abs(noise).max()), np.finfo(float).tiny)
    for alike in np.split(np.arange(len(values)), np.flatnonzero(new) + 1):
        some = basis[:, alike]
        basis[:, alike] = some @ np.linalg.eigh(some.T @ (drift + drift.T) @ some)[1]
    # one of the two directions of every axis
    return basis * np.sign(np.take_along_axis(basis, np.abs(basis).argmax(0)[None], 0))
