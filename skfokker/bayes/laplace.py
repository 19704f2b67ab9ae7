"""Where a posterior is and how wide: modes by L-BFGS, curvature, a Gaussian over them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp
from torch import Tensor

from ..initial import Gaussian
from ..potentials import Potential, check_potential
from ..validation import torch_generator
from .calls import BudgetSpent
from .descent import descend
from .modes import more_modes
from .support import _FALL, _FAR, UnboundedDensityError, refuse_unbounded, with_support

_GAUSSIAN = 0.5  # nats between two estimates of a mass, below which a mode is nearly Gaussian
_ENOUGH = 2  # paths to one end that are looked at, where its Gaussian does not do
_AT_REST = 1e-3  # nats


@dataclass(frozen=True)
class Laplace:
    """Gaussians at the modes that a search has found.

    Attributes
    ----------
    modes : ndarray (k, d)
        Their means, the best first.
    roots : ndarray (k, d, d)
        Lower Cholesky factors of their covariances.
    log_masses : ndarray (k,)
        Each one's E_q[log p - log q], a bound of the log integral of p near it.
    positive_definite : ndarray (k,) of bool
        Whether the curvature at the mean was; where it was not, the eigenvalues of the covariance
        are those of the absolute curvature, bounded.
    """

    modes: np.ndarray
    roots: np.ndarray
    log_masses: np.ndarray
    positive_definite: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """Share of the mass in each mode, (k,); rough."""
        return np.exp(self.log_masses - logsumexp(self.log_masses))

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (d,) and covariance (d, d) of the mixture of all modes."""
        shares = self.shares
        mean = shares @ self.modes
        gap = self.modes - mean
        within = np.einsum("k,kij,klj->il", shares, self.roots, self.roots)
        return mean, within + (gap * shares[:, None]).T @ gap

    def gaussian(self, inflate: float = 1.0) -> Gaussian:
        """A start for the estimator: ``initial=laplace(...).gaussian()``.

        Parameters
        ----------
        inflate : float, default=1
            Factor of the standard deviations.
        """
        mean, covariance = self.moments()
        return Gaussian(mean, inflate**2 * covariance)

    def sample(self, n_samples: int, random_state: Any = None) -> np.ndarray:
        """Draws (n_samples, d) from the mixture of all modes."""
        generator = torch_generator(random_state, 2001)
        d = self.modes.shape[1]
        counts = np.floor(self.shares * n_samples).astype(int)
        order = np.argsort(counts - self.shares * n_samples)
        counts[order[: n_samples - counts.sum()]] += 1
        noise = torch.randn(n_samples, d, generator=generator, dtype=torch.float64).numpy()
        mode = np.repeat(np.arange(len(counts)), counts)
        return self.modes[mode] + np.einsum("nij,nj->ni", self.roots[mode], noise)

    def nearest(self, x: np.ndarray) -> np.ndarray:
        """The mode (n,) that every point x (n, d) most likely belongs to."""
        score = np.empty((len(self.modes), len(x)))
        for j, (mode, root) in enumerate(zip(self.modes, self.roots, strict=True)):
            z = np.linalg.solve(root, (x - mode).T)
            score[j] = 0.5 * (z**2).sum(0) + np.log(np.diag(root)).sum()
        return score.argmin(0)


