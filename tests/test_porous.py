"""The porous medium equation: Barenblatt's solution, what schemes ask for, fits."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from stand_in import conditional

from skfokker import Equation, ParametricFokkerPlanck, problems
from skfokker.benchmark.measures import measure
from skfokker.benchmark.methods import FitLaw
from skfokker.benchmark.references import References
from skfokker.distribution import TransportedNormal
from skfokker.divergence import steps
from skfokker.dynamics.reading import read_equation
from skfokker.flows import AffineFlow, Composition, RadialFlow
from skfokker.imbalance import Imbalance
from skfokker.reference import Barenblatt, finite_volumes, langevin


@pytest.mark.parametrize(("d", "m"), [(1, 2.0), (3, 2.0), (3, 1.5), (6, 3.0)])
def test_barenblatt_solves_the_equation(d, m):
    exact = Barenblatt(d, m, beta=0.7, t0=0.1)
    t, h = 0.2, 1e-3
    sphere = 2 * math.pi ** (d / 2) / math.gamma(d / 2)

    def density(r, t):
        x = np.zeros((1, d))
        x[0, 0] = r
        return math.exp(exact.log_density(x, t)[0])

    mass = quad(lambda r: sphere * r ** (d - 1) * density(r, t), 0, exact.radius(t))[0]
    assert mass == pytest.approx(1.0, rel=1e-6)
    r = 0.5 * exact.radius(t)
    power = [density(r + s * h, t) ** m for s in (-1, 0, 1)]
    laplacian = (power[2] - 2 * power[1] + power[0]) / h**2
    laplacian += (d - 1) / r * (power[2] - power[0]) / (2 * h)
    change = (density(r, t + h / 10) - density(r, t - h / 10)) / (h / 5)
    assert change == pytest.approx(0.7 * laplacian, rel=1e-3)
    x = exact.sample(200_000, t, seed=1)
    assert np.linalg.norm(x, axis=1).max() <= exact.radius(t)
    np.testing.assert_allclose(np.cov(x.T).reshape(d, d), exact.moments(t)[1], atol=0.002)
    law = exact.law(t)
    assert law.sample((4, 2)).shape == (4, 2, d) and law.log_prob(torch.zeros(2, d)).shape == (2,)


def read(equation, d):
    return read_equation(
        equation, n_features=d, beta=1.0, mean=None, horizon=1.0, device=torch.device("cpu")
    )[0]


def bowl(x):
    return 0.5 * x[:, 0] ** 2 + x.prod(1)


def law_of(flow, d):
    generator = torch.Generator().manual_seed(3)
    theta = flow.init(d)
    theta = theta + 0.2 * torch.randn(len(theta), dtype=torch.float64, generator=generator)
    y = flow.forward(theta, torch.randn(20, d, dtype=torch.float64, generator=generator))[0]
    return theta, y, TransportedNormal(flow, theta, d)


FAMILIES = {
    "elliptical": lambda d: Composition([RadialFlow(8), AffineFlow()]),
    "conditional": conditional,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_force_and_balance_are_those_of_the_pressure(family):
    """g = grad(V + beta m / (m - 1) rho^(m - 1)), and rho^-1 div(rho g) by differences."""
    d, m, beta = 3, 2.5, 0.3
    flow = FAMILIES[family](d)
    equation = read(Equation(bowl, diffusion=beta, porous=m), d)
    theta, y, law = law_of(flow, d)
    y = y.requires_grad_()
    pressure = bowl(y) + beta * m / (m - 1) * ((m - 1) * law.log_prob(y)).exp()
    (expected,) = torch.autograd.grad(pressure.sum(), y)
    y = y.detach()

    def force(y):
        return equation.driving_force(y, law.score(y), law.log_prob(y))

    torch.testing.assert_close(force(y), expected)
    dtheta = torch.zeros_like(theta)
    imbalance = Imbalance(equation, flow, torch.Generator().manual_seed(0))
    flux = 0.0
    for i, shift in enumerate(1e-5 * torch.eye(d, dtype=torch.float64)):
        flux = flux + (force(y + shift) - force(y - shift))[:, i] / 2e-5
    flux = flux + (force(y) * law.score(y)).sum(1)
    torch.testing.assert_close(imbalance.at(theta, dtheta, y), -flux, rtol=1e-4, atol=1e-4)
    assert steps(y).shape == (d,)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"porous": 1.0}, ValueError, "m = 1 is the diffusion of rho itself"),
        ({"porous": 0.5}, ValueError, "fast diffusion"),
        ({"porous": "2"}, TypeError, "a number m > 1"),
        ({"porous": 2.0, "diffusion": lambda x: 1 + x**2}, ValueError, "the same everywhere"),
    ],
)
def test_bad_input(given, error, message):
    with pytest.raises(error, match=message):
        ParametricFokkerPlanck(n_features=2).fit(Equation(**given), 1.0)


def test_what_has_no_meaning():
    equation = Equation(bowl, porous=2.0, n_features=2)
    with pytest.raises(ValueError, match="there is no free energy"):
        ParametricFokkerPlanck().fit(equation, "equilibrium")
    with pytest.raises(ValueError, match="does not have"):
        ParametricFokkerPlanck(initial="laplace").fit(equation, 1.0)
    with pytest.raises(ValueError, match="not of a power.*Barenblatt"):
        langevin(equation, 1.0)
    with pytest.raises(ValueError, match="not of a power"):
        finite_volumes(Equation(lambda x: x[:, 0] ** 2, porous=2.0, n_features=1), 1.0)


def quiet(model, equation, t_final):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of total variation in nats
        return model.fit(equation, t_final)


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="an error of .013 where .01 is asked for")
def test_barenblatt_in_three_dimensions():
    problem = problems.load("barenblatt-3d")
    model = ParametricFokkerPlanck(initial=problem.initial, random_state=0)
    model = quiet(model, problem.potential, problem.t_final)
    for t in problem.times:
        errors = measure(problem, FitLaw(model), t, References())
        assert errors["overlap_symkl"] < 0.01 and errors["relative_l1"] < 0.05
        assert errors["tv"] < model.certificate_.total_variation(t) < 0.5
    assert model.certificate_.is_bound and math.isinf(model.certificate_.kl())
    assert not model.potential_.has_energy and "elliptical" in str(model.plan_)
