"""Every problem loads, is consistent with itself, and agrees with its particles."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from skfokker import Equation, problems
from skfokker.potentials import Potential, check_potential
from skfokker.reference import finite_volumes_2d, langevin, ornstein_uhlenbeck
from skfokker.reference.fields import read_fields

SEPARABLE = [
    name for name in problems.names() if isinstance(problems.load(name), problems.SeparableProblem)
]


@pytest.mark.parametrize("name", problems.names())
def test_is_consistent(name):
    problem = problems.load(name)
    assert name in problem.name
    assert problem.times[-1] <= problem.t_final and np.all(np.diff(problem.times) > 0)
    assert problem.initial_mean.shape == (problem.d,)
    assert problem.initial_covariance.shape == (problem.d, problem.d)
    assert problem.start(5).shape == (5, problem.d)
    again = pickle.loads(pickle.dumps(problem))
    assert again.name == problem.name
    x = torch.randn(5, problem.d, dtype=torch.float64)
    if isinstance(problem, problems.PorousProblem):
        np.testing.assert_array_equal(again.log_density(x, 0.01), problem.log_density(x, 0.01))
        return
    if isinstance(problem.potential, Equation):
        both = (problem, again)
        fields = [read_fields(p.potential, None, 1.0, p.t_final, inside=True) for p in both]
        there, back = (field.drift(x, 0.3) for field in fields)
        torch.testing.assert_close(there, back)
        return
    assert check_potential(problem.potential) is problem.potential
    torch.testing.assert_close(
        problem.potential.value_and_grad(x)[1], Potential.value_and_grad(problem.potential, x)[1]
    )
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
        "moving-trap-8d",
        "swarm-2d",
        "kinetic-10d",
        "turning-diffusion-50d",
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


COARSE = {"domain": [[-4.5, 4.5], [-4.5, 4.5]], "n_nodes": 32, "max_nodes": 128, "tol": 0.1}


@pytest.fixture(scope="module")
def ring():
    """One ring on a grid that takes a second; wrong by a hundredth of log rho."""
    return replace(problems.load("rings-10d").parts[0], grid=COARSE)


def test_a_ring_comes_to_rest(ring):
    """At t = 1 the grid has the equilibrium, whose normalisation is known in closed form."""
    x = ring.sample(2000, 1.0)
    gap = ring.log_density(x, 1.0) - ring.stationary_log_density(x)
    assert np.abs(gap).max() < 5e-3
    early = ring.log_density(x, 0.1) - ring.stationary_log_density(x)
    assert np.abs(early).max() > 0.05
    # no direction is special
    radius, angle = np.linspace(0.1, 1.5, 8), 0.7
    along = ring.log_density(np.outer(radius, [1.0, 0.0]), 0.1)
    aslant = ring.log_density(np.outer(radius, [np.cos(angle), np.sin(angle)]), 0.1)
    np.testing.assert_allclose(along, aslant, atol=5e-3)


@pytest.mark.parametrize("name", ["rings-10d", "rings-10d-rotated"])
def test_rings_are_products_behind_a_rotation(name, ring):
    problem, t, n = replace(problems.load(name), parts=(ring,)), 0.1, 4000
    entropy = 5 * ring.solution.entropy(t)  # of either: a rotation changes no entropy
    x = problem.sample(n, t, seed=1)
    assert x.shape == (n, 10)
    # of samples of the reference itself, and of particles, which know nothing of it
    for points in (x, problem.particles(n, t, seed=1)):
        surprise = -problem.log_density(points, t)
        assert abs(surprise.mean() - entropy) < 4 * surprise.std() / n**0.5
        mean, covariance = problem.moments(t)
        np.testing.assert_allclose(points.mean(0), mean, atol=0.06)
        np.testing.assert_allclose(np.cov(points.T), covariance, atol=0.06)
    # normalised: E[exp(log q - log rho)] = 1 under rho, q a Gaussian as wide as the rings
    log_q = -(x**2).sum(1) / 0.9 - 5 * np.log(0.9 * np.pi)
    ratio = np.exp(log_q - problem.log_density(x, t))
    assert abs(ratio.mean() - 1) < 5 * ratio.std() / n**0.5 < 0.3
    if problem.rotation is not None:
        z = x @ problem.rotation
        pairs = [ring.log_density(z[:, i : i + 2], t) for i in range(0, 10, 2)]
        np.testing.assert_allclose(problem.log_density(x, t), np.sum(pairs, 0))
        off = np.abs(problem.rotation - np.eye(10)).max()
        assert off > 0.5  # it does mix the pairs


@pytest.mark.slow
def test_rotated_wells_agree_with_particles_and_planar_grids():
    problem, n = problems.load("rotated-wells-9d"), 4000
    z = np.random.default_rng(0).standard_normal((n, 9))
    x = z @ problem.rotation.T
    parts = [p.potential(torch.as_tensor(z[:, list(b)])) for p, b in
             zip(problem.parts, problem.blocks, strict=True)]  # fmt: skip
    torch.testing.assert_close(problem.potential(torch.as_tensor(x)), torch.stack(parts).sum(0))
    for t in (0.1, 0.5):
        exact = -problem.log_density(problem.sample(n, t, seed=1), t)
        simulated = -problem.log_density(problem.particles(n, t, seed=1), t)
        error = np.hypot(exact.std(), simulated.std()) / n**0.5
        assert abs(exact.mean() - simulated.mean()) < 4 * error
    # the two wells as one problem in the plane
    first, second = problem.parts[:2]
    grid = finite_volumes_2d(
        lambda z: first.potential(z[:, :1]) + second.potential(z[:, 1:]),
        2.0,
        **(COARSE | {"tol": 0.3}),
    )
    z = np.concatenate([first.sample(500, 0.5, 1), second.sample(500, 0.5, 2)], 1)
    both = first.log_density(z[:, :1], 0.5) + second.log_density(z[:, 1:], 0.5)
    assert np.sqrt(np.mean((grid.log_density(z, 0.5) - both) ** 2)) < 2e-2


def test_products_need_a_start_that_is_one(ring):
    problem = problems.load("rings-10d")
    with pytest.raises(ValueError, match="not the product"):
        replace(problem, parts=(ring,), initial_covariance=2 * np.eye(10))


@pytest.mark.parametrize("name", ["quartic-2d", "three-holes"])
def test_planar_grids_agree_with_particles(name):
    problem, n = replace(problems.load(name), grid=COARSE), 8000
    t = problem.times[1]
    exact = -problem.log_density(problem.sample(n, t, seed=1), t)
    assert abs(exact.mean() - problem.solution.entropy(t)) < 4 * exact.std() / n**0.5
    simulated = -problem.log_density(problem.particles(n, t, seed=1), t)
    error = np.hypot(exact.std(), simulated.std()) / n**0.5
    assert abs(exact.mean() - simulated.mean()) < 4 * error
    mean, covariance = problem.moments(t)
    assert mean.shape == (2,) and np.linalg.eigvalsh(covariance).min() > 0


@pytest.mark.parametrize("name", ["rosenbrock-100d", "ginzburg-landau-64d"])
def test_second_order_steps_have_converged(name):
    """Halving them on the same noise changes means by less than 20,000 particles show.

    Means of V and of a Gaussian's log-likelihood, up to t = 0.1 where slopes are steepest.
    """
    problem, t, n = problems.load(name), 0.1, 500
    steps = round(problem.langevin_steps * t / problem.t_final)
    h, generator = t / steps, torch.Generator().manual_seed(0)
    x = [torch.as_tensor(problem.start(n))] * 2
    assert problem.weak_order == 2

    def step(x, h, kick):
        pull = problem.potential.value_and_grad(x)[1]
        other = problem.potential.value_and_grad(x - h * pull + kick)[1]
        return x - h / 2 * (pull + other) + kick

    for _ in range(steps):
        kicks = [(h * problem.beta) ** 0.5 * torch.randn(x[0].shape, dtype=torch.float64,
                                                          generator=generator)
                 for _ in range(2)]  # fmt: skip
        x = [step(x[0], h, sum(kicks)), step(step(x[1], h / 2, kicks[0]), h / 2, kicks[1])]
    for function in (problem.potential, lambda x: x.square().sum(1) / 2):
        gap = function(x[0]) - function(x[1])
        visible = float(function(x[1]).std()) / 20_000**0.5
        assert abs(float(gap.mean())) < 0.2 * visible + 3 * float(gap.std()) / n**0.5
        assert float(gap.std()) < 0.1 * float(function(x[1]).std())


@pytest.mark.parametrize(
    "name",
    ["rosenbrock-100d", "ginzburg-landau-64d", "quartic-2d", "rings-10d-rotated", "three-holes"],
)
def test_particles_from_the_tails_do_not_explode(name):
    """Six standard deviations out, where slopes are cubic, with the 500 steps of the baselines."""
    problem = problems.load(name)
    h = problem.t_final / 500
    start = np.array([[6.0, 6.0], [6.0, -6.0], [-6.0, 0.0], [0.0, 6.0]]) @ np.eye(2, problem.d)
    for order, steps in ((1, 10), (problem.weak_order, 20)):
        x = langevin(problem.potential, 10 * h, beta=problem.beta, x0=np.repeat(start, 50, 0),
                     n_steps=steps, weak_order=order)  # fmt: skip
        assert np.abs(x).max() < 8


def test_unknown_names():
    with pytest.raises(ValueError, match="did you mean 'rosenbrock-10d'"):
        problems.load("rosenbrok-10d")
    with pytest.raises(ValueError, match=r"problems\.names"):
        problems.load("???")


def test_traps_have_their_closed_forms():
    problem, t = problems.load("rotating-trap-100d"), 2.0
    spectrum = np.linalg.eigvalsh(problem.moments(t)[1])
    np.testing.assert_allclose(spectrum[:2], 0.25 - 0.1875 * np.exp(-2 * t), atol=1e-10)
    np.testing.assert_allclose(spectrum[2:], 0.5 - 0.4375 * np.exp(-t), atol=1e-10)
    problem = problems.load("turning-diffusion-50d")
    root, one = problem.potential.diffusion.keywords["root"], np.eye(50)
    exact = (1 + t**3 / 3) * one + t * root @ root.T + t**2 * (root + root.T) / 2
    np.testing.assert_allclose(ornstein_uhlenbeck(problem.potential, t)[1], exact, atol=1e-9)


def test_noise_in_proportion():
    problem, n, t = replace(problems.load("log-normal-10d"), langevin_steps=300), 5000, 0.5
    x = np.log(problem.particles(n, t, seed=1))
    np.testing.assert_allclose(x.mean(0), 0.0, atol=5 / n**0.5)
    np.testing.assert_allclose(x.var(0), problem.variances + 1 - np.exp(-t), rtol=0.1)
    law = problem.initial
    x = problem.start(50)
    np.testing.assert_allclose(
        law.log_prob(torch.from_numpy(x)).numpy(), problem.log_density(x, 0.0)
    )
    assert problem.log_density(-x, 0.0).max() == -np.inf


def test_oscillators_are_copies_of_one():
    """Behind a rotation the law is turned, and so are particles on the same noise."""
    flat, turned = problems.load("duffing-8d"), problems.load("duffing-8d-rotated")
    assert flat.parts[0] is turned.parts[0] is problems.load("duffing-2d")
    z = flat.start(200, seed=1)
    fields = [read_fields(p.potential, None, 1.0, 1.0) for p in (flat, turned)]
    b = fields[0].drift_at(z, 0.0)
    np.testing.assert_allclose(
        fields[1].drift_at(z @ turned.rotation.T, 0.0), b @ turned.rotation.T, atol=1e-11
    )
    one = read_fields(problems.load("duffing-2d").potential, None, 1.0, 1.0)
    np.testing.assert_allclose(b[:, 2:4], one.drift_at(z[:, 2:4].copy(), 0.0), atol=1e-13)
    coarse = dict(domain=[[-6, 10], [-8, 14]], n_nodes=32, max_nodes=32, tol=0.5)
    oscillator = replace(problems.load("duffing-2d"), t_final=0.25, grid=coarse, langevin_steps=50)
    x, t = oscillator.particles(8000, 0.25, seed=1), 0.25
    np.testing.assert_allclose(oscillator.moments(t)[0], x.mean(0), atol=0.04)
    np.testing.assert_allclose(oscillator.moments(t)[1], np.cov(x.T), atol=0.04)


def test_stresses_of_a_dumbbell():
    problem = problems.load("dumbbell-3d")
    with pytest.raises(NotImplementedError, match="no reference density"):
        problem.log_density(np.zeros((1, 3)), 10.0)
    x = replace(problem, langevin_steps=300).particles(20_000, 10.0, seed=1)
    for function, expected in zip(problem.functions, problem.expected, strict=True):
        values = function(x)
        assert abs(values.mean() - expected) < 5 * values.std() / len(x) ** 0.5
