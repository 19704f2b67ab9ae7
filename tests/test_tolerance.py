"""tol drives the fit, and what could not be reached is said with the knob that would help."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from skfokker import ParametricFokkerPlanck, problems
from skfokker.flows import AffineFlow
from skfokker.potentials import StyblinskiTang
from skfokker.schemes import LeastSquaresNested


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
