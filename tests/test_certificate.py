"""The certificate lies above the truth, and is not vacuous."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from skfokker import ParametricFokkerPlanck, metrics, problems
from skfokker.flows import AffineFlow
from skfokker.schemes.least_squares import LeastSquaresNested
from skfokker.schemes.points import sobol_normal, tail_normal


@pytest.fixture(scope="module")
def crude():
    """A march with large time steps: its error is that of the discretisation."""
    problem = problems.load("quadratic-2d-iso")
    scheme = LeastSquaresNested(1e-2, max_step=0.2)
    fit = ParametricFokkerPlanck(scheme=scheme, random_state=0).fit(problem.potential, 0.7)
    return problem, fit


def test_above_the_true_error_of_the_time_steps(crude):
    problem, fit = crude
    truths = [metrics.kl_to_exact(fit, problem, t) for t in (0.1, 0.35, 0.7)]
    assert max(truths) > 1e-8
    for t, truth in zip((0.1, 0.35, 0.7), truths, strict=True):
        assert truth <= fit.certificate_.kl(t)


def test_above_the_true_error_of_a_family_that_is_too_small():
    """Gaussians for a double well: the bound must see what the family cannot do."""
    problem = problems.load("styblinski-tang-1d")
    fit = ParametricFokkerPlanck(AffineFlow(), tol=10, random_state=0).fit(problem.potential, 1.0)
    truth = metrics.kl_to_exact(fit, problem, 1.0)
    assert truth > 0.05
    assert truth <= fit.certificate_.kl(1.0)
    assert fit.certificate_.total_variation() <= 1


def test_tight_where_the_family_is_good():
    problem = problems.load("styblinski-tang-1d")
    fit = ParametricFokkerPlanck(random_state=0).fit(problem.potential, 1.0)
    assert metrics.kl_to_exact(fit, problem, 1.0) <= fit.certificate_.kl(1.0) < 1e-4


def test_w2_bound_of_a_convex_potential(crude):
    problem, fit = crude
    assert fit.certificate_.convexity == pytest.approx(4.0)
    for t in (0.1, 0.7):
        mean, covariance = metrics.moments(fit, t)
        exact_mean, exact_covariance = problem.moments(t)
        root = np.sqrt(np.diag(covariance)) - np.sqrt(np.diag(exact_covariance))
        w2 = np.sqrt(np.sum((mean - exact_mean) ** 2) + np.sum(root**2))  # commuting Gaussians
        assert w2 <= fit.certificate_.w2(t)


def test_no_constant_no_w2_bound():
    problem = problems.load("styblinski-tang-1d")
    fit = ParametricFokkerPlanck(random_state=0).fit(problem.potential, 0.1)
    with pytest.raises(ValueError, match="convexity"):
        fit.certificate_.w2()


def test_readable_and_monotone(crude):
    _, fit = crude
    certificate = fit.certificate_
    assert "KL(fit | exact) <=" in str(certificate) and "at t = 0.7 (95 %)" in str(certificate)
    times = np.linspace(0, 0.7, 50)
    values = replace(certificate, log_sobolev=None).kl(times)
    assert (np.diff(values) >= 0).all() and values[0] >= 0
    assert (certificate.kl(times) <= values).all()  # a convex potential forgets
    assert certificate.kl(0.7) < 0.5 * values[-1]
    assert certificate.kl(0.7, confidence=0.99) > certificate.kl(0.7) > 0
    with pytest.raises(ValueError, match="certified span"):
        certificate.kl(0.8)


def test_continuation_certifies_the_whole_span():
    problem = problems.load("quadratic-2d-iso")
    fit = ParametricFokkerPlanck(random_state=0, warm_start=True).fit(problem.potential, 0.3)
    first = fit.certificate_.kl()
    fit.fit(problem.potential, 0.6)
    assert fit.certificate_.times[0] == 0 and fit.certificate_.times[-1] == 0.6
    assert fit.certificate_.kl(0.6) >= fit.certificate_.kl(0.3)
    assert fit.certificate_.kl(0.3) < 10 * first + 1e-6


@pytest.mark.parametrize("d", [1, 10, 50])
def test_points_in_the_tails_are_unbiased_and_less_noisy_there(d):
    """Means of 1, |x|^2 and of an indicator of the tail, over 200 independent point sets."""
    far = stats.chi2.ppf(0.999, d)
    ours, plain = [], []
    for seed in range(200):
        x, weights = tail_normal(256, d, seed)
        size = x.square().sum(1)
        values = weights.sum(), weights @ size / d, weights @ (size > far).to(weights) / 1e-3
        ours.append([float(v) for v in values])
        plain.append(
            float((sobol_normal(256, d, seed).square().sum(1) > far).double().mean()) / 1e-3
        )
    error = np.std(ours, axis=0) / np.sqrt(len(ours))
    assert (np.abs(np.mean(ours, axis=0) - 1) < 4 * error + 1e-4).all()
    assert np.std([row[2] for row in ours]) < 0.5 * np.std(plain)
