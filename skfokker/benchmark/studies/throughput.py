"""Samples a second of the fit against simulating the Langevin equation to the same time."""

from __future__ import annotations

import time

import numpy as np
import torch

from ... import problems
from ...problems import SeparableProblem
from ...reference import langevin
from ..measures import measure
from ..tables import FAIL, PASS, Table, number
from .common import StudyOptions, timed_fit

_TARGET = 30  # times faster
_BATCH, _TIMED_STEPS = 10_000, 50


def throughput(options: StudyOptions) -> list[Table]:
    """10**6 samples of the 30-D Styblinski-Tang fit at several times."""
    name, n = ("styblinski-tang-30d", 10**6)
    if options.quick:
        name, n = "quadratic-2d-iso", 10**5
    problem = problems.load(name)
    table = Table(
        f"{n} samples of {name}: fit against simulation",
        ["t", "fit, seconds", "Euler-Maruyama steps", "simulation, seconds", "ratio",
         f"at least {_TARGET}"],
        [],
    )  # fmt: skip
    law, seconds, failure = timed_fit(problem, options)
    if law is None:
        table.notes.append(f"No fit: {failure}")
        return [table]
    a_step = min(
        _seconds_a_step(problem, options.seed + k) for k in range(2 if options.quick else 5)
    )
    for t in (share * problem.t_final for share in (0.2, 0.6, 1.0)):
        ours = _sampling_seconds(law.fit, n, t)
        for steps, which in _step_counts(problem, law, t, options):
            simulation = a_step * n / _BATCH * steps
            ratio = simulation / ours
            mark = PASS if ratio >= _TARGET else FAIL
            table.rows.append(
                [f"{t:g}", number(ours, "seconds"), f"{steps} ({which})",
                 number(simulation, "seconds"), f"x {ratio:.3g}",
                 mark if which == "converged" else ""]
            )  # fmt: skip
    table.notes += [
        f"Once and for all times, the fit itself took {number(seconds, 'seconds')} s.",
        f"Simulation extrapolated from {_TIMED_STEPS} steps of {_BATCH} particles, the fastest of "
        "several batches; one particle of one step costs the same throughout. 'converged' is the "
        "number of steps after which halving them changes nothing that 20,000 particles show, "
        "'coarse' what is commonly taken, 'as accurate' what brings the worst marginal KL of the "
        "simulated law down to that of the fit.",
    ]
    return [table]


def _step_counts(problem, law, t, options) -> list[tuple[int, str]]:
    """Numbers of Euler-Maruyama steps to time t, and why these."""
    share = t / problem.t_final
    converged = max(1, round(problem.langevin_steps * share))
    counts = [(max(1, round(500 * share)), "coarse"), (converged, "converged")]
    if isinstance(problem, SeparableProblem):
        # the law is off by O(1 / steps), its KL divergence by the square of that
        fit = measure(problem, law, t, options.references)["worst_marginal"]
        simulated = euler_maruyama_kl(problem, t, converged)
        counts.append((max(1, round(converged * (simulated / fit) ** 0.5)), "as accurate"))
    return counts


def euler_maruyama_kl(problem, t: float, n_steps: int, n_nodes: int = 1501) -> float:
    """KL divergence from the law of the Euler-Maruyama scheme to rho_t, worst marginal.

    The scheme is a Markov chain with Gaussian steps; the law of one coordinate is carried along by
    quadrature (nodes closer than the standard deviation of a step).
    """
    worst, h = 0.0, t / n_steps
    for k, part in enumerate(problem.parts):
        i = problem.which.index(k)
        grid = problem.marginal(i).grid
        x = np.linspace(grid[0], grid[-1], n_nodes)
        pull = part.value_and_grad(torch.as_tensor(x)[:, None])[1][:, 0].numpy()
        spread = 2 * problem.beta * h
        step = np.exp(-((x[:, None] - (x - h * pull)) ** 2) / (2 * spread))
        step /= np.maximum(step.sum(0), 1e-300)
        start = problem.initial_mean[i], problem.initial_covariance[i, i]
        mass = np.exp(-((x - start[0]) ** 2) / (2 * start[1]))
        mass /= mass.sum()
        for _ in range(n_steps):
            mass = step @ mass
        exact = problem.marginal(i).density(x, t)
        ratio = mass / (exact / exact.sum())
        bulk = mass > 1e-12
        worst = max(worst, float((mass * (np.log(ratio, where=bulk, out=0 * mass)))[bulk].sum()))
    return worst


def _seconds_a_step(problem, seed) -> float:
    """Wall time of an Euler-Maruyama step of one batch."""
    h = problem.t_final / problem.langevin_steps
    x0 = problem.start(_BATCH, seed)
    start = time.perf_counter()
    langevin(
        problem.potential, _TIMED_STEPS * h, beta=problem.beta, x0=x0, n_steps=_TIMED_STEPS,
        seed=seed,
    )  # fmt: skip
    return (time.perf_counter() - start) / _TIMED_STEPS


def _sampling_seconds(fit, n, t) -> float:
    start = time.perf_counter()
    fit.sample(n, t, random_state=0)
    return time.perf_counter() - start
