"""How much the default fit depends on its seed: spread of errors and of wall time, failures."""

from __future__ import annotations

from collections import Counter

import numpy as np

from ... import problems
from ..tables import Table, number
from .common import StudyOptions, attempt, timed_fit

_PROBLEMS = ("rosenbrock-10d", "ginzburg-landau-16d")
_N_SEEDS = 10


def seeds(options: StudyOptions) -> list[Table]:
    """One table a problem: mean, standard deviation and range over ten seeds."""
    if options.quick:
        return [_table(problems.load("ou-benchmark"), 2, options)]
    return [_table(problems.load(name), _N_SEEDS, options) for name in _PROBLEMS]


def _table(problem, n_seeds, options):
    table = Table(
        f"{n_seeds} seeds of the default fit: {problem.name}",
        ["quantity", "fits", "mean", "standard deviation", "lowest", "highest"],
        [],
    )
    seconds, losses, failures = [], [], Counter()
    for seed in range(options.seed, options.seed + n_seeds):
        law, spent, failure = timed_fit(problem, options, seed=seed)
        if law is None:
            failures[_name(failure)] += 1
            continue
        nll, failure = attempt(_losses, problem, law, options)
        if failure is not None:
            failures[_name(failure)] += 1
            continue
        seconds.append(spent)
        losses.append(nll)
    for k, t in enumerate(problem.times):
        table.rows.append([f"NLL, t = {t:g}", *_spread([nll[k] for nll in losses], "nll")])
    table.rows.append(["fit, seconds", *_spread(seconds, "seconds")])
    for name, count in failures.most_common():
        table.rows.append([name, f"{count} of {n_seeds}", "", "", "", ""])
    if not failures:
        table.notes.append(f"All {n_seeds} fits ended.")
    table.notes.append(
        "NLL on the same particles for every seed, so that its spread is that of the fits."
    )
    return table


def _losses(problem, law, options) -> list[float]:
    """Mean negative log-likelihood of the reference particles at every time."""
    values = [
        -float(np.mean(law.log_density(options.references.particles(problem, t), t)))
        for t in problem.times
    ]
    if not np.isfinite(values).all():
        raise FloatingPointError("the log-likelihood is not finite")
    return values


def _name(failure: str) -> str:
    """The class of an error, from the line that reports it."""
    return failure.partition(":")[0]


def _spread(values, kind) -> list[str]:
    if not values:
        return ["0", "-", "-", "-", "-"]
    deviation = np.std(values, ddof=1) if len(values) > 1 else None
    mean = number(float(np.mean(values)), kind)
    ends = [number(float(end), kind) for end in (min(values), max(values))]
    return [str(len(values)), mean, number(deviation), *ends]
