"""Where a density ends: walls of either kind, barriers, laws on a circle."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import (
    Beta,
    Categorical,
    Cauchy,
    Exponential,
    Gamma,
    Independent,
    MixtureSameFamily,
    Normal,
    StudentT,
    VonMises,
)

from skfokker import ParametricFokkerPlanck
from skfokker.bayes import TorchLogDensity, as_log_density, laplace, sample_posterior
from skfokker.bayes.support import Supported, with_support
from skfokker.potentials import DoubleWell, Funnel, PotentialError, Quadratic, check_potential
from skfokker.potentials.boundaries import refuse_boundaries
from skfokker.potentials.jumps import refuse_jumps

SPREAD = 2 * np.random.default_rng(0).normal(size=(64, 2))


def half_space(outside):
    def log_density(x):
        return torch.where(x[:, 0] > 0.5, -0.5 * (x - 1.5).square().sum(1), outside)

    return log_density


@pytest.fixture(scope="module")
def infinite():
    return sample_posterior(half_space(-torch.inf), 2, random_state=0, tolerance=0.02, n_draws=500)


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize(
    "outside", [-1e10, *slow(-1e30, -1e5, float(torch.finfo(torch.float32).min))]
)
def test_walls_coded_as_a_huge_number_are_infinite(outside, infinite):
    posterior = sample_posterior(
        half_space(outside), 2, random_state=0, tolerance=0.02, n_draws=500
    )
    np.testing.assert_array_equal(posterior.x, infinite.x)
    np.testing.assert_array_equal(posterior.log_p, infinite.log_p)
    mass = float(Normal(0.0, 1.0).cdf(torch.tensor(1.0)))
    assert posterior.log_evidence.value == pytest.approx(math.log(2 * math.pi * mass), abs=0.15)


def test_a_wall_added_to_the_rest_is_found():
    def log_density(x):
        return -0.5 * x.square().sum(1) - 1e12 * (x[:, 1] < -1)

    found = with_support(TorchLogDensity(log_density, 2), SPREAD)
    x = torch.tensor([[0.0, -1.1], [0.0, -0.9]], dtype=torch.float64)
    assert isinstance(found, Supported)
    assert torch.isinf(found(x)).tolist() == [True, False]
    assert with_support(found, SPREAD) is found


@pytest.mark.parametrize(
    "potential",
    [
        Quadratic([0.0, 0.0], 1e-12),
        Quadratic([1e6, 0.0]),
        Funnel(2),
        DoubleWell(2, height=1e8),
        TorchLogDensity(lambda x: -1e6 * torch.sigmoid(50 * x[:, 0]) - x.square().sum(1), 2),
        TorchLogDensity(lambda x: -1e9 * (x[:, 0] - 1).relu() - x.square().sum(1), 2),
    ],
)
def test_steep_slopes_are_no_walls(potential):
    assert with_support(potential, SPREAD) is potential


@pytest.mark.parametrize("outside", [1e30, 1e7, torch.inf])
def test_the_estimator_refuses_walls_of_either_kind(outside):
    def wall(x):
        return torch.where(x[:, 0] < 2, 0.5 * x.square().sum(1), outside)

    with pytest.raises(PotentialError, match=r"jumps by|returned \+inf at x"):
        ParametricFokkerPlanck(n_features=1, random_state=0).fit(wall, t_final=1.0)


def test_a_wall_that_the_mass_is_far_from_does_not_matter():
    def wall(x):
        return torch.where(x[:, 0] < 30, 0.5 * x.square().sum(1), 1e30)

    zero = torch.zeros(1, dtype=torch.float64)
    refuse_jumps(check_potential(wall, 1), zero, torch.eye(1).double(), 1.0)


# ------------------------------------------------------------------ barriers


@pytest.mark.parametrize(
    ("barrier", "initial"),
    [
        (lambda x: (0.5 * x**2 - 2 * x.log()).sum(1), (1.5, 0.01)),
        (lambda x: (0.5 * x**2 - 2 * torch.log1p(-x)).sum(1), (-1.0, 0.01)),
        (lambda x: -(1 - x.square().sum(1)).log(), (0.0, 1e-3)),
        (lambda x: (x + 0.1 / x.clamp_min(0)).sum(1), (1.5, 0.01)),
        (lambda x: (x - x.sqrt().log()).sum(1), (1.0, 1e-4)),
        (Gamma(3.0, 1.0), (3.0, 0.01)),
        (Beta(2.0, 3.0), (0.5, 1e-3)),
    ],
)
def test_a_barrier_within_reach_is_named_with_ways_out(barrier, initial):
    model = ParametricFokkerPlanck(n_features=1, initial=initial, random_state=0)
    with pytest.raises(PotentialError, match=r"at x = \[.*by t = 4.*log x.*constraints.*clamp_min"):
        model.fit(barrier, t_final=4.0)


@pytest.mark.parametrize(
    ("potential", "mean", "width", "horizon"),
    [
        (lambda x: (0.5 * x**2 - 2 * x.log()).sum(1), 1.5, 0.1, 0.01),  # too far in that time
        (lambda x: (5e3 * (x - 1) ** 2 - x.log()).sum(1), 1.0, 0.01, 10.0),  # too high
        (lambda x: torch.cosh(x).sum(1), 0.0, 1.0, 1e5),  # overflows, and does not end
        (lambda x: 0.25 * (x**4).sum(1), 0.0, 1.0, 1e200),
        (lambda x: torch.where(x[:, 0] < 3, x[:, 0], torch.nan), 0.0, 1.0, 1.0),  # a hard end
    ],
)
def test_what_is_no_barrier_within_reach(potential, mean, width, horizon):
    mean = torch.tensor([mean], dtype=torch.float64)
    scale = torch.tensor([[width]], dtype=torch.float64)
    refuse_boundaries(check_potential(potential, 1), mean, scale, 1.0, horizon)


def test_the_way_out_of_a_barrier_is_one():
    posterior = sample_posterior(
        lambda p: 2 * p["x"].log() - 0.5 * p["x"].square(),
        constraints={"x": torch.distributions.constraints.positive},
        random_state=0,
        tolerance=0.01,
    )
    assert posterior.efficiency > 0.9  # where a fit is done
    assert float(posterior.mean()["x"]) == pytest.approx(2 * math.sqrt(2 / math.pi), abs=0.03)


def test_an_end_met_on_the_march_names_a_way_out():
    model = ParametricFokkerPlanck(initial=(1.0, 0.01), random_state=0)
    with pytest.raises(PotentialError, match=r"returned \+inf at x = .*t = 0\.0.*log x"):
        model.fit(Exponential(1.0), t_final=1.0)


# ------------------------------------------------------------------ circles

PERIODIC = [
    VonMises(0.0, 2.0),
    VonMises(torch.tensor(1.0).double(), 50.0),
    Independent(VonMises(torch.zeros(2), torch.ones(2)), 1),
    MixtureSameFamily(Categorical(torch.ones(2)), VonMises(torch.tensor([0.0, 2.0]), 3.0)),
]


@pytest.mark.parametrize("law", PERIODIC, ids=str)
def test_periodic_laws_are_refused(law):
    before = torch.get_rng_state()
    for use in (ParametricFokkerPlanck(random_state=0).fit, as_log_density, laplace):
        with pytest.raises(ValueError, match=r"periodic.*constraints\.interval"):
            use(law)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "law",
    [
        Normal(1e8, 1.0),
        Normal(0.0, 1e-9),
        Cauchy(0.0, 1e3),
        StudentT(0.1),
        Independent(StudentT(torch.ones(3)), 1),
        Gamma(0.1, 1.0),
        Beta(0.5, 0.5),
        torch.distributions.Pareto(1.0, 0.1),
    ],
    ids=str,
)
def test_heavy_tails_and_ends_are_not_periodic(law):
    assert check_potential(law).distribution is law