def laplace(
    potential: Any,
    n_features: int | None = None,
    *,
    starts: Any = None,
    n_starts: int = 8,
    spread: float = 2.0,
    n_draws: int = 128,
    n_iterations: int = 50,
    random_state: Any = None,
) -> Laplace:
    r"""Gaussian approximations of exp(-V), from a search for its modes.

    Every start is followed by L-BFGS, all at once. Where that ends in more than one mode, the
    search goes on about them, with many more starts, until it finds no new ones
    (:mod:`skfokker.bayes.modes`). At a few points of the path (its end among them) a Gaussian
    is made of the local curvature, and the one with the best evidence bound is kept: at the end
    point for most posteriors; on the way where the density has no mode, as with the scale of a
    hierarchy that runs to zero (L. Zhang, B. Carpenter, A. Gelman, A. Vehtari, "Pathfinder:
    Parallel quasi-Newton variational inference", 2022). Curvature is by central differences of
    gradients, in steps that follow the local scale of each coordinate. Mean and covariance of the
    kept ones then follow the flow of the Fokker-Planck equation restricted to Gaussians, in its
    preconditioned form, to rest: dm/dt = -E grad V, and a precision that relaxes to E Hess V
    (M. Lambert, S. Chewi, F. Bach, S. Bonnabel, P. Rigollet, "Variational inference via Wasserstein
    gradient flows", 2022).

    Parameters
    ----------
    potential : Potential or callable
        V = -log density; infinite or NaN outside the support.
    n_features : int, optional
        d, where the potential does not say.
    starts : array-like (k, d), optional
        Where to start; drawn from N(0, spread^2 I) where not given, the origin first.
    n_starts : int
    spread : float
    n_draws : int
        Points for each evidence bound; at least 2 d are taken.
    n_iterations : int
        Steps of the flow of Gaussians; 0 keeps the curvature at the modes.
    random_state : int, RandomState instance or None

    Raises
    ------
    ValueError
        Where V is finite at none of the starts.
    UnboundedDensityError
        Where exp(-V) grows without bound, as where an energy was given for a log density.

    Examples
    --------
    >>> from skfokker.bayes import laplace
    >>> from skfokker.potentials import Quadratic
    >>> found = laplace(Quadratic([50.0, 0.0], [1e-6, 200.0]))
    >>> found.modes.round(6).tolist()
    [[50.0, 0.0]]
    """
    potential = check_potential(potential, n_features)
    d = potential.n_features_in_
    generator = torch_generator(random_state, 2000)
    potential, points = _starts(potential, d, starts, n_starts, spread, generator)
    noise = _noise(max(n_draws, 2 * d), d, generator)

    def follow(points: np.ndarray) -> list[tuple]:
        return _follow(potential, points, noise)

    found = follow(points)
    try:
        if sum(one[3] for one in found) > 1:  # a centre of indefinite curvature is no mode
            found = more_modes(potential, found, follow, _distinct, generator)
        if n_iterations:
            found = _distinct([_relax(potential, one, noise, n_iterations) for one in found])
    except BudgetSpent:  # what was found has to do
        pass
    if not found:
        raise ValueError(
            f"The search found no point with a finite curvature from {len(points)} starts: the "
            "gradient of the log density is not finite. Give starts= inside the support."
        )
    modes, roots, masses, definite = zip(*found, strict=True)
    return Laplace(np.stack(modes), np.stack(roots), np.array(masses), np.array(definite))


