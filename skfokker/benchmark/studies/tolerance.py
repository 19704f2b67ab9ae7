"""Error against wall time and against ``tol``."""

from __future__ import annotations

from ... import problems
from ..measures import measure
from ..tables import Table, number
from .common import StudyOptions, exponent, exponents, timed_fit

_TOLERANCES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
_PROBLEMS = ("quadratic-10d", "styblinski-tang-10d", "rosenbrock-2d")


def tolerance(options: StudyOptions) -> list[Table]:
    """One table a problem: ``tol``, seconds, steps, true and certified KL at the horizon."""
    names = ("quadratic-2d-iso",) if options.quick else _PROBLEMS
    tolerances = _TOLERANCES[:3] if options.quick else _TOLERANCES
    return [_table(problems.load(name), tolerances, options) for name in names]


def _table(problem, tolerances, options):
    t = problem.t_final
    table = Table(
        f"Error, wall time and tol: {problem.name}, t = {t:g}",
        ["tol", "seconds", "steps", "parameters", "KL(fit, true)", "certified KL"],
        [],
    )
    tols, seconds, errors = [], [], []
    for tol in tolerances:
        law, spent, failure = timed_fit(problem, options, tol=tol)
        if law is None:
            table.rows.append([f"{tol:.0e}", number(spent, "seconds"), failure, "", "", ""])
            continue
        error = measure(problem, law, t, options.references).get("kl_fit_true")
        tols, seconds, errors = [*tols, tol], [*seconds, spent], [*errors, error]
        table.rows.append(
            [f"{tol:.0e}", number(spent, "seconds"), str(law.info["steps"]),
             str(law.info["parameters"]), number(error), number(law.certificate.kl(t))]
        )  # fmt: skip
    table.notes += [
        exponents("KL against tol", exponent(tols, errors)),
        exponents("KL against seconds", exponent(seconds, errors)),
        exponents("Seconds against tol", exponent(tols, seconds)),
    ]
    return table
