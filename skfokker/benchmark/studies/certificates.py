"""Certified errors: from the whole residual alone, and from all that bounds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ... import problems
from ...certificate import Certificate
from ...flows import AffineFlow, Composition, ElementwiseFlow, Inverse, TriangularFlow
from ...flows.base import Flow
from ...potentials import GaussianMixture
from ...problems import Problem
from ...schemes import LeastSquaresNested, Scheme, SemiImplicitNested
from ..measures import measure
from ..tables import Table, number
from .common import StudyOptions, timed_fit


def _triangular() -> Flow:
    spline, up, down = ElementwiseFlow(12), TriangularFlow(12), TriangularFlow(12, reverse=True)
    return Composition([Inverse(spline), Inverse(up), Inverse(down), AffineFlow()])


def _two_wells() -> Problem:
    potential = GaussianMixture([[-2.0, 0.5], [2.0, -0.5]], weights=[0.3, 0.7])
    return Problem("two-wells-2d", potential, 1.0, 1.0, (1.0,))


@dataclass(frozen=True)
class Case:
    """A problem up to a horizon, and how it is marched; None leaves that to the default."""

    label: str
    problem: Callable[[], Problem]
    t_final: float
    flow: Callable[[], Flow] | None = None
    scheme: Callable[[], Scheme] | None = None


def _load(name: str) -> Callable[[], Problem]:
    return lambda: problems.load(name)


def _crude() -> Scheme:
    return LeastSquaresNested(1e-2, max_step=0.2)


CASES = (
    Case("long steps", _load("quadratic-2d-iso"), 0.7, None, _crude),
    Case("Gaussians", _load("double-well-1d"), 0.5, AffineFlow),
    Case("default", _load("styblinski-tang-1d"), 1.0),
    Case("mixture", _two_wells, 1.0),
    Case("mixture", _load("nine-gaussians"), 0.5),
    Case("triangular", _load("rosenbrock-2d"), 0.05, _triangular),
    Case("projected metric", _load("rosenbrock-2d"), 0.05, _triangular,
         lambda: LeastSquaresNested(metric="projected")),
    Case("semi-implicit", _load("rosenbrock-2d"), 0.05, _triangular,
         lambda: SemiImplicitNested(0.005)),
)  # fmt: skip


def certificates(options: StudyOptions) -> list[Table]:
    """One row a fit: the true error where it is known, and the bounds at the horizon."""
    cases = (replace(CASES[0], t_final=0.2),) if options.quick else CASES
    table = Table(
        "Certified errors at the horizon: from the whole residual alone, and all bounds together",
        ["problem", "march", "t", "KL(fit, true)", "KL, residual alone", "TV, residual alone",
         "KL", "TV", "KL of all but p", "p", "seconds"],
        [],
        ["Residual alone: KL(0) + 1/(4 beta) int E|r|^2, and Pinsker's inequality. KL and TV as "
         "certificate_ gives them, with L1 contraction, turning fields taken off, and convexity "
         "where that is known. p is the mass of components of next to no weight."],
    )  # fmt: skip
    for case in cases:
        table.rows.append(_row(case, options))
    return [table]


def _row(case: Case, options: StudyOptions) -> list[str]:
    problem = replace(case.problem(), t_final=case.t_final)
    chosen = {}
    if case.flow is not None:
        chosen["flow"] = case.flow()
    if case.scheme is not None:
        chosen["scheme"] = case.scheme()
    law, seconds, failure = timed_fit(problem, options, **chosen)
    row = [problem.name, case.label, f"{case.t_final:g}"]
    if law is None or law.certificate is None:  # the clock may stop either
        said = "no certificate" if law is not None else failure.splitlines()[0][:60]
        return [*row, said, *[""] * 6, number(seconds, "seconds")]
    error = ""
    if problem.has_density:
        error = number(measure(problem, law, case.t_final, options.references)["kl_fit_true"])
    certificate = law.certificate
    alone = residual_alone(certificate)
    main = certificate.main
    return [
        *row, error, number(alone.kl()), number(alone.total_variation()), number(certificate.kl()),
        number(certificate.total_variation()), "" if main is None else number(main.kl()),
        "" if main is None else number(float(certificate.left_out.max())),
        number(seconds, "seconds"),
    ]  # fmt: skip


def residual_alone(certificate: Certificate) -> Certificate:
    """What the whole residual certifies without anything else."""
    return replace(certificate, charged=None, imbalance=None, log_sobolev=None, main=None)
