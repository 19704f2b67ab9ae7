"""Cost against the dimension d, with fitted exponents."""

from __future__ import annotations

import time

from ... import problems
from ..measures import measure
from ..tables import Table, number
from .common import StudyOptions, attempt, exponent, exponents, timed_fit

_FAMILIES = {
    "styblinski-tang-10d": ("Styblinski-Tang (sum over coordinates)", (10, 30, 100)),
    "ou-benchmark": ("OU benchmark (correlated Gaussian)", (10, 30, 100)),
    "rosenbrock-{d}d": ("Rosenbrock (nonlinear correlation)", (10, 30, 100)),
}
_N_SAMPLES, _N_POINTS = 100_000, 10_000


def dimension(options: StudyOptions) -> list[Table]:
    """One table a family: seconds of fit, of 10**5 samples and of 10**4 densities; errors.

    The errors are those at the horizon: without them a fit that has become coarser with d would
    pass for one that has become cheaper.
    """
    families = list(_FAMILIES.items())[slice(1, 2) if options.quick else slice(None)]
    return [_table(name, *family, options) for name, family in families]


def _table(name, title, dimensions, options):
    if options.quick:
        dimensions = (2, 4)
    table = Table(
        f"Cost against d: {title}",
        ["d", "parameters", "steps", "fit, seconds", f"{_N_SAMPLES} samples, seconds",
         f"{_N_POINTS} log densities, seconds", "certified KL", "KL(fit, true)", "NLL"],
        [],
    )  # fmt: skip
    done: dict[str, list] = {"fit": [], "a step": [], "sampling": [], "log density": []}
    reached = []
    for d in dimensions:
        problem = problems.load(name.format(d=d), d=d)
        law, seconds, failure = timed_fit(problem, options)
        if law is not None:
            found, failure = attempt(_uses, problem, law, options)
        if failure is not None:
            empty = [""] * (len(table.columns) - 4)
            table.rows.append([str(d), failure, "", number(seconds, "seconds"), *empty])
            continue
        sampling, density, errors = found
        steps = max(law.info["steps"], 1)
        reached.append(d)
        for key, value in zip(done, (seconds, seconds / steps, sampling, density), strict=True):
            done[key].append(value)
        table.rows.append(
            [str(d), str(law.info["parameters"]), str(steps), number(seconds, "seconds"),
             number(sampling, "seconds"), number(density, "seconds"),
             number(float(law.certificate.kl())), number(errors.get("kl_fit_true")),
             number(errors.get("nll"), "nll")]
        )  # fmt: skip
    table.notes += [
        exponents(f"Seconds of {key} against d", exponent(reached, values))
        for key, values in done.items()
    ]
    return table


def _uses(problem, law, options):
    """Seconds of sampling and of densities, and the errors at the horizon."""
    sampling, x = _clock(lambda: law.fit.sample(_N_SAMPLES, random_state=0))
    density, _ = _clock(lambda: law.fit.log_density(x[:_N_POINTS]))
    return sampling, density, measure(problem, law, problem.t_final, options.references)


def _clock(work):
    """Seconds of the faster of two runs, and the result."""
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result
