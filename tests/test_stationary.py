"""t_final="stationary": marches that go on until the law rests, against known stationary laws."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.linalg import solve_continuous_lyapunov

from skfokker import Equation, ParametricFokkerPlanck
from skfokker.flows import ConditionalFlow
from skfokker.metrics import moments
from skfokker.potentials import GaussianMixture, Quadratic
from skfokker.reference import kl_gaussians
from skfokker.schemes import MarchError
from skfokker.stationary import left_to_go, particles_at_rest, recent_distances

ROTATING = np.array([[-1.0, 3.0], [-3.0, -1.0]])


def rotating(x):
    return x @ torch.from_numpy(ROTATING).T + torch.tensor([1.0, 0.0])


def kinetic(x):
    return torch.cat([x[:, 2:], -x[:, :2] - 2 * x[:, 2:]], 1)


def estimator(**given):
    return ParametricFokkerPlanck(random_state=0, t_final="stationary", **given)


@pytest.mark.parametrize(
    ("equation", "A", "mean", "D"),
    [
        (
            Equation(drift=rotating, diffusion=[0.2, 1.0]),
            ROTATING,
            -np.linalg.solve(ROTATING, [1.0, 0.0]),
            [0.2, 1.0],
        ),
        (
            Equation(drift=kinetic, diffusion=[0.0, 0.0, 2.0, 2.0]),
            np.kron([[0.0, 1.0], [-1.0, -2.0]], np.eye(2)),
            np.zeros(4),
            [0.0, 0.0, 2.0, 2.0],
        ),
        (  # pulled to its own mean as well: by 1 for the mean, by 2 for the spread
            Equation(
                drift=lambda x: 1 - x,
                diffusion=[0.25, 0.25],
                interaction=lambda r: 0.5 * r.square().sum(1),
            ),
            -2 * np.eye(2),
            np.ones(2),
            [0.25, 0.25],
        ),
    ],
    ids=["rotating trap", "kinetic", "mean field"],
)
def test_linear_equations_come_to_the_solution_of_lyapunov(equation, A, mean, D):
    model = estimator(initial=(np.full(len(mean), 0.5), 2.0)).fit(equation)
    exact = solve_continuous_lyapunov(A, -2 * np.diag(D))
    assert kl_gaussians(*moments(model, model.t_final_), mean, exact) < 1e-12
    x = model.sample(100_000)  # at the time reached
    np.testing.assert_allclose(x.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(np.cov(x.T), exact, atol=0.02)


@pytest.mark.parametrize(
    ("equation", "message"),
    [
        (Equation(diffusion=1.0, n_features=2), "no stationary law.*eigenvalue 0"),
        (Equation(lambda x: x[:, 0] + 0.5 * x[:, 1] ** 2, n_features=2), "eigenvalue 0"),
        (Equation(drift=lambda x: x @ torch.tensor([[1.0, 2], [-2, 1]]).to(x)), r"1 \+- 2i"),
        (Equation(drift=lambda x: -x, diffusion=[0.0, 1.0]), "no density"),
        (lambda x, t: 0.5 * (x - t).square().sum(1), "depends on time"),
        (Equation(drift=lambda x, t: -x * (2 + math.sin(t)), diffusion=[1.0, 2.0]), "on time"),
    ],
)
def test_without_a_stationary_law_a_sentence_says_so(equation, message):
    with pytest.raises(ValueError, match=f"t_final='stationary' waits for the law.*{message}"):
        estimator(n_features=2).fit(equation)


def test_particles_that_spread_for_ever_end_the_wait():
    def weak(x):
        return -0.2 * x / (1 + x.square().sum(1, keepdim=True))

    with pytest.raises(MarchError, match="particles sent ahead do not.*no stationary law"):
        estimator(n_features=2).fit(Equation(drift=weak, diffusion=[1.0, 0.5]))


@pytest.fixture(scope="module")
def well():
    return estimator(flow=ConditionalFlow(), n_features=1, initial=([1.0], 0.5)).fit(double_well)


def double_well(x):
    return 0.25 * x[:, 0] ** 4 - 0.5 * x[:, 0] ** 2


def log_gibbs(x):
    grid = np.linspace(-6, 6, 4001)
    weights = np.exp(-0.25 * grid**4 + 0.5 * grid**2)
    return -0.25 * x[:, 0] ** 4 + 0.5 * x[:, 0] ** 2 - math.log(weights.sum() * 12 / 4000)


def test_gradient_flow_comes_to_the_gibbs_measure(well):
    x = well.sample(4000)
    assert abs(np.mean(well.log_density(x) - log_gibbs(x))) < 1e-4
    assert np.abs(well.log_density(x) - log_gibbs(x)).mean() < 0.01


@pytest.mark.parametrize("t", [3.0, 5.0])
def test_what_is_left_to_go_is_that_of_an_exponential(t):
    """N(2 exp(-t), 1 + exp(-2 t) / 2) on its way to N(0, 1)."""
    model = ParametricFokkerPlanck(initial=([2.0], 1.5), random_state=0).fit(Quadratic([0.0]), t)
    mean, excess = 2 * math.exp(-t), math.exp(-2 * t) / 2
    there = kl_gaussians([mean], [[1 + excess]], [0.0], [[1.0]])
    back = kl_gaussians([0.0], [[1.0]], [mean], [[1 + excess]])
    left = left_to_go(*recent_distances(model._trajectory()))
    assert left == pytest.approx(math.sqrt(there + back), rel=0.1)
    assert left_to_go(1.0, 0.5) == math.inf  # at a constant speed
    assert left_to_go(0.0, 0.0) == 0.0


def test_a_march_at_rest_stays_where_it_is_and_goes_on(well):
    reached = well.t_final_
    well.set_params(warm_start=True)
    assert well.fit(double_well).t_final_ == reached
    assert well.fit(double_well, reached + 1).t_final_ == reached + 1
    assert well.get_params()["t_final"] == "stationary"


@pytest.mark.slow
def test_resumed_with_the_same_bits(tmp_path):
    pytest.importorskip("safetensors")

    class Stop(Exception):
        pass

    calls = {"left": 10**9}

    def drift(x):
        calls["left"] -= 1
        if calls["left"] < 0:
            raise Stop
        return rotating(x)

    def fit(**options):
        return estimator().fit(Equation(drift=drift, diffusion=[0.2, 1.0]), **options)

    whole = fit(checkpoint=tmp_path / "whole.safetensors")
    used = 10**9 - calls["left"]
    calls["left"] = used // 2
    with pytest.raises(Stop), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(checkpoint=tmp_path / "half.safetensors")
    calls["left"] = 10**9
    resumed = fit(resume=tmp_path / "half.safetensors")
    assert resumed.t_final_ == whole.t_final_
    np.testing.assert_array_equal(resumed.sample(5), whole.sample(5))


def test_particles_wait_for_the_slow_one():
    """Two rates far apart: the time follows the slower one."""
    from skfokker.dynamics.reading import read_equation

    def drift(x):
        return torch.stack([-20 * x[:, 0] + x[:, 1], -0.1 * x[:, 1] ** 3 - 0.05 * x[:, 1]], 1)

    equation, _ = read_equation(
        Equation(drift=drift, diffusion=[1.0, 0.05]),
        n_features=2,
        beta=1.0,
        mean=None,
        horizon=None,
        device=torch.device("cpu"),
    )
    generator = torch.Generator().manual_seed(0)
    x = 3 + torch.randn(4096, 2, generator=generator, dtype=torch.float64)
    assert 10 < particles_at_rest(equation, x, generator) < 1000


@pytest.mark.slow
def test_a_force_along_the_levels_keeps_the_gibbs_measure():
    def quartic(x):
        return 0.25 * x.square().sum(1) ** 2

    def around(x):
        return 2 * torch.stack([x[:, 1], -x[:, 0]], 1)

    model = estimator(n_features=2, initial=([1.0, 0.0], 0.3))
    model.fit(Equation(quartic, force=around, diffusion=1.0))
    radii = np.linspace(0, 6, 4001)
    total = 2 * np.pi * (np.exp(-(radii**4) / 4) * radii).sum() * radii[1]
    x = model.sample(20_000)
    gap = model.log_density(x) + 0.25 * (x**2).sum(1) ** 2 + math.log(total)
    assert abs(gap.mean()) < 1e-3
    assert model.certificate_.total_variation() < 0.1


@pytest.mark.slow
def test_mixture_in_three_dimensions():
    means = np.array([[1.5, 0.0, 0.0], [-1.5, 0.0, 0.0], [0.0, 1.5, 1.0]])
    target = GaussianMixture(means, np.stack([0.5 * np.eye(3)] * 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the certificate adds up
        model = estimator(initial=(np.zeros(3), 3.0)).fit(target)
    x = model.sample(20_000)
    exact = -target(torch.from_numpy(x)).numpy() - target.log_normalizer
    assert abs(np.mean(model.log_density(x) - exact)) < 0.02
