"""Error against wall time and against ``tol``."""

from __future__ import annotations

from ... import problems
from ..measures import measure
from ..tables import Table, number
from .common import StudyOptions, attempt, exponent, exponents, timed_fit

_TOLERANCES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
_PROBLEMS = ("quadratic-10d", "styblinski-tang-10d", "rosenbrock-2d", "quartic-2d")


def tolerance(options: StudyOptions) -> list[Table]:
    """One table a problem: ``tol``, seconds, steps, true and certified errors at the horizon."""
    names = ("quadratic-2d-iso",) if options.quick else _PROBLEMS
    tolerances = _TOLERANCES[:3] if options.quick else _TOLERANCES
    return [_table(problems.load(name), tolerances, options) for name in names]


def _table(problem, tolerances, options):
    t = problem.t_final
    table = Table(
        f"Error, wall time and tol: {problem.name}, t = {t:g}",
        ["tol", "seconds", "steps", "parameters", "KL(fit, true)", "KL(true, fit)",
         "certified KL", "total variation", "certified TV"],
        [],
    )  # fmt: skip
    tols, seconds, errors = [], [], []
    for tol in tolerances:
        law, spent, failure = timed_fit(problem, options, tol=tol)
        head = [f"{tol:.0e}", number(spent, "seconds")]
        if law is not None:
            found, failure = attempt(_errors, problem, law, t, options)
        if failure is not None:
            table.rows.append([*head, failure, *[""] * (len(table.columns) - 3)])
            continue
        error = found.get("kl_fit_true")
        tols, seconds, errors = [*tols, tol], [*seconds, spent], [*errors, error]
        table.rows.append(
            [*head, str(law.info["steps"]), str(law.info["parameters"]), number(error),
             *(number(found.get(key)) for key in ("kl_true_fit", "certificate", "tv",
                                                  "certified_tv"))]
        )  # fmt: skip
    table.notes += [
        exponents("KL against tol", exponent(tols, errors)),
        exponents("KL against seconds", exponent(seconds, errors)),
        exponents("Seconds against tol", exponent(tols, seconds)),
    ]
    return table


def _errors(problem, law, t, options) -> dict:
    bounds = {
        "certificate": float(law.certificate.kl(t)),
        "certified_tv": float(law.certificate.total_variation(t)),
    }
    return measure(problem, law, t, options.references) | bounds
