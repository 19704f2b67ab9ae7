"""Evidence, weights and chains against laws known in closed form."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t
from torch.distributions import MultivariateNormal

from skfokker.bayes import (
    Posterior,
    bridge_evidence,
    importance_evidence,
    laplace,
    loo,
    rhat,
    sample_posterior,
)
from skfokker.bayes.metropolis import metropolis_states
from skfokker.potentials import Funnel, Quadratic


def normal(mean, covariance):
    as64 = {"dtype": torch.float64}
    return MultivariateNormal(torch.tensor(mean, **as64), torch.tensor(covariance, **as64))


@pytest.fixture(scope="module")
def off_target():
    """A Gaussian target with log Z = 3 under a proposal that is off in mean and width."""
    target = normal([1.0, 0.0], [[1.0, 0.3], [0.3, 0.5]])

    def potential(x):
        return -target.log_prob(x) - 3.0

    return Posterior(potential, normal([0.7, 0.2], [[1.3, 0.0], [0.0, 0.8]]), 8000, random_state=0)


def test_evidence_of_a_gaussian(off_target):
    for estimate in (off_target.log_evidence, off_target.bridge()):
        assert abs(estimate.value - 3.0) < 4 * estimate.error
        assert 0 < estimate.error < 0.02
    assert off_target.elbo.value < 3.0 - 0.05
    assert off_target.reliable and 0.5 < off_target.efficiency < 1


def test_moments_after_weighting(off_target):
    mean, sd = off_target.mean()["x"], off_target.sd()["x"]
    np.testing.assert_allclose(mean, [1, 0], atol=0.05)
    np.testing.assert_allclose(sd, np.sqrt([1, 0.5]), rtol=0.05)
    np.testing.assert_allclose(off_target.covariance()[0, 1], 0.3, atol=0.05)
    value, error = off_target.expectation(lambda draws: draws["x"][:, 0] ** 2)
    assert abs(value - 2.0) < 4 * error
    resampled = off_target.resample(20000)
    np.testing.assert_allclose(resampled.mean(0), [1, 0], atol=0.05)


def test_independence_metropolis_has_the_target_as_its_law(off_target):
    chains = off_target.independence_metropolis(20000, 5)
    assert chains.draws.shape == (5, 4000, 2)
    assert 0.5 < chains.acceptance < 0.95
    assert (chains.rhat < 1.01).all() and "agree" in str(chains)
    np.testing.assert_allclose(chains.flat.mean(0), [1, 0], atol=0.05)
    np.testing.assert_allclose(np.cov(chains.flat.T), [[1, 0.3], [0.3, 0.5]], atol=0.07)


def test_independence_metropolis_is_exact_on_a_finite_set():
    # proposals from q on three states; detailed balance makes p stationary
    rng = np.random.default_rng(0)
    q, p = np.array([0.6, 0.3, 0.1]), np.array([0.2, 0.3, 0.5])
    state = rng.choice(3, size=(200, 3000), p=q)
    chosen, acceptance = metropolis_states(np.log(p / q)[state], rng.uniform(size=state.shape))
    visited = np.take_along_axis(state, chosen, 1)[:, 100:]
    np.testing.assert_allclose(np.bincount(visited.ravel()) / visited.size, p, atol=0.01)
    accepted = (q[:, None] * p[None] * np.minimum(1, (p / q)[:, None] / (p / q)[None])).sum()
    # the expected share, less the proposals equal to nothing new
    assert acceptance == pytest.approx(accepted, abs=0.05)


def test_bridge_has_errors_of_the_right_size():
    rng = np.random.default_rng(1)
    values, errors = [], []
    for _ in range(100):  # q = N(0, 1), p = N(1/2, 1/2) with Z = e
        x, y = rng.normal(size=500), 0.5 + np.sqrt(0.5) * rng.normal(size=500)

        def ratio(x):
            return 1 + 0.5 * math.log(2) - (x - 0.5) ** 2 + 0.5 * x**2

        estimate = bridge_evidence(ratio(x), ratio(y))
        values.append(estimate.value)
        errors.append(estimate.error)
    assert np.mean(values) == pytest.approx(1, abs=0.01)
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.3)


def test_bridge_without_overlap_says_so():
    with pytest.raises(RuntimeError, match="hardly overlap"):
        bridge_evidence(np.full(100, -800.0), np.full(100, 800.0), max_iterations=3)


def test_importance_evidence_of_equal_ratios():
    assert importance_evidence(np.full(50, 2.0)) == pytest.approx((2.0, 0.0), abs=1e-12)


def test_conjugate_linear_regression_is_exact():
    """Normal prior, known noise: evidence and posterior in closed form, means of 50."""
    rng = np.random.default_rng(0)
    X = np.c_[np.ones(40), rng.normal(size=(40, 2)) * [1.0, 100.0]]
    y = X @ [50.0, -2.0, 0.003] + 0.5 * rng.normal(size=40)
    prior, noise = 100.0, 0.5
    covariance = np.linalg.inv(X.T @ X / noise**2 + np.eye(3) / prior**2)
    mean = covariance @ X.T @ y / noise**2
    law = normal(np.zeros(40), noise**2 * np.eye(40) + prior**2 * X @ X.T)
    evidence = float(law.log_prob(torch.from_numpy(y)))
    X_, y_ = torch.from_numpy(X), torch.from_numpy(y)

    def log_density(b):
        fit = torch.distributions.Normal(b @ X_.T, noise).log_prob(y_).sum(1)
        return fit + torch.distributions.Normal(0.0, prior).log_prob(b).sum(1)

    posterior = sample_posterior(log_density, 3, random_state=0)
    assert posterior.log_evidence.value == pytest.approx(evidence, abs=1e-3)
    assert posterior.bridge().value == pytest.approx(evidence, abs=1e-3)
    assert posterior.efficiency > 0.999
    sd = np.sqrt(np.diag(covariance))
    assert (np.abs(posterior.mean()["x"] - mean) / sd < 0.07).all()
    np.testing.assert_allclose(posterior.sd()["x"], sd, rtol=0.07)

    draws = posterior.x
    log_likelihood = np.stack(
        [
            -0.5 * ((y - X @ b) / noise) ** 2 - math.log(noise * math.sqrt(2 * math.pi))
            for b in draws
        ]
    )
    found = loo(log_likelihood, posterior)
    hat = np.diag(X @ covariance @ X.T) / noise**2  # leave-one-out in closed form
    loo_mean, loo_var = (y - X @ mean) / (1 - hat), noise**2 / (1 - hat)
    exact = -0.5 * loo_mean**2 / loo_var - 0.5 * np.log(2 * math.pi * loo_var)
    np.testing.assert_allclose(found["pointwise"], exact, atol=0.05)
    assert (found["k"] < 0.7).all()


def test_a_proposal_that_misses_the_tails_is_reported():
    t = multivariate_t(np.zeros(2), np.eye(2), df=1)

    def potential(x):
        return torch.from_numpy(-np.atleast_1d(t.logpdf(x.numpy())))

    posterior = Posterior(potential, normal([0.0, 0.0], np.eye(2)), random_state=0)
    assert not posterior.reliable
    assert "do not use" in str(posterior) and "not to be trusted" in str(posterior)


def test_funnel_under_its_best_gaussian_warns():
    found = laplace(Funnel(10), random_state=0)
    posterior = Posterior(
        Funnel(10),
        MultivariateNormal(
            torch.from_numpy(found.modes[0]), scale_tril=torch.from_numpy(found.roots[0])
        ),
        random_state=0,
    )
    assert posterior.k > 0.7
    assert "do not use" in str(posterior)
    check = posterior.forward_check(300, 300)
    assert check.drifted and "NOT stationary" in str(posterior)


def test_forward_check_of_exact_draws_is_quiet():
    target = Quadratic([1.0, -2.0], [[2.0, 0.5], [0.5, 1e-4 + 0.125]])
    law = MultivariateNormal(
        torch.tensor([1.0, -2.0]).double(), torch.tensor([[2.0, 0.5], [0.5, 0.1251]]).double()
    )
    posterior = Posterior(target, law, random_state=0)
    check = posterior.forward_check(400, 100)
    assert not check.drifted and check.moved == 0 and len(check.modes) == 1
    assert 0.4 < check.acceptance < 0.75


def test_draws_are_reproducible_and_streams_differ(off_target):
    again = Posterior(off_target.potential, off_target.law, 8000, random_state=0)
    np.testing.assert_array_equal(again.x, off_target.x)
    other = off_target.independence_metropolis(100, random_state=1)
    assert not np.isin(other.flat, off_target.x).any()
    assert rhat(other.draws[:, :, 0]) < 1.3


def test_few_draws_are_refused(off_target):
    with pytest.raises(ValueError, match="at least 25"):
        Posterior(off_target.potential, off_target.law, 3)
