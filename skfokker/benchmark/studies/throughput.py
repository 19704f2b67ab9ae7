"""Samples a second of the fit against simulating the Langevin equation to the same time."""

from __future__ import annotations

import time

from ... import problems
from ...reference import langevin
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
        for steps, which in ((problem.langevin_steps, "converged"), (500, "coarse")):
            steps = max(1, round(steps * t / problem.t_final))
            simulation = a_step * n / _BATCH * steps
            ratio = simulation / ours
            table.rows.append(
                [f"{t:g}", number(ours, "seconds"), f"{steps} ({which})",
                 number(simulation, "seconds"), f"x {ratio:.3g}",
                 PASS if ratio >= _TARGET else FAIL]
            )  # fmt: skip
    table.notes += [
        f"Once and for all times, the fit itself took {number(seconds, 'seconds')} s.",
        f"Simulation extrapolated from {_TIMED_STEPS} steps of {_BATCH} particles, the fastest of "
        "several batches; one particle of one step costs the same throughout. 'converged' is the "
        "number of steps after which halving them changes nothing that 20,000 particles show, "
        "'coarse' what is commonly taken.",
    ]
    return [table]


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
