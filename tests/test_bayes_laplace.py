"""Modes, curvature and working coordinates."""

import warnings

import numpy as np
import pytest
import torch

from skfokker import ParametricFokkerPlanck
from skfokker.bayes import (
    DefensiveLaw,
    FreeEnergyDescent,
    Posterior,
    PosteriorSampler,
    Preconditioned,
    Preconditioner,
    Wall,
    laplace,
)
from skfokker.bayes.laplace import covariance_root
from skfokker.flows import AffineFlow
from skfokker.potentials import EightModes, Funnel, GaussianMixture, Quadratic


def test_exact_on_gaussians_of_any_scale():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(4, 4))
    scales = np.array([0.001, 15.0, 1.0, 0.1])
    covariance = (a @ a.T + np.eye(4)) * np.outer(scales, scales)
    mean = np.array([50.0, -200.0, 3.0, 0.0])
    found = laplace(Quadratic(mean, covariance), random_state=0)
    assert len(found.modes) == 1 and found.positive_definite.all()
    np.testing.assert_allclose(found.modes[0], mean, atol=1e-5 * scales.max())
    np.testing.assert_allclose(
        found.moments()[1] / np.outer(scales, scales),
        covariance / np.outer(scales, scales),
        rtol=1e-4,
        atol=1e-4,
    )
    log_z = 2 * np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(covariance)[1]
    assert found.log_masses[0] == pytest.approx(log_z, abs=1e-6)


def test_all_modes_are_found_and_weighed():
    mixture = GaussianMixture([[-5.0, 0.0], [5.0, 0.0]], 0.3, [0.8, 0.2])
    found = laplace(mixture, random_state=0, n_starts=12, spread=4.0)
    np.testing.assert_allclose(found.modes, [[-5, 0], [5, 0]], atol=1e-3)
    np.testing.assert_allclose(found.shares, [0.8, 0.2], atol=1e-3)
    mean, covariance = found.moments()
    np.testing.assert_allclose(mean, [-3, 0], atol=0.02)
    np.testing.assert_allclose(covariance[0, 0], 16 + 0.3, rtol=0.01)
    assert found.nearest(np.array([[4.0, 1.0], [-4.0, 1.0]])).tolist() == [1, 0]
    assert len(laplace(EightModes(), n_starts=60, random_state=0).modes) == 8


def test_a_density_without_a_mode_has_a_sensible_start():
    found = laplace(Funnel(10), random_state=0)  # its mode is at x_0 = -40
    assert np.abs(found.modes[0]).max() < 5
    assert found.log_masses[0] > -3


def test_indefinite_curvature_is_made_definite():
    root, definite = covariance_root(np.array([[1.0, 0.0], [0.0, -4.0]]))
    assert not definite
    np.testing.assert_allclose(root @ root.T, [[1, 0], [0, 0.25]], atol=1e-12)
    root, definite = covariance_root(np.diag([1.0, 0.0]))
    assert not definite and np.isfinite(root).all()


def test_everything_outside_is_said_clearly():
    def potential(x):
        return torch.where(x[:, 0] > 1e6, x.square().sum(1), torch.inf)

    with pytest.raises(ValueError, match="-inf or NaN at all 160 starting points.*starts="):
        laplace(potential, 2)


def test_preconditioned_density_is_the_same_density():
    rng = np.random.default_rng(0)
    target = Funnel(3)
    mean, root = rng.normal(size=3), np.linalg.cholesky(np.eye(3) + 0.3)
    potential = Preconditioned(target, mean, root)
    u = torch.from_numpy(rng.normal(size=(5, 3)))
    x = potential.to_x(u)
    torch.testing.assert_close(potential.to_u(x), u)
    value, gradient = potential.value_and_grad(u)
    torch.testing.assert_close(value, target(x) - np.log(np.diag(root)).sum())
    u.requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(potential(u).sum(), u)[0], gradient)
    with pytest.raises(ValueError, match="positive diagonal"):
        Preconditioned(target, mean, -root)(u)


def test_preconditioning_maps_laws_and_marches_back():
    """Means of 50, scales from 0.001 to 15: N(0, I) in working coordinates is the posterior."""
    target = Quadratic([50.0, -3.0], [1e-6, 225.0])
    preconditioner = Preconditioner([50.001, 0.0], np.diag([0.002, 10.0]))
    model = ParametricFokkerPlanck(random_state=0).fit(preconditioner.potential(target), 12.0)
    law = preconditioner.law(model.at())
    x = law.sample((20000,))
    np.testing.assert_allclose(x.mean(0), [50, -3], atol=0.5)
    np.testing.assert_allclose(x.std(0), [0.001, 15], rtol=0.03)
    expected = -target(x) - np.log(2 * np.pi * 0.001 * 15)
    torch.testing.assert_close(law.log_prob(x), expected, atol=0.01, rtol=0)


def test_wall_pulls_back_and_leaves_the_inside_alone():
    def potential(x):
        return torch.where(x[:, 0] > 0, x.square().sum(1), torch.nan)

    from skfokker.potentials import CallablePotential

    wall = Wall(CallablePotential(potential, 2), [1.0, 0.0])
    x = torch.tensor([[2.0, 0.0], [-1.0, 0.0]]).double().requires_grad_()
    value, gradient = wall.value_and_grad(x)
    assert value[0] == 4 and value[1] > 50
    assert gradient[1, 0] < 0  # -grad points inside
    torch.testing.assert_close(torch.autograd.grad(wall(x).sum(), x)[0], gradient)
    with pytest.raises(ValueError, match="outside the support"):
        Wall(CallablePotential(potential, 2), [-1.0, 0.0])(x)


def test_several_modes_keep_their_draws_and_a_lost_one_is_reported():
    mixture = GaussianMixture([[-8.0, 0.0], [8.0, 1.0]], 0.5, [0.7, 0.3])
    sampler = PosteriorSampler(
        AffineFlow(), FreeEnergyDescent(max_iterations=50, block=25), random_state=0, spread=8.0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler.fit(mixture)
    posterior = sampler.posterior()  # the Gaussians of the search hold up what the fit cannot
    share = posterior.weights[posterior.x[:, 0] > 0].sum()
    assert share == pytest.approx(0.3, abs=0.05)
    assert abs(posterior.log_evidence.value) < 0.1 and not posterior.empty_modes()

    left = torch.distributions.MultivariateNormal(
        torch.tensor([-8.0, 0.0]).double(), 0.5 * torch.eye(2).double()
    )
    blind = Posterior(mixture, left, random_state=0, laplace=sampler.laplace_)
    assert blind.reliable  # k does not see it, the report does
    assert "LOST MODE" in str(blind) and len(blind.empty_modes()) == 1


def test_defensive_law_is_a_density():
    base, safe = (
        torch.distributions.Independent(
            torch.distributions.Normal(torch.full((1,), m).double(), s), 1
        )
        for m, s in ((0.0, 1.0), (3.0, 0.5))
    )
    law = DefensiveLaw(base, safe, 0.2)
    grid = torch.linspace(-8, 8, 4001).double()[:, None]
    assert float(torch.trapezoid(law.log_prob(grid).exp(), grid[:, 0])) == pytest.approx(1)
    assert float(law.sample((20000,)).mean()) == pytest.approx(0.6, abs=0.05)
    with pytest.raises(ValueError, match="between 0 and 1"):
        DefensiveLaw(base, safe, 1.0)
