"""tol drives the fit, and what could not be reached is said with the knob that would help."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

from skfokker import ParametricFokkerPlanck, problems
from skfokker.certificate import Certificate
from skfokker.equation import FokkerPlanck
from skfokker.fit import Fit
from skfokker.flows import AffineFlow, TriangularFlow
from skfokker.potentials import Rosenbrock, StyblinskiTang
from skfokker.schemes import LeastSquaresNested
from skfokker.solver import Solver
from skfokker.structure import Structure
from skfokker.tolerance import Diagnosis, Effort


@pytest.mark.slow
def test_a_smaller_tol_gives_a_smaller_certificate():
    potential = StyblinskiTang(1)
    loose = ParametricFokkerPlanck(random_state=0).fit(potential, 1.8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tight = ParametricFokkerPlanck(tol=2e-8, random_state=0).fit(potential, 1.8)
    assert tight.certificate_.kl(confidence=0.5) <= 2e-8 < loose.certificate_.kl(confidence=0.5)


def test_a_family_that_is_too_small_is_named():
    fit = ParametricFokkerPlanck(AffineFlow(), random_state=0)
    with pytest.warns(ConvergenceWarning, match="above tol=0.01.*family of maps.*n_hidden"):
        fit.fit(StyblinskiTang(1), 0.8)


def test_time_steps_that_are_too_long_are_named():
    problem = problems.load("quadratic-2d-iso")
    scheme = LeastSquaresNested(1e-1, max_step=0.35)
    fit = ParametricFokkerPlanck(scheme=scheme, tol=1e-9, random_state=0)
    with pytest.warns(ConvergenceWarning, match="time steps.*tolerance"):
        fit.fit(problem.potential, 0.7)
    assert np.isfinite(fit.sample(3, random_state=0)).all()


@pytest.mark.parametrize(
    "diagnosis, reached, expected",
    [
        (Diagnosis(1.0, 0.0, 0.0), 0.015, {"capacity": 2}),
        (Diagnosis(0.0, 1.0, 0.0), 0.015, {"n_samples": 2048}),
        (Diagnosis(0.0, 0.0, 1.0), 0.015, {"tolerance": 1e-4}),
        (Diagnosis(1.0, 0.0, 0.0), 0.03, None),  # three times tol: one refinement is not enough
        (Diagnosis(1.0, 0.0, 0.0), 0.009, None),  # tol is met
    ],
)
def test_coupled_fits_within_reach_of_tol_are_refined(monkeypatch, diagnosis, reached, expected):
    potential = Rosenbrock(2)
    solver = Solver(
        FokkerPlanck(potential, 1.0, 2),
        Structure(False, np.ones((2, 2), dtype=bool)),
        None,
        1.0,
        torch.device("cpu"),
        *(None, None, None, 0.01, 0),
    )
    monkeypatch.setattr(solver, "_diagnose", lambda fit: diagnosis)
    certificate = Certificate(np.array([0.0, 1.0]), np.array([4 * reached]), np.zeros(1), 1.0)
    fit = Fit(
        TriangularFlow(4), LeastSquaresNested(), None, [{"tolerance": 1e-3, "n_samples": 1024}], 0.0
    )
    fit.certificate = certificate
    effort = solver._next_effort(fit, Effort())
    if expected is None:
        assert effort is None
    else:
        assert effort == replace(Effort(level=1), **expected)
