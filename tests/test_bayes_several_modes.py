"""Many modes: found, weighed, proposed from; sums over coordinates; what was lost is said."""

import itertools
import warnings

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from skfokker.bayes import DefensiveLaw, FreeEnergyDescent, Posterior, PosteriorSampler, laplace
from skfokker.bayes.laplace import Laplace
from skfokker.bayes.mixture_law import best_share
from skfokker.bayes.modes import MOST_MODES
from skfokker.bayes.separable import coordinate_draws, is_separable
from skfokker.benchmark.studies import STUDIES, StudyOptions
from skfokker.flows import AutogradLinearization, ScaleFlow
from skfokker.potentials import EightModes, Funnel, GaussianMixture, ManyWell

GRID = np.array(list(itertools.product([-10.0, -5.0, 0.0, 5.0, 10.0], repeat=2)))


def test_all_modes_of_a_grid_are_found_from_eight_starts():
    found = laplace(GaussianMixture(GRID, 0.3), random_state=0)
    order = np.lexsort(found.modes.round().T[::-1])
    np.testing.assert_allclose(found.modes[order], GRID, atol=1e-3)
    np.testing.assert_allclose(found.shares, 1 / 25, atol=1e-3)


def test_modes_that_are_gaussian_need_no_flow():
    sampler = PosteriorSampler(random_state=0).fit(EightModes(0.005))
    assert sampler.estimator_ is None and not sampler.separable_
    posterior = sampler.posterior(4000)
    assert posterior.efficiency > 0.99 and abs(posterior.log_evidence.value) < 1e-3


def test_sums_over_coordinates_are_integrated_one_by_one():
    target = ManyWell(4)
    points = 3 * np.random.default_rng(0).normal(size=(100, 4))
    assert is_separable(target, points) and is_separable(GaussianMixture(GRID, 0.3), points[:, :2])
    assert not is_separable(Funnel(4), points)
    apart = GaussianMixture([[-8.0, 0.0], [8.0, 1.0]], 0.5)  # additive inside either mode
    assert not is_separable(apart, points[:, :2] / 3 + np.repeat([[8.0, 1.0], [-8.0, 0.0]], 50, 0))
    x = coordinate_draws(target, torch.zeros(4).double(), torch.ones(4).double(), 4096, 0)
    assert (x[:, 0] > 0).mean() == pytest.approx(target.right_probability, abs=2e-4)
    np.testing.assert_allclose(x[:, 1].std(), 1, atol=1e-3)
    target = ManyWell(2)
    sampler = PosteriorSampler(random_state=0, tolerance=1e-2).fit(target)
    assert sampler.separable_
    posterior = sampler.posterior(4000)
    gap = posterior.log_evidence.value - target.log_normalizer
    assert abs(gap) < 4 * posterior.log_evidence.error < 0.05
    assert posterior.efficiency > 0.9
    right = posterior.weights @ (posterior.x[:, ::2] > 0)
    np.testing.assert_allclose(right, target.right_probability, atol=0.04)


def law(mean, sd):
    return Independent(Normal(torch.tensor([mean]).double(), sd), 1)


def test_the_best_share_is_the_mixture_itself():
    a, b = law(-2.0, 1.0), law(3.0, 0.5)
    for share in (0.3, 0.8):
        target = DefensiveLaw(a, b, share)
        torch.manual_seed(0)
        assert best_share(lambda x, q=target: -q.log_prob(x), a, b) == pytest.approx(share)
    torch.manual_seed(0)
    assert best_share(lambda x: -b.log_prob(x), a, b) == 1.0


def test_a_start_at_one_of_25_modes_loses_24_and_the_report_says_so():
    sampler = PosteriorSampler(
        scheme=FreeEnergyDescent(max_iterations=100), start=([0.0, 0.0], 0.3), random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        posterior = sampler.fit(GaussianMixture(GRID, 0.3)).posterior(2000)
    assert sampler.laplace_ is None and posterior.reliable  # k sees nothing
    assert posterior.log_evidence.value == pytest.approx(-np.log(25), abs=0.02)
    assert str(posterior).count("LOST MODE") == 24


def test_a_search_that_was_cut_short_says_so():
    n = MOST_MODES
    modes = np.arange(n)[:, None] * 10.0
    found = Laplace(modes, np.ones((n, 1, 1)), np.zeros(n), np.ones(n, dtype=bool))
    posterior = Posterior(lambda x: 0.5 * x[:, 0] ** 2, law(0.0, 1.1), laplace=found)
    assert f"stopped at {n}" in str(posterior)


def test_weights_without_variance_void_the_error_of_the_evidence():
    """p is N(0, 1), q has tails so light that k = 1 - 0.62^2 = 0.62."""

    def potential(x):
        return 0.5 * x[:, 0].square()

    k = []
    for seed in range(3):
        posterior = Posterior(potential, law(0.0, 0.62**0.5), 20000, random_state=seed)
        k.append(posterior.k)
        assert ("NO error bar" in str(posterior)) == (posterior.reliable and posterior.k > 0.5)
    assert max(k) > 0.25
    fine = Posterior(potential, law(0.0, 1.1), 4000, random_state=0)
    assert "NO error bar" not in str(fine) and fine.unseen < 1e-3


def test_scale_flow():
    d, flow = 4, ScaleFlow()
    matrix = torch.zeros(d, d).double()
    matrix[1:, 0] = 1.5  # of the funnel, whose first coordinate has scale 3
    theta = matrix[tuple(torch.tril_indices(d, d, -1))]
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(6, d)))
    x, log_det = flow.forward(theta, z)
    law = Normal(0.0, 1.0).log_prob(z).sum(1) - log_det - np.log(3)
    neck = 20 * torch.tanh(1.5 * z[:, :1] / 20) * 2  # 3 z_0 but for the bound
    exact = -Funnel(d)(torch.cat([neck, x[:, 1:]], 1))
    exact = exact + ((neck / 3)[:, 0].square() - z[:, 0].square()) / 2
    torch.testing.assert_close(law, exact)
    far = torch.tensor([[-300.0, 1.0, 1.0, 1.0], [300.0, 1.0, 1.0, 1.0]]).double()
    assert all(torch.isfinite(a).all() for a in flow.inverse(theta, far))

    theta = 0.4 * torch.from_numpy(np.random.default_rng(1).normal(size=flow.n_parameters(d)))
    v = torch.from_numpy(np.random.default_rng(2).normal(size=(6, d)))
    y, log_det = flow.forward(theta, z)
    back, minus = flow.inverse(theta, y)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(minus, -log_det)
    ours, theirs = flow.linearize(theta, z), AutogradLinearization(flow, theta, z)
    for name in ("solve", "solve_transposed", "push_score"):
        torch.testing.assert_close(getattr(ours, name)(v), getattr(theirs, name)(v))
    for name in ("vjp", "jacobian"):
        arguments = (v,) if name == "vjp" else ()
        for mine, other in zip(
            getattr(ours, name)(*arguments), getattr(theirs, name)(*arguments), strict=True
        ):
            torch.testing.assert_close(mine, other)
    tangent = torch.ones_like(theta)
    torch.testing.assert_close(ours.jvp(tangent, v), theirs.jvp(tangent, v))


def test_study_prints_what_was_lost():
    (table,) = STUDIES["sampling"](StudyOptions(quick=True))
    rows = {row[0]: row for row in table.rows}
    assert rows["eight modes"][6] == "0 of 8" and rows["eight modes"][8] == "reliable"
    assert rows["25-Gaussian grid, from one"][6] == "24 of 25"
    assert rows["25-Gaussian grid, from one"][8] == "24 lost modes"
