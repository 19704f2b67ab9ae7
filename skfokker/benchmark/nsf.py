"""What a practitioner would do instead: simulate, then fit a spline flow conditioned on t.

A neural spline flow (zuko's NSF: three autoregressive transforms of 64 x 64 hidden units), trained
by maximum likelihood on Langevin particles at many times at once, so that it has samples and
densities at every t as well. The time given is for the simulation and the training together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch

from ..problems import Problem
from .methods import Law

_BATCH = 1024
_CHUNK = 5000  # particles simulated at a time
_N_TIMES = 24


class ConditionalLaw(Law):
    """A trained flow, behind the affine map that makes the particles white at every time."""

    def __init__(self, flow, times, means, roots):
        super().__init__()
        self.flow, self.times, self.means, self.roots = flow, times, means, roots

    def context(self, t: torch.Tensor) -> torch.Tensor:
        """Features of time (n, 2)."""
        share = t / self.times[-1]
        return torch.stack([share, share.sqrt()], 1).float()

    def _at(self, t: float):
        k = int(np.argmin(np.abs(self.times - t)))
        if abs(self.times[k] - t) > 1e-12:
            raise ValueError(f"t = {t:g} is not among the times of the particles")
        return self.means[k], self.roots[k], self.flow(self.context(torch.tensor([t])))

    @torch.no_grad()
    def log_density(self, x, t):
        mean, root, law = self._at(t)
        white = torch.linalg.solve_triangular(root, (torch.as_tensor(x) - mean).T, upper=False).T
        values = torch.cat([law.log_prob(part.float()) for part in white.split(5000)])
        return values.double().numpy() - float(root.diagonal().log().sum())

    @torch.no_grad()
    def points(self, t):
        mean, root, law = self._at(t)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            white = law.sample((self.n_points,)).reshape(self.n_points, -1).double()
        return (mean + white @ root.T).numpy()


def train(
    problem: Problem,
    times,
    seconds: float,
    n_particles: int,
    seed: int = 0,
    min_steps: int = 200,
    clock: Callable[[], float] = time.perf_counter,
) -> ConditionalLaw:
    """Simulate for at most half the time, train for the rest.

    Parameters
    ----------
    problem : Problem
    times : tuple of float
        Where the law will be asked for; some more are put between them.
    seconds : float
        Of simulation and training together.
    n_particles : int
        Simulated in chunks until there are so many, or until half the time is gone.
    seed : int
    min_steps : int
        Adam steps made in any case.
    clock : callable
        Tells the seconds.

    Raises
    ------
    ImportError
        Where zuko is not installed.
    """
    try:
        import zuko
    except ImportError as error:
        raise ImportError("zuko is not installed: pip install 'skfokker[flows]'") from error
    start = clock()
    stops = _all_times(times, problem.t_final)
    chunks: list[np.ndarray] = []
    while not chunks or sum(c.shape[1] for c in chunks) < n_particles:
        size = min(_CHUNK, n_particles)
        x = problem.particles(size, stops, seed=seed + 1 + len(chunks)).astype(np.float32)
        chunks.append(x)
        spent = clock() - start
        if spent * (1 + 1 / len(chunks)) > seconds / 2:
            break
    particles = torch.as_tensor(np.concatenate(chunks, 1))
    knots = np.array(stops)
    means, roots, white = _whiten(particles)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = zuko.flows.NSF(problem.d, context=2, transforms=3, hidden_features=(64, 64))
    law = ConditionalLaw(flow, knots, means, roots)
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    begin, moments = clock(), torch.as_tensor(stops)
    left = max(seconds - (begin - start), 1e-9)
    step = 0
    while True:
        share = max((clock() - begin) / left, 0.0)
        if step >= min_steps and share >= 1:
            break
        # the last steps are small, however many there is time for
        rate = 1e-5 + 3e-3 * 0.5 * (1 + math.cos(math.pi * min(share, 1.0)))
        optimizer.param_groups[0]["lr"] = rate
        k = torch.randint(len(stops), (_BATCH,), generator=generator)
        i = torch.randint(white.shape[1], (_BATCH,), generator=generator)
        loss = -flow(law.context(moments[k])).log_prob(white[k, i]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
        optimizer.step()
        step += 1
    law.info = {"particles": white.shape[1], "training_steps": step}
    return law


def _all_times(times, t_final) -> list[float]:
    """The times asked for and others around them, denser near the start."""
    more = t_final * (np.arange(1, _N_TIMES + 1) / _N_TIMES) ** 2
    stops = list(times)
    stops += [float(t) for t in more if min(abs(t - s) for s in stops) > 0.01 * t_final]
    return sorted(stops)


def _whiten(particles):
    """Means (k, d), Cholesky factors of covariances (k, d, d), white particles (k, n, d)."""
    means = particles.double().mean(1)
    roots, white = [], []
    for x, mean in zip(particles, means, strict=True):
        gap = x.double() - mean
        root = torch.linalg.cholesky(gap.T @ gap / (len(gap) - 1))
        roots.append(root)
        white.append(torch.linalg.solve_triangular(root, gap.T, upper=False).T.float())
    return means, torch.stack(roots), torch.stack(white)