def curvature(
    potential: Any, x: np.ndarray, passes: int = 3, near: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Gradient (d,) and Hessian (d, d) of V at x, by central differences of gradients.

    The first pass takes steps relative to |x|, or those for ``near``, a Hessian (d, d) not far
    away; the later ones a thousandth of the scale 1 / sqrt(H_ii) that was found.
    """
    d = len(x)
    steps = 1e-4 * np.maximum(np.abs(x), 1e-2) if near is None else _steps(near, x)
    done, shrunk = 0, 0
    while done < passes:
        shifts = np.diag(steps)
        points = torch.from_numpy(np.concatenate([x + shifts, x - shifts, x[None]]))
        gradients = potential.value_and_grad(points)[1].numpy()
        hessian = (gradients[:d] - gradients[d : 2 * d]) / (2 * steps[:, None])
        hessian = 0.5 * (hessian + hessian.T)
        if not np.isfinite(hessian).all() and shrunk < 6:
            steps, shrunk = steps / 30, shrunk + 1
            continue
        done += 1
        steps = _steps(hessian, x)
    return gradients[-1], hessian


def _steps(hessian: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Steps of differences (d,) that suit a curvature."""
    scale = 1 / np.sqrt(np.maximum(np.abs(np.diag(hessian)), 1e-12))
    return np.maximum(1e-3 * np.minimum(scale, 1e3), 1e-12 * np.abs(x))


def covariance_root(hessian: np.ndarray) -> tuple[np.ndarray, bool]:
    """Lower Cholesky factor of the inverse of a Hessian, made positive definite where it is not."""
    scale = 1 / np.sqrt(np.clip(np.abs(np.diag(hessian)), 1e-12, None))
    values, vectors = np.linalg.eigh(scale[:, None] * hessian * scale)
    definite = bool(values[0] > 1e-10)
    if not definite:
        values = np.maximum(np.abs(values), 1e-2 * max(1.0, float(np.abs(values).max()) * 1e-2))
    half = scale[:, None] * vectors / np.sqrt(values)
    # QR of the transpose: a triangular root without squaring the condition number
    root = np.asarray(np.linalg.qr(half.T, mode="r")).T
    return root * np.sign(np.diag(root)), definite


def _starts(potential, d, starts, n_starts, spread, generator) -> tuple[Potential, np.ndarray]:
    """The potential with its walls infinite, and points inside."""
    if starts is not None:
        points = np.array(starts, dtype=float).reshape(-1, d)
    else:
        points = spread * torch.randn(20 * n_starts, d, generator=generator).double().numpy()
        points[0] = 0
    potential = with_support(potential, points)
    value, gradient = potential.value_and_grad(torch.from_numpy(points))
    if (value == -torch.inf).any():
        k = int((value == -torch.inf).nonzero()[0, 0])
        raise UnboundedDensityError(
            f"The log density is +inf at x = {points[k].round(4).tolist()}. Outside its support it "
            "is -inf: is its sign wrong, was an energy V given where V = -log density?"
        )
    inside = (torch.isfinite(value) & torch.isfinite(gradient).all(1)).numpy()
    if not inside.any():
        raise ValueError(
            f"The log density is -inf or NaN at all {len(points)} starting points"
            + (
                f" drawn from N(0, {spread:g}^2 I); pass starts= with a point inside the support, "
                "or constraints= that map the parameters to an unconstrained space."
                if starts is None
                else "; pass one inside the support."
            )
        )
    points = points[inside]
    return potential, points if starts is not None else points[:n_starts]


def _follow(potential, starts: np.ndarray, noise: Tensor) -> list[tuple]:
    """Centre, root, evidence bound and definiteness of the best Gaussian along every path.

    Paths that end in the same place count once, and points on the way only where the end is a bad
    centre.
    """
    far, looked = _FAR * (1 + np.abs(starts).max(1)), np.zeros(len(starts), dtype=bool)

    def watch(k: int, x: Tensor, fallen: float) -> None:
        if not looked[k] and fallen > _FALL and float(x.abs().max()) > far[k]:
            looked[k] = True
            refuse_unbounded(potential, starts[k], x.numpy())

    paths = descend(potential, torch.from_numpy(starts), watch=watch).numpy()
    found: list[tuple] = []
    seen: list[tuple] = []
    for k, start in enumerate(starts):
        path = paths[:, k]
        near = [_distance((path[-1], root), (centre, root)) < 0.1 for centre, root, _ in seen]
        if sum(one[2] for one, same in zip(seen, near, strict=True) if same) >= _ENOUGH:
            continue
        try:
            best, end, root, good = _best_gaussian(potential, path, noise, thorough=not seen)
        except BudgetSpent:
            if found:
                break
            raise
        if root is not None:
            seen.append((end, root, _ENOUGH if good else 1))
        if best is None or not best[3]:  # no mode: a slope that goes on for ever, perhaps
            slope = potential.value_and_grad(torch.from_numpy(end)[None])[1][0].numpy()
            for way in (end - start, -slope):
                if way.any() and np.isfinite(way).all():
                    refuse_unbounded(potential, end, end + way)
        if best is not None:
            found.append(best)
    return _distinct(found)


def _best_gaussian(potential, path: np.ndarray, noise: Tensor, thorough: bool) -> tuple:
    """The best Gaussian of a path or None; where the path ends, the root there, and if it will do.

    A mode that is nearly Gaussian is good enough where not ``thorough``; otherwise more mass may
    lie on the way to it, as in the neck of a funnel.
    """
    end = _newton(potential, path[-1])
    best, gap = _local_gaussian(potential, end, noise), math.inf
    root_there = None if best is None else best[1]
    if best is not None and best[3]:
        centre, root, bound, _ = best
        mass = float(np.log(np.diag(root)).sum() + 0.5 * len(end) * math.log(2 * math.pi))
        gap = abs(mass - float(potential(torch.from_numpy(centre)[None])) - bound)
    good = gap < 10 * _GAUSSIAN
    if gap < _GAUSSIAN and not thorough:
        return best, end, root_there, good
    for centre in _on_the_way(path):
        try:
            gaussian = _local_gaussian(potential, centre, noise)
        except BudgetSpent:
            if best is None:
                raise
            break
        if gaussian is not None and (best is None or gaussian[2] > best[2] + 0.05):
            best, good = gaussian, False
    return best, end, root_there, good


def _on_the_way(path: np.ndarray, n: int = 8) -> np.ndarray:
    """About n points (k, d) of a path: its own, or some between them where it has few."""
    moved = np.abs(np.diff(path, axis=0)).sum(1) > 0
    corners = np.concatenate([path[:1], path[1:][moved]])
    inner = corners[1:-1]
    if len(inner) < n:
        shares = np.linspace(0, 1, 1 + -(-n // max(len(corners) - 1, 1)))[1:, None, None]
        inner = (corners[:-1] + shares * np.diff(corners, axis=0)).swapaxes(0, 1)
        inner = inner.reshape(-1, path.shape[1])[:-1]
    return inner[:: max(1, len(inner) // n)]


def _newton(potential, x: np.ndarray, n_steps: int = 40) -> np.ndarray:
    """Damped Newton steps: L-BFGS alone stops early where scales differ by orders.

    Where the curvature vanishes (a slope that ends in a wall) a step is far too long: it is cut
    until it lands lower, however small that makes it.
    """
    sizes = 0.25 ** np.arange(24.0)

    def values(x):
        value = potential(torch.from_numpy(x)).detach().double().numpy()
        return np.where(np.isfinite(value), value, np.inf)

    value, hessian = values(x[None])[0], None
    for _ in range(n_steps):
        gradient, hessian = curvature(potential, x, 2 if hessian is None else 1, hessian)
        if not (np.isfinite(hessian).all() and np.isfinite(gradient).all()):
            break
        root = covariance_root(hessian)[0]
        whitened = root.T @ gradient
        step = -root @ whitened
        if float(whitened @ whitened) < 1e-8:
            break
        trial = values(x + step[None])
        chosen = 0
        if not trial[0] < value:
            trial = values(x + sizes[:, None] * step)
            if not (trial < value).any():
                break
            chosen = int(np.argmax(trial < value))
        x, value = x + sizes[chosen] * step, trial[chosen]
    return x


def _local_gaussian(potential, x: np.ndarray, noise: Tensor) -> tuple | None:
    """The Gaussian of the curvature at x, after one Newton step of bounded length."""
    gradient, hessian = curvature(potential, x)
    if not (np.isfinite(hessian).all() and np.isfinite(gradient).all()):
        return None
    root, definite = covariance_root(hessian)
    if not np.isfinite(root).all() or (np.diag(root) <= 0).any():
        return None
    whitened = root.T @ gradient
    length = float(np.linalg.norm(whitened))
    centre = x - root @ (whitened * min(1.0, 1.0 / max(length, 1e-300)))
    bound = _bound(potential, centre, root, noise)
    return (centre, root, bound, definite) if math.isfinite(bound) else None


def _bound(potential, centre: np.ndarray, root: np.ndarray, noise: Tensor) -> float:
    """E_q[log p - log q] of a Gaussian; points outside the support cost 50 nats each."""
    return _bound_of(potential(torch.from_numpy(centre) + noise @ torch.from_numpy(root).T), root)


def _bound_of(value: Tensor, root: np.ndarray) -> float:
    """The same from V at the points of the Gaussian."""
    value = value.detach().double()
    inside = torch.isfinite(value)
    if not inside.any():
        return -math.inf
    value = torch.where(inside, value, value[inside].min() + 50.0)
    entropy = float(np.log(np.diag(root)).sum()) + 0.5 * len(root) * (1 + math.log(2 * math.pi))
    return entropy - float(value.mean())


def _relax(potential, gaussian: tuple, noise: Tensor, n_iterations: int) -> tuple:
    """Mean and covariance along the flow of Gaussians, until their evidence bound rests."""
    centre, root, bound, definite = gaussian
    d, best, rate = len(centre), gaussian, 1.0
    here = _slopes(potential, centre, root, noise)
    for _ in range(n_iterations):
        slope = here[1]
        push = slope.mean(0).numpy()
        hessian = (slope.T @ noise / len(noise)).numpy()
        hessian = 0.5 * (hessian + hessian.T)
        values, vectors = np.linalg.eigh(hessian)
        if np.abs(push).max() < 1e-6 and np.abs(values - 1).max() < 1e-6:
            break
        values = np.clip(1 - rate + rate * values, 0.5, 2.0)
        shift = -rate * (vectors / values) @ (vectors.T @ push)
        shift *= min(1.0, math.sqrt(d) / max(float(np.linalg.norm(shift)), 1e-300))
        half = vectors / np.sqrt(values)
        trial = root @ half
        trial = np.asarray(np.linalg.qr(trial.T, mode="r")).T
        trial = trial * np.sign(np.diag(trial))
        moved = centre + root @ shift
        after = _slopes(potential, moved, trial, noise)
        if not after[0] > bound - 0.5 * rate:  # NaN included
            rate *= 0.5
            if rate < 0.02:
                break
            continue
        gain = after[0] - bound
        centre, root, bound, here = moved, trial, after[0], after
        if bound > best[2]:
            best = (centre, root, bound, definite)
        if abs(gain) < _AT_REST:
            break
    return best


def _slopes(potential, centre: np.ndarray, root: np.ndarray, noise: Tensor) -> tuple[float, Tensor]:
    """The evidence bound of a Gaussian, and the gradients (n, d) in its own coordinates."""
    scale = torch.from_numpy(root)
    value, slope = potential.value_and_grad(torch.from_numpy(centre) + noise @ scale.T)
    slope = slope.detach().double() @ scale
    slope = torch.where(torch.isfinite(slope).all(1, keepdim=True), slope, noise)
    return _bound_of(value, root), slope


def _noise(n: int, d: int, generator: torch.Generator) -> Tensor:
    """Standard normal points with exactly their mean and covariance: exact for quadratics."""
    half = torch.randn(n // 2, d, generator=generator, dtype=torch.float64)
    moment = half.T @ half / len(half)
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(moment), half.T, upper=False).T
    return torch.cat([half, -half])


def _distinct(found: list[tuple]) -> list[tuple]:
    """Best first, without those that stand within one sd of a better one."""
    kept: list[tuple] = []
    for candidate in sorted(found, key=lambda candidate: -candidate[2]):
        if all(_distance(candidate, other) > 1.0 for other in kept):
            kept.append(candidate)
    return kept


def _distance(a: tuple, b: tuple) -> float:
    """Distance of two centres in the metric of the wider curvature, in sd per root d."""
    gap = a[0] - b[0]
    lengths = [np.linalg.norm(np.linalg.solve(root, gap)) for root in (a[1], b[1])]
    return float(min(lengths) / math.sqrt(len(gap)))
