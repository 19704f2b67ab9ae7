r"""True entropies where only particles are known: a bracket around E[log rho_t].

The Euler-Maruyama chain x_0, ..., x_N has a joint density P in closed form. A backward chain Q that
starts at x_N and drifts with grad V + 2 beta grad log rho_theta (time reversal, with the score of
the fit) has one too, given x_N. With w = log P(x_0, ..., x_N) - log Q(x_0, ..., x_{N-1} | x_N),

    E[w, paths of Q]  <=  E[log rho_t(x_N)]  <=  E[w, paths of P],

the gaps being KL divergences between P and Q on paths (Jensen's inequality); an average of e^w over
several backward paths narrows the lower one. Whatever the fit is, the bracket holds; a good fit
makes it narrow. Subtracting log rho_theta(x_N) brackets KL(true, fit) on the same particles, and
the entropy is the likelihood of a larger set minus that.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import logsumexp

from ... import problems
from ...reference import gaussian_log_density
from ..tables import Table, number
from .common import StudyOptions, timed_fit


def entropy(options: StudyOptions) -> list[Table]:
    """Entropies of the 10-D Rosenbrock laws and KL(true, fit), each between two bounds."""
    name, n, n_steps, copies = "rosenbrock-10d", 1000, 400, 4
    if options.quick:
        name, n, n_steps, copies = "quadratic-2d-iso", 500, 60, 2
    problem = problems.load(name)
    table = Table(
        f"Entropy and KL(true, fit) between bounds: {name}",
        ["t", "NLL of the fit", "KL(true, fit) at least", "at most", "entropy at least", "at most"],
        [],
    )
    law, _, failure = timed_fit(problem, options)
    if law is None:
        table.notes.append(f"No fit: {failure}")
        return [table]
    for t in problem.times:
        x = options.references.particles(problem, t)
        nll = float(-law.log_density(x, t).mean())
        low, high, spread = kl_bracket(problem, law.fit, t, n, n_steps, copies, options.seed)
        low = max(low, 0.0)
        options.say(f"{name} t = {t:g}: KL(true, fit) in [{low:.4f}, {high:.4f}]")
        table.rows.append(
            [f"{t:g}", number(nll, "nll"), number(low), number(high),
             number(nll - high, "nll"), number(nll - low, "nll")]
        )  # fmt: skip
        table.notes.append(
            f"t = {t:g}: standard errors {spread:.1e} (KL), "
            f"{law.log_density(x, t).std() / math.sqrt(len(x)):.1e} (NLL)."
        )
    return [table]


@torch.no_grad()
def kl_bracket(problem, fit, t, n=1000, n_steps=400, copies=4, seed=0):
    """Lower and upper estimate of KL(rho_t | fit), and the larger standard error.

    Parameters
    ----------
    problem : Problem
    fit : ParametricFokkerPlanck
    t : float
    n : int
        Particles.
    n_steps : int
        Euler-Maruyama steps, shorter near the start where the law moves fast.
    copies : int
        Backward paths for each particle.
    seed : int
    """
    chain = _Chain(problem, fit, t * (np.arange(n_steps + 1) / n_steps) ** 2)
    noise = np.random.default_rng(seed + 7)
    last, above = chain.forward(problem.start(n, seed + 8), noise)
    below = logsumexp([chain.backward(last, noise) for _ in range(copies)], 0) - math.log(copies)
    log_fit = fit.log_density(last, t)
    gaps = below - log_fit, above - log_fit
    spread = max(float(g.std()) for g in gaps) / math.sqrt(n)
    return float(gaps[0].mean()), float(gaps[1].mean()), spread


class _Chain:
    """The Euler-Maruyama chain at given times, and its approximate reversal."""

    def __init__(self, problem, fit, times):
        self.problem, self.fit, self.times = problem, fit, times
        self.beta = problem.beta

    def _pull(self, x):
        return self.problem.potential.value_and_grad(torch.as_tensor(x))[1].numpy()

    def _log_ratio(self, before, after, pull_before, back_drift, h):
        """log of the forward over the backward transition density; the variances are equal."""
        ahead = after - before + h * pull_before
        back = before - after - h * back_drift
        return ((back**2).sum(1) - (ahead**2).sum(1)) / (4 * self.beta * h)

    def _back_drift(self, x, t, h):
        """Of the reversal; no longer than ten times the noise of a step, where the score is bad."""
        drift = self._pull(x) + 2 * self.beta * self.fit.grad_log_density(x, t)
        longest = 10 * math.sqrt(2 * self.beta * x.shape[1] / h)
        return drift * np.minimum(1, longest / np.linalg.norm(drift, axis=1, keepdims=True))

    def _log_start(self, x):
        problem = self.problem
        return gaussian_log_density(x, problem.initial_mean, problem.initial_covariance)

    def forward(self, x, noise):
        """Paths of P: their ends, and w."""
        w = self._log_start(x)
        for start, end in zip(self.times[:-1], self.times[1:], strict=True):
            h, pull = end - start, self._pull(x)
            after = x - h * pull + math.sqrt(2 * self.beta * h) * noise.standard_normal(x.shape)
            w = w + self._log_ratio(x, after, pull, self._back_drift(after, end, h), h)
            x = after
        return x, w

    def backward(self, x, noise):
        """Paths of Q from given ends: w."""
        w = 0.0
        for start, end in zip(self.times[-2::-1], self.times[:0:-1], strict=True):
            h = end - start
            drift = self._back_drift(x, end, h)
            before = x + h * drift + math.sqrt(2 * self.beta * h) * noise.standard_normal(x.shape)
            w = w + self._log_ratio(before, x, self._pull(before), drift, h)
            x = before
        return w + self._log_start(x)
