"""Every problem loads, is consistent with itself, and agrees with its particles."""

import pickle

import numpy as np
import pytest
import torch

from skfokker import problems
from skfokker.potentials import Potential, check_potential

SEPARABLE = [
    name for name in problems.names() if isinstance(problems.load(name), problems.SeparableProblem)
]


@pytest.mark.parametrize("name", problems.names())
def test_is_consistent(name):
    problem = problems.load(name)
    assert name in problem.name
    assert check_potential(problem.potential) is problem.potential
    assert problem.times[-1] <= problem.t_final and np.all(np.diff(problem.times) > 0)
    assert problem.initial_mean.shape == (problem.d,)
    assert problem.initial_covariance.shape == (problem.d, problem.d)
    assert problem.start(5).shape == (5, problem.d)
    x = torch.randn(5, problem.d, dtype=torch.float64)
    torch.testing.assert_close(
        problem.potential.value_and_grad(x)[1], Potential.value_and_grad(problem.potential, x)[1]
    )
    again = pickle.loads(pickle.dumps(problem))
    assert again.name == problem.name
    torch.testing.assert_close(again.potential(x), problem.potential(x))


@pytest.mark.parametrize("name", SEPARABLE)
def test_parts_add_up(name):
    problem = problems.load(name)
    x = torch.randn(5, problem.d, dtype=torch.float64)
    parts = [problem.parts[k](x[:, i : i + 1]) for i, k in enumerate(problem.which)]
    constant = problem.potential(x) - torch.stack(parts).sum(0)
    torch.testing.assert_close(constant, constant[:1].expand(5))


@pytest.mark.parametrize(
    "name",
    [
        "quadratic-10d",
        "styblinski-tang-10d",
        "styblinski-tang-1d-beta10",
        "double-well-2d",
        "ou-benchmark",
    ],
)
def test_moments_density_samples_and_particles_agree(name):
    problem, n = problems.load(name), 2000
    t = problem.times[0]
    mean, covariance = problem.moments(t)
    spread = np.sqrt(np.diag(covariance))
    for x in (problem.sample(n, t, seed=1), problem.particles(n, t, seed=1)):
        assert x.shape == (n, problem.d)
        assert (np.abs(x.mean(0) - mean) < (5 / n**0.5 + 0.02) * spread).all()
        assert (np.abs(x.var(0) / spread**2 - 1) < 0.15).all()
    # E[exp(log q - log p)] = 1 under p, for q a narrower Gaussian
    x = problem.sample(n, t, seed=2)
    log_density = problem.log_density(x, t)
    assert log_density.shape == (n,)
    if problem.d <= 2:
        z = (x - mean) / spread
        log_q = -(z**2).sum(1) - np.log(spread).sum() - problem.d / 2 * np.log(np.pi)
        ratio = np.exp(log_q - log_density)
        assert abs(ratio.mean() - 1) < 5 * ratio.std() / n**0.5


def test_quadratic_10d_is_the_corrected_solution():
    problem = problems.load("quadratic-10d")
    for t in (0.1, 0.5, 2.0):
        mean, covariance = problem.moments(t)
        f = 3 / 8 * np.exp(-8 * t)
        np.testing.assert_allclose(mean[:2], (1 - np.exp(-4 * t)) * np.ones(2))
        np.testing.assert_allclose(
            covariance[:2, :2], [[5 / 8 + f, -3 / 8 + f], [-3 / 8 + f, 5 / 8 + f]]
        )
        np.testing.assert_allclose(mean[4:6], [1 - np.exp(-t), 2 - 2 * np.exp(-4 * t)])
        np.testing.assert_allclose(covariance[8, 8], 1 / 4 + 3 / 4 * np.exp(-8 * t))


def test_heat_and_ou_benchmark():
    mean, covariance = problems.load("heat-8d").moments(2.0)
    np.testing.assert_allclose(covariance, 5 * np.eye(8))
    problem = problems.load("ou-benchmark", d=4, k=3)
    assert problem.d == 4 and problem.name == "ou-benchmark-4d-3"
    # the recipe of benchmarks: seed numpy globally, draw Sigma, then b
    import zlib

    from sklearn.datasets import make_spd_matrix

    state = np.random.get_state()
    np.random.seed(zlib.crc32(b"abacaba@4@3numpy"))
    covariance, mean = make_spd_matrix(4), np.random.randn(4)
    np.random.set_state(state)
    np.testing.assert_array_equal(problem.potential.covariance, covariance)
    np.testing.assert_array_equal(problem.potential.mean, mean)


def test_parameters():
    assert problems.load("nine-gaussians", d=3, k=2).potential.n_features_in_ == 3
    assert problems.load("styblinski-tang-30d", beta=0.1).beta == 0.1
    assert problems.load("styblinski-tang-30d-beta0.1").beta == 0.1
    spectrum = np.linalg.eigvalsh(problems.load("ou-spectrum", d=6).potential.covariance)
    assert spectrum.min() >= 0.5 and spectrum.max() <= 1


def test_targets():
    problem = problems.load("gaussian-grid-25")
    x = problem.target_sample(4000)
    assert x.shape == (4000, 2)
    np.testing.assert_allclose(x.var(0), 50.3, rtol=0.05)
    entropy = -problem.stationary_log_density(x).mean()
    assert entropy == pytest.approx(np.log(25) + 1 + np.log(2 * np.pi * 0.3), abs=0.05)
    with pytest.raises(NotImplementedError, match="sample"):
        problem.moments(1.0)
    with pytest.raises(NotImplementedError, match="normalisation"):
        problems.load("rosenbrock-10d").stationary_log_density(np.zeros((1, 10)))


def test_unknown_names():
    with pytest.raises(ValueError, match="did you mean 'rosenbrock-10d'"):
        problems.load("rosenbrok-10d")
    with pytest.raises(ValueError, match=r"problems\.names"):
        problems.load("???")
