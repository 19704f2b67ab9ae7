"""Pareto smoothing and R-hat against ArviZ, and the laws they obey."""

import warnings

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import genpareto

from skfokker.bayes import effective_draws, psis, rhat
from skfokker.bayes.psis import effective_sample_size, fit_generalized_pareto, reliable_k
from skfokker.bayes.report import verdict


def weight_sets(sizes):
    rng = np.random.default_rng(0)
    for i in range(24):
        n = int(rng.choice(sizes))
        yield [
            rng.normal(size=n) * rng.uniform(0.1, 4),
            rng.standard_t(3, size=n) * 2 - 300,
            rng.uniform(-0.5, 0.7) * (rng.normal(size=(n, 5)) ** 2).sum(1),
            rng.exponential(rng.uniform(0.1, 2), size=n) + 700,
        ][i % 4]


def import_quietly(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name)


def test_psis_is_that_of_arviz():
    arviz = import_quietly("arviz")
    if not hasattr(arviz, "psislw"):
        pytest.skip("this ArviZ has no psislw: arviz_stats has, below")
    for ratios in weight_sets([100, 333, 1000, 4000]):
        smoothed, k = psis(ratios)
        expected, expected_k = arviz.psislw(ratios.copy())  # takes + log weights
        np.testing.assert_allclose(smoothed, expected, atol=1e-9)
        assert k == pytest.approx(float(expected_k), abs=1e-9)


def test_psis_is_that_of_arviz_stats():
    array_stats = import_quietly("arviz_stats.base").array_stats
    # it rounds the length of the tail down, the paper up: they agree where it is whole
    for ratios in weight_sets([100, 400, 900, 2500]):
        smoothed, k = psis(ratios)
        expected, expected_k = array_stats.psislw(-ratios)  # takes - log weights
        np.testing.assert_allclose(smoothed, expected - logsumexp(expected), atol=1e-6)
        assert k == pytest.approx(float(expected_k), abs=1e-6)


def test_rhat_is_that_of_arviz():
    arviz = import_quietly("arviz")
    chains = np.random.default_rng(0).normal(size=(4, 501, 3))
    chains[0, :, 1] += 0.2
    chains[:, 1:, 2] = 0.9 * chains[:, :-1, 2] + 0.1 * chains[:, 1:, 2]
    for j in range(3):
        assert rhat(chains)[j] == pytest.approx(float(arviz.rhat(chains[..., j])), abs=1e-9)
        assert effective_draws(chains)[j] == pytest.approx(
            float(arviz.ess(chains[..., j])), rel=0.1
        )


def test_weights_are_normalised_and_ordered_as_the_ratios():
    for ratios in weight_sets([50, 1000]):
        smoothed, _ = psis(ratios)
        assert logsumexp(smoothed) == pytest.approx(0, abs=1e-10)
        assert (np.diff(smoothed[np.argsort(ratios)]) >= -1e-10).all()
        shifted, _ = psis(ratios + 17.0)
        np.testing.assert_allclose(shifted, smoothed, atol=1e-9)


def test_sign_a_proposal_too_narrow_has_a_large_k_one_too_wide_a_small():
    x = np.random.default_rng(1).normal(size=4000)
    narrow = -0.5 * x**2 / 4 + 0.5 * x**2  # p is twice as wide as q: k -> 1 - (1/2)^2
    wide = -0.5 * x**2 * 4 + 0.5 * x**2
    assert psis(narrow)[1] > 0.55
    assert psis(wide)[1] < 0


def test_gpd_fit_finds_the_shape():
    for shape in (-0.3, 0.2, 0.8):
        x = np.sort(genpareto.rvs(shape, scale=2.0, size=20000, random_state=0))
        k, scale = fit_generalized_pareto(x)
        assert k == pytest.approx(shape, abs=0.03)
        assert scale == pytest.approx(2.0, rel=0.05)


def test_degenerate_sets():
    log_weights, k = psis(np.full(100, 3.0))
    assert k == -np.inf and np.allclose(log_weights, -np.log(100))
    outside = np.full(100, -np.inf)
    outside[:3] = [0.0, 1.0, 2.0]
    log_weights, k = psis(outside)
    assert k == np.inf and logsumexp(log_weights) == pytest.approx(0)
    assert psis(np.r_[np.random.default_rng(0).normal(size=900), np.full(100, -np.inf)])[1] < 0.7
    assert effective_sample_size(np.zeros(50)) == pytest.approx(50)


@pytest.mark.parametrize(
    ("ratios", "message"),
    [
        (np.full(10, -np.inf), "no draw lies in the support"),
        (np.r_[0.0, np.nan], "1 NaN"),
        (np.r_[0.0, np.inf], r"1 \+inf"),
        (np.zeros((3, 4)), r"\(3, 4\)"),
    ],
)
def test_refusals_say_what_is_wrong(ratios, message):
    with pytest.raises(ValueError, match=message):
        psis(ratios)


def test_rhat_of_chains_that_disagree():
    chains = np.random.default_rng(0).normal(size=(4, 500))
    assert rhat(chains) < 1.01
    chains[0] += 1
    assert rhat(chains) > 1.1
    scale = np.random.default_rng(0).normal(size=(4, 500))
    scale[0] *= 3  # seen by the folded half only
    assert rhat(scale) > 1.1
    with pytest.raises(ValueError, match="at least 4 draws"):
        rhat(np.zeros((4, 3)))


def test_verdict_in_words():
    assert "reliable" in verdict(0.31, 4000)
    assert "more than these 100 draws" in verdict(0.6, 100)
    assert verdict(0.9, 4000).startswith("k = 0.90: do not use")
    assert "need not converge" in verdict(1.2, 4000)
    assert "exact" in verdict(-np.inf, 4000)
    assert reliable_k(10**6) == 0.7
