"""Where a march starts: Gaussians exactly, other laws and draws by maximum likelihood."""

import math

import numpy as np
import pytest
import torch
from stand_in import RungeKutta, estimator
from torch.distributions import (
    Independent,
    Laplace,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
)

from skfokker import Gaussian
from skfokker.flows import AffineFlow, Composition, ElementwiseFlow
from skfokker.initial import nearest_neighbour_entropy
from skfokker.potentials import Quadratic

QUADRATIC = Quadratic([2.0, 0.0], 0.5)
X = np.array([[0.0, 0.0], [1.0, -0.5], [2.0, 0.3], [-1.0, 1.0], [0.5, 0.5]])


@pytest.mark.parametrize(
    "initial",
    [
        ([-1.0, 1.0], [[0.5, 0.2], [0.2, 0.3]]),
        Gaussian([-1.0, 1.0], [[0.5, 0.2], [0.2, 0.3]]),
        MultivariateNormal(torch.tensor([-1.0, 1.0]), torch.tensor([[0.5, 0.2], [0.2, 0.3]])),
    ],
    ids=["tuple", "component", "torch"],
)
def test_gaussian_starts_are_exact(initial):
    model = estimator(initial=initial).fit(QUADRATIC)
    law = MultivariateNormal(
        torch.tensor([-1.0, 1.0]).double(), torch.tensor([[0.5, 0.2], [0.2, 0.3]]).double()
    )
    np.testing.assert_allclose(model.log_density(X, 0), law.log_prob(torch.tensor(X)), rtol=1e-6)
    assert model.initial_error_ == 0.0


def test_independent_normals_and_one_dimension():
    model = estimator(initial=Independent(Normal(torch.ones(2), 2 * torch.ones(2)), 1))
    assert model.fit(QUADRATIC).initial_error_ == 0.0
    line = estimator(initial=Normal(0.5, 2.0), scheme=RungeKutta(2)).fit(Quadratic([0.0]))
    expected = Normal(0.5, 2.0).log_prob(torch.tensor([[1.0]]))[0]
    np.testing.assert_allclose(line.log_density([[1.0]], 0), expected, rtol=1e-6)


def mixture_1d():
    parts = Normal(torch.tensor([-1.5, 1.0]).double(), torch.tensor([0.6, 0.8]).double())
    return MixtureSameFamily(torch.distributions.Categorical(torch.tensor([0.4, 0.6])), parts)


FLEXIBLE = Composition([ElementwiseFlow(24), AffineFlow()])


def test_other_laws_are_fitted_by_maximum_likelihood_and_the_error_is_reported():
    model = estimator(flow=FLEXIBLE, initial=mixture_1d(), scheme=RungeKutta(1), t_final=1e-4)
    model.fit(Quadratic([0.0]))
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    truth = mixture_1d().log_prob(x)
    fit = model.at(0.0).log_prob(x[:, None])
    divergence = torch.trapezoid(fit.exp() * (fit - truth), x)
    assert 0 < divergence < 5e-3
    assert model.initial_error_ == pytest.approx(float(divergence), abs=3e-3)


def test_an_affine_flow_reports_what_it_misses():
    """KL of the Gaussian fit from the mixture, by quadrature."""
    model = estimator(flow=AffineFlow(), initial=mixture_1d(), scheme=RungeKutta(1), t_final=1e-4)
    model.fit(Quadratic([0.0]))
    x = torch.linspace(-8, 8, 4001, dtype=torch.float64)
    truth = mixture_1d().log_prob(x)
    mean = torch.trapezoid(x * truth.exp(), x)
    deviation = torch.trapezoid((x - mean) ** 2 * truth.exp(), x).sqrt()
    fit = Normal(mean, deviation).log_prob(x)
    divergence = torch.trapezoid(fit.exp() * (fit - truth), x)
    assert divergence > 0.05
    assert model.initial_error_ == pytest.approx(float(divergence), abs=0.02)


def test_draws_as_the_start():
    generator = np.random.default_rng(0)
    draws = generator.laplace(size=(4000, 2))
    model = estimator(flow=FLEXIBLE, initial=draws, scheme=RungeKutta(1), t_final=1e-4)
    model.fit(QUADRATIC)
    law = Independent(Laplace(torch.zeros(2).double(), torch.ones(2).double()), 1)
    fresh = torch.as_tensor(generator.laplace(size=(4000, 2)))
    gap = law.log_prob(fresh).mean() - model.at(0.0).log_prob(fresh).mean()
    assert gap < 0.06
    assert abs(model.initial_error_ - gap) < 0.2


def test_a_flow_without_the_affine_map_is_fitted():
    model = estimator(flow=AffineFlow(diagonal=True), initial=([0.0, 0.0], [[1, 0.5], [0.5, 1]]))
    model.fit(QUADRATIC)
    # KL(N(0, I) | N(0, C)) = (tr C^-1 - 2 + log det C) / 2
    assert model.initial_error_ == pytest.approx(0.5 * (2 / 0.75 - 2 + math.log(0.75)), abs=0.05)


def test_nearest_neighbour_entropy_of_a_gaussian():
    x = np.random.default_rng(0).normal(size=(20_000, 2))
    assert nearest_neighbour_entropy(x) == pytest.approx(math.log(2 * math.pi * math.e), abs=0.03)


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ((np.zeros(2),), r"\(mean, covariance\)"),
        (([0.0, 0.0, 0.0], 1.0), r"mean of initial.*\(2,\)"),
        (([0.0, 0.0], [1.0, -1.0]), "positive definite"),
        (np.zeros((20, 3)), r"shape \(n, 2\)"),
        (Laplace(torch.zeros(2), torch.ones(2)), "Independent"),
    ],
)
def test_bad_starts(initial, message):
    with pytest.raises(ValueError, match=message):
        estimator(initial=initial).fit(QUADRATIC)
