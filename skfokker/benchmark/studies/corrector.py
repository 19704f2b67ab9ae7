"""The particle corrector, on and off: likelihood of particles it has not seen, bound, seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ... import problems
from ...corrector import ParticleCorrector
from ...flows import AffineFlow, Composition, Inverse, MixtureFlow, TriangularFlow
from ...flows.base import Flow
from ...potentials import GaussianMixture
from ...problems import Problem
from ...schemes import Scheme, SemiImplicitNested
from ..tables import Table, number
from .common import StudyOptions, timed_fit

_LONG = SemiImplicitNested(0.02)  # coupled maps in fewer steps than by default, which take minutes


def _triangular() -> Flow:
    up, down = TriangularFlow(4), TriangularFlow(4, reverse=True)
    return Composition([Inverse(up), Inverse(down), AffineFlow()])


def _two_modes() -> Problem:
    potential = GaussianMixture([[-2.0, 0.0], [2.0, 0.5]], [1.0, 0.5], [0.4, 0.6])
    return Problem("mixture-2d", potential, 1.0, 1.0, (1.0,), langevin_steps=1000)


def _cases(quick: bool) -> list[tuple[Problem, Callable[[], Flow], Scheme | None]]:
    if quick:
        return [(replace(_two_modes(), t_final=0.2, times=(0.2,)), AffineFlow, None)]
    rosenbrock = replace(problems.load("rosenbrock-10d", d=4), name="rosenbrock-4d")
    rosenbrock = replace(rosenbrock, t_final=0.2, times=(0.2,))
    return [
        (rosenbrock, AffineFlow, None),
        (rosenbrock, _triangular, _LONG),
        (_two_modes(), AffineFlow, None),
        (_two_modes(), _triangular, _LONG),
        (_two_modes(), lambda: MixtureFlow(2), None),
    ]


def corrector(options: StudyOptions) -> list[Table]:
    """One row a problem and family: at the horizon, without and with the corrector."""
    spec = ParticleCorrector(n_particles=2000, n_times=1) if options.quick else ParticleCorrector()
    table = Table(
        "Particle corrector: the march, and the march polished by maximum likelihood",
        ["problem", "family", "parameters", "accepted", "NLL before", "NLL after", "gain",
         "certified KL before", "after", "seconds before", "after"],
        [],
        ["NLL of particles simulated apart from those of the corrector; the gain is the mean "
         "difference over them, with its standard error."],
    )  # fmt: skip
    for problem, family, scheme in _cases(options.quick):
        flow = family()
        name = " + ".join(type(getattr(p, "flow", p)).__name__ for p in _parts(flow))
        head = [f"{problem.name}, t = {problem.t_final:g}", name, str(flow.n_parameters(problem.d))]
        fits = [
            timed_fit(problem, options, flow=family(), scheme=scheme, corrector=c)
            for c in (None, spec)
        ]
        if any(law is None for law, _, _ in fits):
            failure = next(failure for law, _, failure in fits if law is None)
            table.rows.append([*head, failure.splitlines()[0][:60], *[""] * 7])
            continue
        particles = options.references.particles(problem, problem.t_final)
        old, new = (law.log_density(particles, problem.t_final) for law, _, _ in fits)
        error = (new - old).std() / np.sqrt(len(old))
        done = fits[1][0].fit.correction_
        accepted = "failed" if done is None else f"{done.accepted.sum()} of {len(done.times)}"
        table.rows.append(
            [*head, accepted, number(-old.mean(), "nll"), number(-new.mean(), "nll"),
             f"{(new - old).mean():.1e} +- {error:.0e}",
             *(number(law.certificate.kl()) for law, _, _ in fits),
             *(number(seconds, "seconds") for _, seconds, _ in fits)]
        )  # fmt: skip
    return [table]


def _parts(flow: Flow):
    return getattr(flow, "layers", [flow])
