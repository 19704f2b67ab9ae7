"""Particles sent ahead of a march: into how many modes the mass of rho_0 falls, and which part."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from sklearn.mixture import GaussianMixture
from torch import Tensor

from .equation import FokkerPlanck
from .flows.mixture import MixtureFlow
from .potentials import PotentialError
from .schemes.mixture_solver import MixtureSolver
from .schemes.normal_equations import InnerProblem
from .schemes.points import sobol_normal


@dataclass(frozen=True)
class Scouts:
    """Draws of rho_0 and where they are at the horizon.

    Attributes
    ----------
    starts, ends : Tensor (n, d)
        The same particles of the Langevin equation at t = 0 and at the horizon.
    """

    starts: Tensor
    ends: Tensor

    def n_parts(self, equation: FokkerPlanck, at_most: int = 32) -> int:
        """Gaussians that describe the ends, by Akaike's criterion; 1 where Gaussians do not.

        They do where the mixture can follow the equation much better than one Gaussian, by the
        residual of (28) at the ends. Where it cannot, the modes are bent, or have other tails.
        """
        ends = self.ends[:4096].cpu().numpy()
        one = _residual(_fit_mixture(ends, 1), equation, self.ends)
        best, best_score, worse, k = None, math.inf, 0, 2
        while worse < 2 and k <= min(at_most, len(ends) // 20):
            model = _fit_mixture(ends, k)
            score = model.aic(ends)
            if score < best_score:
                best, best_score, worse = model, score, 0
                # soon seen to be hopeless: a bent mode takes ever more Gaussians
                if k > 5 and _residual(model, equation, self.ends) > 0.5 * one:
                    return 1
            else:
                worse += 1
            k += 1 + k // 6
        if best is None or _residual(best, equation, self.ends) > 0.15 * one:
            return 1
        return len(best.weights_)

    def split(self, flow: MixtureFlow) -> Tensor:
        """theta (m,) of rho_0 as the sum of its parts that end in the same place.

        The ends are clustered (a Gaussian mixture), and each component of the start has the mean
        and the covariance of the starts whose ends are in one cluster. Such a start is a little off
        rho_0, but its parts have little left to do with each other, and that decides how well the
        march goes: fitted to rho_0 itself, the components overlap and the march has to cut them.
        """
        k, d = flow.n_components, self.starts.shape[1]
        ends = self.ends.cpu().numpy()
        clusters = _fit_mixture(ends[:4096], k).predict(ends)
        label = torch.from_numpy(clusters).to(self.starts.device)
        pooled = torch.cov(self.starts.T).reshape(d, d)
        weights, means, covariances = [], [], []
        for part in range(k):
            here = self.starts[label == part]
            n = len(here)
            mean = here.mean(0) if n else self.starts[part]
            gap = here - mean
            # worth d + 1 draws, so that a part of few particles has a covariance too
            prior = d + 1 if n < 10 * d else 0.1
            covariances.append((gap.T @ gap + prior * pooled) / (n + prior))
            weights.append((n + 0.5) / (len(label) + 0.5 * k))
            means.append(mean)
        shares = torch.tensor(weights).to(self.starts)
        return flow.from_components(shares, torch.stack(means), torch.stack(covariances))


def gaussians_are_hopeless(ends: np.ndarray, equation: FokkerPlanck, like: Tensor) -> bool:
    """Whether five Gaussians follow the equation hardly better than one, at particles' ends (n, d).

    A quick look: bent modes are seen by it, and need not be looked for any further.
    """
    one, few = (_fit_mixture(ends[:1024], k, n_init=1) for k in (1, 5))
    points = torch.from_numpy(ends).to(like)
    return _residual(few, equation, points) > 0.6 * _residual(one, equation, points)


@torch.no_grad()
def _residual(model: GaussianMixture, equation: FokkerPlanck, like: Tensor, n: int = 2048) -> float:
    """E|r|^2 that the inner problem leaves at a fitted mixture."""
    d, flow = like.shape[1], MixtureFlow(len(model.weights_))
    parts = (model.weights_, model.means_, model.covariances_)
    theta = flow.from_components(*(torch.from_numpy(a).to(like) for a in parts))
    x = sobol_normal(n, d, seed=0).to(like)
    try:
        problem = InnerProblem(equation, flow, theta, x, x.new_full((n,), 1 / n))
    except PotentialError:
        return math.inf
    residual = MixtureSolver(flow, d).solve(problem).residual
    return float(residual.square().sum(1).mean())


def _fit_mixture(x: np.ndarray, k: int, n_init: int = 4) -> GaussianMixture:
    model = GaussianMixture(
        k, n_init=n_init, init_params="k-means++", reg_covar=1e-6 * x.var(), random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of clusters that have not converged to the last digit
        return model.fit(x)


@torch.no_grad()
def send(
    equation: FokkerPlanck,
    starts: Tensor,
    horizon: float,
    generator: torch.Generator,
    n_steps: int = 200,
) -> Scouts:
    """Follow the Langevin equation from ``starts`` (n, d) to the horizon, in tamed Euler steps.

    The drift of a step is divided by 1 + h |grad V|: rough, but it cannot explode (M. Hutzenthaler
    et al., Annals of Applied Probability 22 (2012)). The particles tell parts apart and nothing
    else: no error of theirs reaches the law.
    """
    times = np.linspace(0, horizon, n_steps + 1)
    return Scouts(starts, follow(equation, starts, times, generator)[0])


def follow(equation, starts: Tensor, times, generator, looks=()) -> tuple[Tensor, list]:
    """Tamed Euler steps between ``times``; the end, and arrays after those steps of ``looks``."""
    x, seen, size = starts, [], starts.var(0)
    for k, h in enumerate(np.diff(times), start=1):
        equation.move_to(float(times[k - 1]), lambda n, x=x: x[:n])
        noise = torch.randn(x.shape, dtype=x.dtype, generator=generator).to(x)
        drift, kick = equation.drift(x), math.sqrt(h) * equation.noise(x, noise)
        if not equation.homogeneous:  # it may be that noise explodes, too
            kick = kick / (1 + h * equation.spread_along(x) / size)
        x = x + h * drift / (1 + h * drift.norm(dim=1, keepdim=True)) + kick
        if k in looks:
            seen.append(x.cpu().numpy())
    equation.move_to(0.0)
    return x, seen


@torch.no_grad()
def explore(
    equation: FokkerPlanck,
    starts: Tensor,
    horizon: float,
    generator: torch.Generator,
    n_steps: int = 300,
    n_looks: int = 13,
) -> np.ndarray:
    """Where particles are along the way: ``starts`` (n, d) at ``n_looks`` times, (n_looks, n, d).

    As :func:`send`, with steps that grow with time: what is steep is steep at the start.
    """
    times = horizon * np.linspace(0, 1, n_steps + 1) ** 2
    looks = set(np.linspace(0, n_steps, n_looks).astype(int)[1:])
    seen = follow(equation, starts, times, generator, looks)[1]
    return np.stack([starts.cpu().numpy(), *seen])


@torch.no_grad()
def count_modes(equation: FokkerPlanck, starts: Tensor, barrier: float = 0.3) -> int:
    """Modes of exp(-V / beta) that ``starts`` (n, d) run down to.

    Two points that V has run down to belong to the same mode where V rises by less than
    ``barrier`` times beta on the straight line between them, or between others on the way. All
    points are followed by one L-BFGS; it need not converge, as points in one valley are joined.
    """
    lows = _run_down(equation.potential, starts)
    n, d = lows.shape
    i, j = np.triu_indices(n, 1)
    s = torch.linspace(0, 1, 11).to(lows)[1:-1, None, None]
    line = ((1 - s) * lows[i] + s * lows[j]).reshape(-1, d)
    try:
        at_ends = equation.potential.value_and_grad(lows)[0].cpu().numpy()
        on_line = equation.potential.value_and_grad(line)[0].view(len(s), -1).cpu().numpy()
    except PotentialError:
        return 1
    rise = on_line.max(0) - np.maximum(at_ends[i], at_ends[j])
    joined = np.zeros((n, n), dtype=bool)
    joined[i, j] = ~(rise > barrier * equation.beta)
    labels = connected_components(joined, directed=False)[1]
    # a point stuck high up is no mode of its own
    depth = np.array([at_ends[labels == k].min() for k in range(labels.max() + 1)])
    return int((depth < depth.min() + 10 * equation.beta).sum())


def _run_down(potential, starts: Tensor) -> Tensor:
    """Points (n, d) after minimising the sum of V over all of them."""
    x = starts.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x], max_iter=100, history_size=20, line_search_fn="strong_wolfe", tolerance_change=1e-12
    )

    def closure():
        value, x.grad = potential.value_and_grad(x.detach())
        return value.sum()

    try:
        optimizer.step(closure)
    except PotentialError:
        return starts
    x = x.detach()
    return x if torch.isfinite(x).all() else starts
