"""Bounds where the law acts on itself: above the true error, from a Lipschitz constant."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import sqrtm

from skfokker import Equation, ParametricFokkerPlanck
from skfokker.dynamics.reading import read_equation
from skfokker.mean_field import MeanFieldGrowth
from skfokker.metrics import moments
from skfokker.reference import kl_gaussians
from skfokker.schemes import GaussianMoments


def leader(x, t):
    centre = [4 * math.cos(math.pi * t / 2), 2 * math.sin(math.pi * t / 2)]
    return torch.tensor(centre, dtype=x.dtype) - x


def flock(r, t):
    return -math.sin(math.pi * t) * r.square().sum(1)


def swarm(**given):
    return Equation(drift=leader, diffusion=0.25, interaction=flock, n_features=2, **given)


def w2_of_gaussians(mean0, covariance0, mean1, covariance1):
    root = sqrtm(covariance1)
    cross = np.real(sqrtm(root @ covariance0 @ root))
    square = np.sum((mean0 - mean1) ** 2) + np.trace(covariance0 + covariance1 - 2 * cross)
    return math.sqrt(max(float(square), 0.0))


@pytest.mark.parametrize("max_step", [0.05, 0.2])
def test_bounds_of_the_swarm_are_above_the_exact_errors(max_step):
    def rates(t, y):
        by_x = 4 * math.cos(math.pi * t / 2) - y[0]
        by_y = 2 * math.sin(math.pi * t / 2) - y[1]
        return [by_x, by_y, 2 * (2 * math.sin(math.pi * t) - 1) * y[2] + 0.5]

    exact = solve_ivp(rates, (0, 2), [0, 0, 0.25], rtol=1e-11, atol=1e-12, dense_output=True).sol
    # steps of a march that is off by more than rounding
    scheme = GaussianMoments(tolerance=1e9, max_step=max_step, first_step=1.0)
    model = ParametricFokkerPlanck(scheme=scheme, initial=([0.0, 0.0], 0.25), random_state=0)
    certificate = model.fit(swarm(lipschitz=2.0), 2.0).certificate_
    assert certificate.is_bound and "no bounds" not in str(certificate)
    for t in np.linspace(0.1, 2.0, 8):
        y = exact(t)
        true = *moments(model, t), y[:2], y[2] * np.eye(2)
        kl = kl_gaussians(*true)
        assert kl <= certificate.kl(t)
        assert math.sqrt(kl / 2) <= certificate.total_variation(t)  # more than it can be
        assert w2_of_gaussians(*true) <= certificate.w2(t)
    assert certificate.w2() < 1.0
    # without the field that an error moves the bound would be a smaller one
    assert certificate.kl() > certificate._kl_in_own_field(0.95)[0][-1]


def bowl(x):
    return 0.5 * x.square().sum(1)


def bump(r):
    """Repulsion over a short way; the Hessian is largest in size at 0, and I there."""
    return torch.exp(-0.5 * r.square().sum(1))


def test_growth_is_the_solution_of_its_equation():
    times = np.linspace(0, 2, 201)
    one = np.ones(200)
    growth = MeanFieldGrowth(times, 0.09 * one, 0 * one, 0.7 * one, 2.0, 0.25 * one, start=0.1)
    exact = 0.1 * np.exp(0.7 * times) + 0.3 * np.expm1(0.7 * times) / 0.7
    ends, inside = growth.w2(0.95)
    np.testing.assert_allclose(ends, exact, rtol=1e-4)
    assert (ends[1:] >= exact[1:] - 1e-12).all() and (inside >= exact[1:] - 1e-12).all()
    moved = np.trapezoid((2 * exact) ** 2, times) if hasattr(np, "trapezoid") else None
    if moved is not None:
        assert growth.exchanged(0.95)[0][-1] == pytest.approx(moved, rel=0.02)
    still = MeanFieldGrowth(times, 0 * one, 0 * one, 0.7 * one, 2.0, 0 * one)
    assert still.exchanged(0.95)[0][-1] == 0.0  # no error where nothing is off


def cubic(x):
    return -(x**3)


def convex(x):
    return 0.25 * x[:, 0] ** 4 + x[:, 0] ** 2


convex.convexity = 2.0


@pytest.mark.parametrize(
    ("given", "rate"),
    [
        ({"drift": cubic}, None),
        ({"drift": cubic, "lipschitz": 1.0}, None),  # of the drift nothing is known
        ({"drift": cubic, "lipschitz": (1.0, 0.0)}, 1.0),
        ({"potential": convex, "lipschitz": 1.0}, -1.0),
        ({"potential": convex, "force": cubic, "lipschitz": 1.0}, None),
        ({"lipschitz": 1.0}, 1.0),  # there is no drift
        ({"lipschitz": 1.0, "diffusion": lambda x: 1 + 0 * x}, None),  # not the same everywhere
    ],
)
def test_what_is_known_of_the_growth(given, rate):
    equation, _ = read_equation(
        Equation(**{"interaction": bump, "diffusion": 0.5, **given}),
        n_features=1,
        beta=1.0,
        mean=None,
        horizon=1.0,
        device=torch.device("cpu"),
    )
    assert equation.growth_rate(0.3) == rate


def test_a_linear_drift_is_known():
    model = ParametricFokkerPlanck(initial=([0.0, 0.0], 0.25), random_state=0)
    growth = model.fit(swarm(lipschitz=2.0), 0.2).certificate_.growth
    np.testing.assert_allclose(growth.rate, 1.0, rtol=1e-6)
    np.testing.assert_allclose(growth.noise, 0.25)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"lipschitz": 0.5}, ValueError, "no Lipschitz constant of grad W.*changes by 0.9|by 1"),
        ({"lipschitz": (1.0, -2.0)}, ValueError, "no one-sided constant of the drift"),
        ({"lipschitz": -1.0}, ValueError, "at least 0"),
        ({"lipschitz": "1"}, TypeError, "a number L"),
        ({"lipschitz": 1.0, "interaction": None}, ValueError, "but there is none"),
    ],
)
def test_constants_that_cannot_be(given, error, message):
    given = {"potential": bowl, "interaction": bump, "n_features": 2, **given}
    with pytest.raises(error, match=message):
        ParametricFokkerPlanck().fit(Equation(**given), 1.0)
