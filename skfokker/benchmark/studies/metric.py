"""The metric (relaxed or projected) and the step (explicit or semi-implicit), each with each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from ... import problems
from ...equation import FokkerPlanck
from ...flows import AffineFlow, Composition, ElementwiseFlow, Inverse, PlanarFlow, TriangularFlow
from ...flows.base import Flow
from ...schemes import DualFeatures, LeastSquaresNested, SemiImplicitNested
from ...schemes.points import sobol_normal
from ...schemes.projected import Projection
from ..measures import measure
from ..tables import Table, number
from .common import StudyOptions, timed_fit

PAIRS = {
    ("relaxed", "explicit"): lambda h: LeastSquaresNested(),
    ("projected", "explicit"): lambda h: LeastSquaresNested(metric="projected"),
    ("relaxed", "semi-implicit"): lambda h: SemiImplicitNested(h),
    ("projected", "semi-implicit"): lambda h: SemiImplicitNested(h, "projected"),
}


def _triangular() -> Flow:
    spline, up, down = ElementwiseFlow(12), TriangularFlow(12), TriangularFlow(12, reverse=True)
    return Composition([Inverse(spline), Inverse(up), Inverse(down), AffineFlow()])


@dataclass(frozen=True)
class Case:
    """A problem, its horizon here, a family of maps, and the semi-implicit step."""

    problem: str
    t_final: float
    flow: Callable[[], Flow]
    step: float


CASES = (
    Case("quadratic-2d-aniso", 0.7, AffineFlow, 0.01),
    Case("quadratic-10d", 0.7, AffineFlow, 0.01),
    Case("quadratic-2d-iso", 0.7, lambda: PlanarFlow(10), 0.01),
    Case("rosenbrock-2d", 0.05, _triangular, 0.005),
)


def metric(options: StudyOptions) -> list[Table]:
    """One table a case: error at the horizon, certificate, its gradient part, seconds."""
    cases = (Case("quadratic-2d-aniso", 0.1, AffineFlow, 0.02),) if options.quick else CASES
    return [_table(case, options) for case in cases]


def _table(case: Case, options: StudyOptions) -> Table:
    problem = replace(problems.load(case.problem), t_final=case.t_final)
    flow = case.flow()
    m = flow.n_parameters(problem.d)
    families = " + ".join(_name(part) for part in getattr(flow, "layers", [flow]))
    exact = problem.has_density
    table = Table(
        f"Metric and step: {problem.name}, t = {case.t_final:g}, {families} ({m} parameters)",
        ["metric", "step", "KL(fit, true)" if exact else "NLL of particles", "certified KL",
         "gradient part", "steps", "seconds"],
        [],
    )  # fmt: skip
    for (metric_name, step), scheme in PAIRS.items():
        law, seconds, failure = timed_fit(
            problem, options, flow=case.flow(), scheme=scheme(case.step)
        )
        label = step if step == "explicit" else f"{step}, h = {case.step:g}"
        if law is None:
            short = failure.splitlines()[0][:60]
            table.rows.append([metric_name, label, short, "", "", "", number(seconds, "seconds")])
            continue
        if exact:
            error = number(measure(problem, law, case.t_final, options.references)["kl_fit_true"])
        else:
            particles = options.references.particles(problem, case.t_final)
            error = number(-float(np.mean(law.log_density(particles, case.t_final))), "nll")
        table.rows.append(
            [metric_name, label, error, number(law.certificate.kl()),
             number(gradient_part(law.fit)), str(law.info["steps"]), number(seconds, "seconds")]
        )  # fmt: skip
    table.notes.append(
        "The certificate holds for both metrics. The gradient part is the integral of the residual "
        "projected on the gradients of "
        f"{_JUDGES.n_features(problem.d)} dual features: all that matters for the law, as far as "
        "these features see. It is an estimate from below and bounds nothing."
    )
    return table


def _name(flow: Flow) -> str:
    inner = getattr(flow, "flow", flow)
    return type(inner).__name__


_JUDGES = DualFeatures(n_units=128, seed=1)


@torch.no_grad()
def gradient_part(fit, n_times: int = 40, n_samples: int = 2048) -> float:
    """1/(4 beta) int E|P r|^2 dt in nats, P the projection on gradients of dual features."""
    trajectory, d = fit._trajectory(), fit.n_features_in_
    equation = FokkerPlanck(fit.potential_, fit.beta, d)
    weights = torch.full((n_samples,), 1 / n_samples, dtype=torch.float64)
    ends = np.quantile(np.unique(trajectory.times), np.linspace(0, 1, n_times + 1))
    total = 0.0
    for k, (start, end) in enumerate(zip(ends[:-1], ends[1:], strict=True)):
        theta, dtheta = (torch.as_tensor(a) for a in trajectory.at((start + end) / 2))
        x = sobol_normal(n_samples, d, k)
        at = trajectory.flow.linearize(theta, x)
        residual = at.law_velocity(dtheta) + equation.driving_force(at.y, at.push_score(-x))
        nothing = torch.zeros_like(residual)
        span = Projection(_JUDGES.gradients(at.y, weights), nothing, weights, blend=0.0)
        total += (end - start) * float(span.project(residual).square().sum(1) @ weights)
    return total / (4 * fit.beta)
