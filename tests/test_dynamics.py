"""Equations with any drift, diffusion and interaction, against exact laws and particles."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from sklearn.base import clone

from skfokker import Equation, ParametricFokkerPlanck
from skfokker.potentials import PotentialError
from skfokker.schemes import AdamNested, GaussianMoments


def moments(model, t):
    """Mean and covariance of an affine fit."""
    d = model.n_features_in_
    y = model.inverse_transform(np.vstack([np.zeros(d), np.eye(d)]), t)
    root = (y[1:] - y[0]).T
    return y[0], root @ root.T


def divergence(model, t, mean, covariance):
    """KL(fit | N(mean, covariance)) of an affine fit."""
    m, S = moments(model, t)
    inverse = np.linalg.inv(covariance)
    gap = m - mean
    logs = np.linalg.slogdet(covariance)[1] - np.linalg.slogdet(S)[1]
    return 0.5 * (np.trace(inverse @ S) + gap @ inverse @ gap - len(m) + logs)


def turning(x):
    """A drift that is no gradient."""
    return torch.stack([x[:, 1] - x[:, 0] ** 3, -x[:, 0] - x[:, 1]], 1)


@pytest.mark.parametrize("n", [1, 5])
def test_kinetic_ornstein_uhlenbeck_is_exact(n):
    def drift(x):
        return torch.cat([x[:, n:], -x[:, :n] - 2 * x[:, n:]], 1)

    start = np.r_[np.full(n, 2.0), np.zeros(n)]
    equation = Equation(drift=drift, diffusion=[0.0] * n + [2.0] * n)
    model = ParametricFokkerPlanck(initial=(start, 0.25), random_state=0).fit(equation, 2.0)
    A = np.block([[np.zeros((n, n)), np.eye(n)], [-np.eye(n), -2 * np.eye(n)]])
    D = np.diag([0.0] * n + [2.0] * n)
    for t in (0.013, 0.7, 1.31, 2.0):
        E = expm(t * np.block([[A, 2 * D], [np.zeros_like(A), -A.T]]))
        F = E[: 2 * n, : 2 * n]
        exact = (0.25 * F + E[: 2 * n, 2 * n :]) @ F.T
        assert divergence(model, t, F @ start, exact) < 1e-9
    assert math.isinf(model.certificate_.kl())  # D has no inverse
    assert model.certificate_.total_variation() < 1e-3
    assert isinstance(model.scheme_, GaussianMoments)


def test_swarm_with_a_mean_field_is_exact():
    def drift(x, t):
        centre = [4 * math.cos(math.pi * t / 2), 2 * math.sin(math.pi * t / 2)]
        return torch.tensor(centre, dtype=x.dtype) - x

    def pair(r, t):
        return -math.sin(math.pi * t) * r.square().sum(1)

    def rates(t, y):
        by_x = 4 * math.cos(math.pi * t / 2) - y[0]
        by_y = 2 * math.sin(math.pi * t / 2) - y[1]
        return [by_x, by_y, 2 * (2 * math.sin(math.pi * t) - 1) * y[2] + 0.5]

    equation = Equation(drift=drift, diffusion=0.25, interaction=pair)
    model = ParametricFokkerPlanck(initial=([0.0, 0.0], 0.25), random_state=0).fit(equation, 3.0)
    exact = solve_ivp(rates, (0, 3), [0, 0, 0.25], rtol=1e-11, atol=1e-12, dense_output=True).sol
    for t in np.linspace(0, 3, 7):
        y = exact(t)
        assert divergence(model, t, y[:2], y[2] * np.eye(2)) < 1e-9
    assert not model.certificate_.is_bound
    assert "no bounds" in str(model.certificate_)


def test_diffusion_in_time_alone():
    d = 6
    B = torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 3

    def diffusion(x, t):
        sigma = B + (1 + t) * torch.eye(d, dtype=x.dtype)
        return sigma @ sigma.T / 2

    model = ParametricFokkerPlanck(random_state=0, n_features=d)
    model.fit(Equation(diffusion=diffusion), 1.0)
    S, one = B.numpy(), np.eye(d)
    for t in (0.2, 1.0):
        # the integral of (B + (1 + s) I) (B + (1 + s) I)^T
        first, second = t + t**2 / 2, ((1 + t) ** 3 - 1) / 3
        exact = one + t * S @ S.T + first * (S + S.T) + second * one
        assert divergence(model, t, np.zeros(d), exact) < 1e-10


def test_order_of_the_moments_in_a_driven_trap():
    def trap(x, t):
        return 0.5 * (2 + math.cos(3 * t)) * (x - math.sin(2 * t)).square().sum(1)

    def rates(t, y):
        k = 2 + math.cos(3 * t)
        return [-k * (y[0] - math.sin(2 * t)), -2 * k * y[1] + 2]

    exact = solve_ivp(rates, (0, 2), [0, 1], rtol=1e-12, atol=1e-13).y[:, -1]
    errors = []
    for step in (0.2, 0.1):
        scheme = GaussianMoments(tolerance=1e9, max_step=step, first_step=1.0)
        model = ParametricFokkerPlanck(scheme=scheme, n_features=1, random_state=0).fit(trap, 2.0)
        mean, covariance = moments(model, 2.0)
        errors.append(np.hypot(mean[0] - exact[0], covariance[0, 0] - exact[1]))
    assert 3.5 < math.log2(errors[0] / errors[1]) < 5.0


def quartic(x, coupling=1.0):
    return 0.25 * (x**4).sum(1) - coupling * x[:, 0] * x[:, 1]


def plain(potential):
    """A fit over a short while, of a potential or what is the same."""
    return ParametricFokkerPlanck(random_state=0, n_features=2).fit(potential, 0.2)


@pytest.fixture(scope="module")
def coupled():
    return plain(quartic)


def same_law(one, other):
    x = one.sample(200)
    np.testing.assert_allclose(other.log_density(x), one.log_density(x), rtol=0, atol=1e-8)


@pytest.mark.slow
def test_a_gradient_drift_is_a_potential(coupled):
    same_law(coupled, plain(Equation(drift=lambda x: -(x**3) + x.flip(1))))


@pytest.mark.slow
def test_a_coupled_potential_in_time_that_is_constant(coupled):
    same_law(coupled, plain(lambda x, t: quartic(x)))


def test_a_sum_over_coordinates_in_time_that_is_constant():
    same_law(plain(lambda x: quartic(x, 0.0)), plain(lambda x, t: quartic(x, 0.0)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "diffusion", [[[0.5, 0.2], [0.2, 0.3]], lambda x: 0.3 + 0.2 * torch.tanh(x) ** 2]
)
def test_nonlinear_drift_against_particles(diffusion):
    equation = Equation(drift=turning, diffusion=diffusion, n_features=2)
    model = ParametricFokkerPlanck(random_state=0, tol=0.1).fit(equation, 1.0)
    generator = torch.Generator().manual_seed(1)
    n, steps = 50_000, 400
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    for _ in range(steps):
        xi = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        if callable(diffusion):
            kick = (2 * diffusion(x)).sqrt() * xi
        else:
            kick = xi @ torch.linalg.cholesky(2 * torch.tensor(diffusion)).T.to(xi)
        x = x + turning(x) / steps + kick / math.sqrt(steps)
    y = torch.from_numpy(model.sample(n))
    error = 5 * x.std(0) / math.sqrt(n) + 2e-3
    assert ((x.mean(0) - y.mean(0)).abs() < error).all()
    assert (torch.cov(x.T) - torch.cov(y.T)).abs().max() < 0.02
    certificate = model.certificate_
    assert certificate.kl() < 0.1 and certificate.total_variation() < 0.05


def test_duffing_oscillator_against_particles():
    def drift(x):
        return torch.stack([x[:, 1], x[:, 0] - 0.4 * x[:, 1] - 0.1 * x[:, 0] ** 3], 1)

    equation = Equation(drift=drift, diffusion=[0.0, 0.32])
    model = ParametricFokkerPlanck(initial=([0.0, 8.0], 0.5), random_state=0, tol=0.1)
    model.fit(equation, 0.5)
    generator = torch.Generator().manual_seed(1)
    n, steps = 50_000, 500
    x = torch.tensor([0.0, 8.0]) + math.sqrt(0.5) * torch.randn(
        n, 2, generator=generator, dtype=torch.float64
    )
    for _ in range(steps):
        kick = torch.zeros_like(x)
        kick[:, 1] = (
            0.8 * math.sqrt(0.5 / steps) * torch.randn(n, generator=generator, dtype=torch.float64)
        )
        ahead = x + 0.5 / steps * drift(x) + kick
        x = x + 0.25 / steps * (drift(x) + drift(ahead)) + kick
    y = torch.from_numpy(model.sample(n))
    assert (x.mean(0) - y.mean(0)).abs().max() < 0.03
    assert (torch.cov(x.T) - torch.cov(y.T)).abs().max() < 0.05
    assert model.certificate_.total_variation() < 0.2


@pytest.mark.slow
def test_three_coordinates_of_a_regular_equation():
    """By the weak form: the regression of rho^-1 L* rho runs away here."""

    def drift(x):
        pull = 1.6 * torch.exp(-2 * x.square().sum(1)) - 0.5
        return pull[:, None] * x + torch.stack([x[:, 1], 0 * x[:, 1], 0 * x[:, 1]], 1)

    model = ParametricFokkerPlanck(n_features=3, random_state=0, tol=10.0)
    model.fit(Equation(drift=drift, diffusion=0.5), 1.5)
    assert max(record["speed"] for record in model.history_) < 3.0
    generator = torch.Generator().manual_seed(1)
    n, steps = 50_000, 300
    x = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    for _ in range(steps):
        xi = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        x = x + 1.5 / steps * drift(x) + math.sqrt(1.5 / steps) * xi
    y = torch.from_numpy(model.sample(n))
    assert (x.mean(0) - y.mean(0)).abs().max() < 0.03
    assert (torch.cov(x.T) - torch.cov(y.T)).abs().max() < 0.05


def test_stratonovich_is_ito_with_a_drift():
    def none(x):
        return torch.zeros_like(x)

    def noise(x):
        return 0.5 * x

    def ito(x):
        return 0.125 * x

    x = torch.randn(5, 3, dtype=torch.float64)
    ours = Equation.from_sde(none, noise, convention="stratonovich")
    np.testing.assert_allclose(ours.drift(x, 0.0), ito(x), atol=1e-14)
    np.testing.assert_allclose(ours.diffusion(x, 0.0), 0.125 * x**2, atol=1e-14)
    assert Equation.from_sde(none, [[1.0, 1.0], [0.0, 2.0]]).diffusion.tolist() == [[1, 1], [1, 2]]
    with pytest.raises(ValueError, match="'ito' or 'stratonovich', got 'other'"):
        Equation.from_sde(none, noise, convention="other")


def test_current_circulates():
    def drift(x):
        return torch.stack([x[:, 1] - x[:, 0], -x[:, 0] - x[:, 1]], 1)

    model = ParametricFokkerPlanck(random_state=0, n_features=2)
    model.fit(Equation(drift=drift, diffusion=1.0), 1.0)
    x = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    # N(0, I) is at rest, and turns: J = rho (x_2, -x_1)
    expected = np.stack([x[:, 1], -x[:, 0]], 1) * math.exp(-0.5) / (2 * math.pi)
    np.testing.assert_allclose(model.current(x), expected, atol=1e-6)


@pytest.fixture(scope="module")
def turned():
    equation = Equation(drift=turning, diffusion=0.5, n_features=2)
    estimator = ParametricFokkerPlanck(random_state=0, tol=0.1, warm_start=True)
    return estimator.fit(equation, 0.05)


@pytest.mark.slow
def test_pickles_and_clones_and_goes_on(turned):
    equation = clone(Equation(drift=turning, diffusion=0.5, n_features=2))
    assert equation.get_params()["drift"] is turning
    again = pickle.loads(pickle.dumps(turned))
    x = turned.sample(10)
    np.testing.assert_array_equal(again.log_density(x), turned.log_density(x))
    assert again.fit(equation, 0.1).t_final_ == 0.1


def short(x):
    return x[:, :1]


def nan_later(x, t):
    return turning(x) if t < 0.3 else turning(x) * math.nan


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "the equation is empty"),
        ({"drift": turning, "force": turning}, ValueError, "drift is all of the drift"),
        ({"drift": turning, "diffusion": [1.0, 2.0, 3.0]}, ValueError, "contradictory|2 numbers"),
        ({"drift": turning, "diffusion": [[1, 2], [2, 1]]}, ValueError, "eigenvalue -1"),
        ({"drift": turning, "diffusion": [[1, 0.5], [0, 1]]}, ValueError, "symmetric matrix D"),
        ({"drift": turning, "diffusion": lambda t: t}, TypeError, "points first"),
        ({"drift": short, "diffusion": 1.0}, ValueError, r"drift must return shape \(n, d\)"),
        ({"drift": nan_later}, PotentialError, r"drift returned NaN at x = .* \(time t = 0.37\)"),
        ({"drift": turning, "interaction": lambda r: r.sum(1)}, ValueError, "even function"),
        ({"drift": lambda x: x - x.mean(0)}, ValueError, "other points of the call"),
    ],
)
def test_bad_input(arguments, error, message):
    with pytest.raises(error, match=message):
        ParametricFokkerPlanck(n_features=2).fit(Equation(**arguments), 1.0)


def test_what_has_no_meaning(turned):
    equation = Equation(drift=turning, diffusion=0.5, n_features=2)
    with pytest.raises(ValueError, match="no free energy"):
        ParametricFokkerPlanck(t_final="equilibrium").fit(equation)
    with pytest.raises(ValueError, match="does not have"):
        ParametricFokkerPlanck(initial="laplace").fit(equation, 1.0)
    with pytest.raises(ValueError, match="AdamNested.* marches gradient flows"):
        ParametricFokkerPlanck(scheme=AdamNested()).fit(equation, 1.0)
    with pytest.raises(ValueError, match=r"posterior\(\) weighs draws"):
        turned.posterior()
    with pytest.raises(ValueError, match="convexity"):
        turned.certificate_.w2()
