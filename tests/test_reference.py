"""Laws of the references: exactness, order of convergence, conservation, statistics."""

import sys
import warnings

import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import torch
from scipy import stats
from sklearn.exceptions import ConvergenceWarning

from skfokker import Equation
from skfokker.dynamics.drift import Interaction
from skfokker.potentials import (
    CallablePotential,
    DistributionPotential,
    DoubleWell,
    Quadratic,
    StyblinskiTang,
    Zero,
)
from skfokker.reference import (
    finite_volumes,
    finite_volumes_2d,
    gaussian_log_density,
    kl_gaussians,
    langevin,
    linear_moments,
    ornstein_uhlenbeck,
)
from skfokker.reference.finite_volumes import bernoulli, scharfetter_gummel
from skfokker.reference.tr_bdf2 import adaptive, replay

RANDOM = np.random.default_rng(0)


def spd(d, seed=0):
    root = np.random.default_rng(seed).standard_normal((d, d))
    return root @ root.T / d + 0.3 * np.eye(d)


class TestOrnsteinUhlenbeck:
    @pytest.mark.parametrize("d", [1, 3])
    @pytest.mark.parametrize("beta", [0.1, 1.0])
    def test_solves_the_moment_equations(self, d, beta):
        potential, start = Quadratic(np.arange(d) + 1.0, spd(d)), spd(d, 1)
        hessian = np.linalg.inv(potential.covariance)

        def slope(_, state):
            mean, covariance = state[:d], state[d:].reshape(d, d)
            drift = hessian @ covariance
            spread = 2 * beta * np.eye(d) - drift - drift.T
            return np.concatenate([-hessian @ (mean - potential.mean), spread.ravel()])

        initial = np.concatenate([np.ones(d), start.ravel()])
        solved = scipy.integrate.solve_ivp(slope, (0, 0.7), initial, rtol=1e-11, atol=1e-12)
        mean, covariance = ornstein_uhlenbeck(
            potential, 0.7, beta=beta, mean0=np.ones(d), covariance0=start
        )
        np.testing.assert_allclose(mean, solved.y[:d, -1], atol=1e-9)
        np.testing.assert_allclose(covariance.ravel(), solved.y[d:, -1], atol=1e-9)

    def test_heat(self):
        mean, covariance = ornstein_uhlenbeck(Zero(3), [0.0, 2.0], beta=0.5, mean0=[1, 2, 3])
        np.testing.assert_allclose(mean, [[1, 2, 3]] * 2)
        np.testing.assert_allclose(covariance, [np.eye(3), 3 * np.eye(3)])

    def test_flat_and_unstable_directions(self):
        hessian = np.diag([2.0, 0.0, -1.0])
        _, covariance = linear_moments(
            0.5, np.zeros(3), hessian, 1.0, np.zeros(3), np.zeros((3, 3))
        )
        np.testing.assert_allclose(
            np.diag(covariance), [(1 - np.exp(-2)) / 2, 1.0, np.exp(1) - 1], rtol=1e-12
        )

    def test_equilibrium(self):
        potential = Quadratic([1.0, 2.0], spd(2))
        mean, covariance = ornstein_uhlenbeck(potential, np.inf, beta=0.5)
        np.testing.assert_allclose(mean, [1, 2])
        np.testing.assert_allclose(covariance, 0.5 * spd(2))

    def test_paper_numbers(self):
        # findings: mean and variance of the 2-D isotropic quadratic
        mean, covariance = ornstein_uhlenbeck(Quadratic([3.0, 3.0], 0.25), [0.05, 0.1, 0.15, 0.2])
        np.testing.assert_allclose(mean[:, 0], [0.544, 0.989, 1.354, 1.652], atol=5e-4)
        np.testing.assert_allclose(covariance[:, 0, 0], [0.753, 0.587, 0.476, 0.401], atol=5e-4)

    def test_errors(self):
        with pytest.raises(TypeError, match="Quadratic or Zero"):
            ornstein_uhlenbeck(StyblinskiTang(1), 1.0)
        with pytest.raises(ValueError, match="at least 0"):
            ornstein_uhlenbeck(Zero(1), -1.0)


class TestGaussians:
    def test_log_density_is_torchs(self):
        x, mean, covariance = RANDOM.standard_normal((5, 3)), np.ones(3), spd(3)
        law = torch.distributions.MultivariateNormal(
            torch.from_numpy(mean), torch.from_numpy(covariance)
        )
        np.testing.assert_allclose(
            gaussian_log_density(x, mean, covariance), law.log_prob(torch.from_numpy(x)).numpy()
        )

    def test_kl_is_torchs_and_keeps_small_digits(self):
        laws = [
            torch.distributions.MultivariateNormal(torch.full((4,), m), torch.from_numpy(spd(4, k)))
            for m, k in ((0.0, 0), (1.0, 1))
        ]
        laws = [law.expand(()) for law in laws]
        wanted = float(torch.distributions.kl_divergence(*laws))
        assert kl_gaussians(np.zeros(4), spd(4, 0), np.ones(4), spd(4, 1)) == pytest.approx(wanted)
        assert kl_gaussians([0.0], [[1.0]], [0.0], [[1.0]]) == 0
        tiny = kl_gaussians(np.zeros(2), (1 + 1e-8) * np.eye(2), np.zeros(2), np.eye(2))
        assert tiny == pytest.approx(2 * 1e-16 / 4, rel=1e-6)


class TestLangevin:
    def test_moments_are_those_of_ornstein_uhlenbeck(self):
        potential, n = Quadratic([1.0, -1.0], spd(2)), 20_000
        times = [0.2, 1.0]
        x = langevin(potential, times, beta=0.5, n_particles=n, n_steps=200, seed=3)
        assert x.shape == (2, n, 2) and x.dtype == np.float64
        for k, t in enumerate(times):
            mean, covariance = ornstein_uhlenbeck(potential, t, beta=0.5)
            # statistical error and, with h = 1/200, a bias below 1 %
            np.testing.assert_allclose(x[k].mean(0), mean, atol=5 / n**0.5 + 0.01)
            np.testing.assert_allclose(np.cov(x[k].T), covariance, atol=0.03)

    def test_bias_is_of_first_order(self):
        # one step of Euler-Maruyama on V = x^2 / 2 has variance (1 - h)^2 + 2 h, exactly
        x = langevin(Quadratic([0.0]), 0.5, n_particles=200_000, n_steps=1, seed=0)
        assert x.var() == pytest.approx(0.25 + 1.0, rel=0.02)

    def test_second_order(self):
        # V = x^2 / 2, the same noise: one step of order 2 multiplies x by 1 - h + h^2 / 2
        h, start = 0.5, np.linspace(-3, 3, 7)[:, None]
        a, b = (langevin(Quadratic([0.0]), h, x0=x0, n_steps=1, weak_order=2, seed=1)
                for x0 in (start, 0 * start))  # fmt: skip
        np.testing.assert_allclose(a - b, (1 - h + h**2 / 2) * start, atol=1e-12)
        # and the variance after two steps is off by a tenth of what Euler-Maruyama's is
        wanted = 1 - np.exp(-2.0)
        errors = []
        for order in (1, 2):
            x = langevin(Quadratic([0.0]), 1.0, x0=np.zeros((400_000, 1)), n_steps=4,
                         weak_order=order)  # fmt: skip
            errors.append(abs(x.var() - wanted))
        assert errors[1] < 0.2 * errors[0]
        with pytest.raises(ValueError, match="weak_order must be 1 or 2"):
            langevin(Quadratic([0.0]), 1.0, weak_order=2, tamed=True)

    def test_seeds_and_starts(self):
        runs = [
            langevin(StyblinskiTang(2), 0.1, n_particles=9, n_steps=5, seed=s) for s in (0, 0, 1)
        ]
        assert (runs[0] == runs[1]).all() and (runs[0] != runs[2]).all()
        start = RANDOM.standard_normal((4, 2))
        assert (langevin(StyblinskiTang(2), [0.0], x0=start)[0] == start).all()

    def test_explosion_is_reported_and_taming_helps(self):
        potential = CallablePotential(lambda x: x.pow(8).sum(1), 1)
        arguments = dict(n_particles=1000, n_steps=20)
        with pytest.raises(ValueError, match="tamed=True"):
            langevin(potential, 1.0, **arguments)
        assert np.abs(langevin(potential, 1.0, tamed=True, **arguments)).max() < 10

    def test_errors(self):
        with pytest.raises(ValueError, match="ascending"):
            langevin(StyblinskiTang(1), [1.0, 0.5])
        with pytest.raises(ValueError, match="x0 must have shape"):
            langevin(StyblinskiTang(1), 1.0, x0=np.zeros(3))


class TestScheme:
    """Order, conservation and equilibrium of the discretisation itself."""

    @staticmethod
    def operator(n, beta=1.0):
        grid = np.linspace(-8, 8, n + 1)
        values = Quadratic([1.0], 0.5)(torch.from_numpy(grid)[:, None]).numpy()
        operator = scharfetter_gummel(values, grid[1] - grid[0], beta)
        start = np.exp(gaussian_log_density(grid[:, None], [0.0], [[1.0]]))
        return grid, operator, start

    def test_bernoulli(self):
        u = np.array([-800.0, -1.0, -1e-9, 0.0, 1e-9, 1.0, 800.0])
        with np.errstate(over="ignore"):
            np.testing.assert_allclose(bernoulli(u)[[1, 5]], u[[1, 5]] / np.expm1(u[[1, 5]]))
        np.testing.assert_allclose(bernoulli(u) - bernoulli(-u), -np.clip(u, -700, 700))

    def test_gibbs_is_the_equilibrium(self):
        grid, operator, _ = self.operator(200, beta=0.3)
        gibbs = np.exp(-((grid - 1) ** 2) / 0.3)
        assert np.abs(operator.apply(gibbs)).max() < 1e-10

    def test_mass_is_conserved(self):
        _, operator, start = self.operator(400)
        states = replay(operator, start, np.linspace(0, 1, 101), 1)
        masses = np.array([(operator.weights * p).sum() for p in states])
        assert np.abs(masses - masses[0]).max() < 1e-12

    def test_second_order_in_space(self):
        errors = []
        for n in (100, 200, 400):
            grid, operator, start = self.operator(n)
            p = replay(operator, start, np.linspace(0, 0.5, 801), 1)[-1]
            mean, covariance = ornstein_uhlenbeck(Quadratic([1.0], 0.5), 0.5)
            exact = np.exp(gaussian_log_density(grid[:, None], mean, covariance))
            errors.append((operator.weights * np.abs(p - exact)).sum())
        slopes = np.diff(np.log2(errors))
        assert (np.abs(slopes + 2) < 0.1).all()

    def test_second_order_in_time(self):
        _, operator, start = self.operator(200)
        ends = [
            replay(operator, start, np.linspace(0, 0.5, k + 1), 1)[-1] for k in (20, 40, 80, 1280)
        ]
        errors = [(operator.weights * np.abs(p - ends[-1])).sum() for p in ends[:-1]]
        assert (np.abs(np.diff(np.log2(errors)) + 2) < 0.15).all()

    def test_stiff_modes_are_damped(self):
        _, operator, _ = self.operator(200)
        noise = RANDOM.standard_normal(201)
        end = replay(operator, noise, np.array([0.0, 1e6]), 1)[-1]
        equilibrium = np.exp(-((np.linspace(-8, 8, 201) - 1) ** 2))
        equilibrium *= (operator.weights * noise).sum() / (operator.weights * equilibrium).sum()
        assert np.abs(end - equilibrium).max() < 1e-3 * np.abs(noise).max()

    def test_adaptive_steps_follow_the_tolerance(self):
        _, operator, start = self.operator(200)
        counts = [len(adaptive(operator, start, 3.0, tol)[0]) for tol in (1e-3, 1e-5)]
        assert counts[0] < counts[1] < 20 * counts[0]


class TestFiniteVolumes:
    @pytest.mark.parametrize(
        ("potential", "beta", "mean0", "variance0", "t_end"),
        [
            (Quadratic([3.0], 0.25), 1.0, 0.0, 1.0, 0.7),
            (Quadratic([1.0], 1.0), 0.1, -1.0, 0.3, 2.0),
            (Zero(1), 1.0, 0.0, 1.0, 5.0),
        ],
        ids=["quadratic", "cold", "heat"],
    )
    def test_exact_on_gaussians(self, potential, beta, mean0, variance0, t_end):
        solution = finite_volumes(potential, t_end, beta=beta, initial=(mean0, variance0))
        assert solution.mass_error < 1e-11 and solution.error < 1e-5
        for t in (0.0, 0.0313 * t_end, 0.5 * t_end, t_end):
            mean, covariance = ornstein_uhlenbeck(
                potential, t, beta=beta, mean0=[mean0], covariance0=[[variance0]]
            )

            def exact(x, m=mean, s=covariance):
                return gaussian_log_density(x[:, None], m, s)

            square = solution.expectation(
                lambda x, t=t, e=exact: (solution.log_density(x, t) - e(x)) ** 2, t
            )
            assert np.sqrt(square) < 2e-6
            assert solution.mean(t) == pytest.approx(mean[0], abs=1e-6)
            assert solution.variance(t) == pytest.approx(covariance[0, 0], rel=1e-6)
            wanted = 0.5 * np.log(2 * np.pi * np.e * covariance[0, 0])
            assert solution.entropy(t) == pytest.approx(wanted, abs=1e-6)
            x = mean[0] + np.linspace(-5, 5, 11) * np.sqrt(covariance[0, 0])  # tails as well
            np.testing.assert_allclose(solution.log_density(x, t), exact(x), atol=1e-3)

    @pytest.mark.parametrize("beta", [0.1, 1.0, 10.0])
    def test_against_its_own_refinement(self, beta):
        rough = finite_volumes(StyblinskiTang(1), 3.0, beta=beta, tol=1e-4)
        fine = finite_volumes(StyblinskiTang(1), 3.0, beta=beta)
        assert len(rough.times) < len(fine.times)
        for t in (0.05, 0.3, 1.8, 3.0):
            square = fine.expectation(
                lambda x, t=t: (rough.log_density(x, t) - fine.log_density(x, t)) ** 2, t
            )
            assert np.sqrt(square) < rough.error + fine.error

    def test_reaches_the_equilibrium(self):
        solution = finite_volumes(DoubleWell(1), 10.0, beta=0.5, tol=1e-4)

        def gibbs(x):
            return np.exp(-((x**2 - 1) ** 2) / 0.5)

        z = scipy.integrate.quad(gibbs, -5, 5)[0]
        x = np.linspace(-2, 2, 9)
        np.testing.assert_allclose(solution.density(x, 10.0), gibbs(x) / z, rtol=1e-5)

    def test_distribution_functions_agree(self):
        solution = finite_volumes(StyblinskiTang(1), 1.0)
        q = np.linspace(0.001, 0.999, 50)
        np.testing.assert_allclose(solution.cdf(solution.quantile(q, 0.7), 0.7), q, atol=1e-9)
        assert solution.cdf([-99.0, 99.0], 0.7).tolist() == [0.0, 1.0]
        x = solution.sample(50_000, 0.7, seed=1)
        assert x.shape == (50_000, 1)
        assert x.mean() == pytest.approx(solution.mean(0.7), abs=0.05)
        assert x.var() == pytest.approx(solution.variance(0.7), rel=0.02)
        mass = scipy.integrate.trapezoid(solution.density(solution.grid, 0.7), solution.grid)
        assert mass == pytest.approx(1.0, abs=1e-9)

    def test_far_tails_stay_finite_and_fall(self):
        solution = finite_volumes(StyblinskiTang(1), 1.0, beta=0.1)
        x = np.array([3.0, 5.0, 20.0, 1e3])
        for t in (0.0, 1e-3, 0.5, 1.0):
            values = solution.log_density(x, t)
            assert np.isfinite(values).all() and (np.diff(values) < 0).all()

    def test_any_start_and_any_domain(self):
        def two(x):
            return np.logaddexp(-2 * (x - 2) ** 2, -2 * (x + 2) ** 2)

        solution = finite_volumes(Zero(1), 0.5, initial=two)
        wanted = 0.25 + 2 * 0.5 + 4  # variances add
        assert solution.variance(0.5) == pytest.approx(wanted, rel=1e-6)
        far = finite_volumes(Quadratic([20.0]), 1.0)  # the mass walks out of the first guess
        assert far.mean(1.0) == pytest.approx(20 * (1 - np.exp(-1)), abs=1e-4)
        gamma = DistributionPotential(torch.distributions.Gamma(4.0, 1.0))
        walled = finite_volumes(gamma, 40.0, initial=(4.0, 0.1), domain=(1e-6, 40.0), tol=1e-3)
        assert walled.mean(40.0) == pytest.approx(4.0, abs=1e-3)

    def test_errors(self):
        gamma = DistributionPotential(torch.distributions.Gamma(4.0, 1.0))
        with pytest.raises(ValueError, match="pass a domain"):
            finite_volumes(gamma, 1.0)
        with pytest.raises(ValueError, match="t_end must be positive"):
            finite_volumes(Zero(1), 0.0)
        solution = finite_volumes(Zero(1), 1.0, tol=1e-3)
        with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
            solution.density(0.0, 1.5)
        with pytest.raises(ValueError, match="q must lie"):
            solution.quantile(1.5, 1.0)
        with pytest.warns(ConvergenceWarning, match="larger max_nodes"):
            finite_volumes(Zero(1), 1.0, tol=1e-9, n_nodes=64, max_nodes=256)


class TestFiniteVolumes2D:
    def test_exact_on_a_gaussian(self):
        potential = Quadratic([1.0, -1.0], [[0.5, 0.2], [0.2, 0.4]])
        start = dict(mean0=[0.5, 0.0], covariance0=[[1.0, 0.3], [0.3, 0.5]])
        solution = finite_volumes_2d(
            potential, 0.5, initial=tuple(start.values()), n_nodes=32, max_nodes=128, tol=0.05
        )
        assert solution.mass_error < 1e-12
        for t in (0.0, 0.07, 0.5):
            mean, covariance = ornstein_uhlenbeck(potential, t, **start)
            np.testing.assert_allclose(solution.mean(t), mean, atol=1e-3)
            np.testing.assert_allclose(solution.covariance(t), covariance, atol=1e-3)
            x = RANDOM.multivariate_normal(mean, covariance, 2000)
            error = solution.log_density(x, t) - gaussian_log_density(x, mean, covariance)
            assert np.sqrt((error**2).mean()) < max(solution.error, 1e-6)
            wanted = 1 + np.log(2 * np.pi) + 0.5 * np.linalg.slogdet(covariance)[1]
            assert solution.entropy(t) == pytest.approx(wanted, abs=1e-3)
            square = solution.expectation(lambda x: x[:, 0] ** 2, t)
            assert square == pytest.approx(covariance[0, 0] + mean[0] ** 2, abs=2e-3)

    def test_samples_have_the_density(self):
        potential = Quadratic([1.0, -1.0], [[0.5, 0.2], [0.2, 0.4]])
        solution = finite_volumes_2d(potential, 0.5, n_nodes=32, max_nodes=128, tol=0.05)
        x = solution.sample(20_000, 0.5, seed=1)
        assert x.shape == (20_000, 2) and (x == solution.sample(20_000, 0.5, seed=1)).all()
        mean, covariance = ornstein_uhlenbeck(potential, 0.5)
        np.testing.assert_allclose(x.mean(0), mean, atol=0.025)
        np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.025)
        # chi-squared: white, the squared radius is exponential
        white = np.linalg.solve(np.linalg.cholesky(covariance), (x - mean).T)
        assert stats.kstest((white**2).sum(0) / 2, "expon").pvalue > 1e-3

    def test_product_of_one_dimensional_solutions(self):
        solution = finite_volumes_2d(StyblinskiTang(2), 0.3, n_nodes=32, max_nodes=128, tol=0.3)
        single = finite_volumes(StyblinskiTang(1), 0.3)
        for axis in (0, 1):
            wanted = single.density(solution.axes[axis], 0.3)
            got = solution.marginal(axis, 0.3)
            assert np.abs(got - wanted).max() < 2e-3 * wanted.max()
        x = RANDOM.standard_normal((500, 2))
        wanted = single.log_density(x, 0.3).sum(1)
        assert np.sqrt(((solution.log_density(x, 0.3) - wanted) ** 2).mean()) < 5e-3


def kinetic(x):
    return torch.stack([x[:, 1], -x[:, 0] - 2 * x[:, 1]], 1)


def driven_trap(x, t):
    return 0.5 * (2 + np.cos(3 * t)) * (x - np.sin(2 * t)).square().sum(1)


def swarm(x, t):
    return x.new_tensor([np.cos(t), np.sin(t)]) - x


class TestEquations:
    """References of equations that are no gradient flows, against closed forms and each other."""

    def test_moments_of_a_kinetic_equation(self):
        A, D = np.array([[0.0, 1.0], [-1.0, -2.0]]), np.diag([0.0, 2.0])
        equation = Equation(drift=kinetic, diffusion=[0.0, 2.0])
        start = dict(mean0=[2.0, 0.0], covariance0=0.25 * np.eye(2))
        means, covariances = ornstein_uhlenbeck(equation, [0.0, 0.7, 2.0], **start)
        for t, mean, covariance in zip((0.0, 0.7, 2.0), means, covariances, strict=True):
            both = scipy.linalg.expm(t * np.block([[A, 2 * D], [np.zeros((2, 2)), -A.T]]))
            flow = both[:2, :2]
            exact = flow @ [2.0, 0.0], (0.25 * flow + both[:2, 2:]) @ flow.T
            assert kl_gaussians(mean, covariance, *exact) < 1e-20

    def test_moments_of_a_potential_as_an_equation(self):
        potential, start = Quadratic([1.0, 2.0], spd(2)), spd(2, 1)
        equation = Equation(potential, diffusion=0.3)
        found = ornstein_uhlenbeck(equation, 0.8, covariance0=start)
        assert kl_gaussians(
            *found, *ornstein_uhlenbeck(potential, 0.8, beta=0.3, covariance0=start)
        ) < 1e-20  # fmt: skip

    def test_moments_of_a_mean_field(self):
        # W = k r^2 / 2 pulls to the mean: it leaves the mean alone and adds k to the rate
        equation = Equation(
            drift=swarm, diffusion=0.2, interaction=lambda r: 1.5 * r.square().sum(1), n_features=2
        )
        mean, covariance = ornstein_uhlenbeck(equation, 0.6)
        alone = ornstein_uhlenbeck(Equation(drift=swarm, diffusion=0.2, n_features=2), 0.6)[0]
        np.testing.assert_allclose(mean, alone, atol=1e-11)
        wanted = 0.05 + 0.95 * np.exp(-8 * 0.6)
        np.testing.assert_allclose(covariance, wanted * np.eye(2), atol=1e-11)
        with pytest.raises(ValueError, match="linear in the law"):
            finite_volumes_2d(equation, 1.0)

    def test_what_is_not_linear_is_refused(self):
        with pytest.raises(ValueError, match="its drift at t = 0 is not"):
            ornstein_uhlenbeck(Equation(drift=lambda x: -(x**3), n_features=2), 1.0)
        bent = Equation(drift=lambda x: -x, diffusion=lambda x: 1 + x**2, n_features=2)
        with pytest.raises(ValueError, match="its diffusion"):
            ornstein_uhlenbeck(bent, 1.0)

    def test_particles_in_a_driven_trap(self):
        times, n = [0.4, 1.0], 40_000
        x = langevin(driven_trap, times, beta=0.5, n_particles=n, n_features=1, n_steps=50,
                     weak_order=2)  # fmt: skip
        means, covariances = ornstein_uhlenbeck(driven_trap, times, beta=0.5, mean0=[0.0])
        np.testing.assert_allclose(x.mean(1), means, atol=5 / n**0.5)
        np.testing.assert_allclose(x.var(1)[:, 0], covariances[:, 0, 0], rtol=5 * (2 / n) ** 0.5)

    def test_particles_with_noise_of_their_own(self):
        # dX = X dB is a martingale whose square grows by e^t
        equation = Equation(diffusion=lambda x: x**2 / 2, n_features=1)
        x = langevin(equation, 0.5, x0=np.ones((40_000, 1)), n_steps=200)
        assert x.mean() == pytest.approx(1.0, abs=0.02)
        assert (x**2).mean() == pytest.approx(np.exp(0.5), rel=0.03)
        with pytest.raises(ValueError, match="take weak_order=1"):
            langevin(equation, 0.5, weak_order=2)

    @pytest.mark.parametrize("linear", [True, False])
    def test_particles_that_interact(self, linear, monkeypatch):
        """Linear forces go through the mean of all; in batches they have the same law."""
        module = sys.modules["skfokker.reference.langevin"]
        monkeypatch.setattr(module, "_is_linear", lambda *_: linear)
        equation = Equation(
            drift=swarm, diffusion=0.2, interaction=lambda r: 0.5 * r.square().sum(1), n_features=2
        )
        half = RANDOM.standard_normal((2000, 2))
        x = langevin(equation, 0.5, x0=np.concatenate([half, -half]), n_steps=50)
        mean, covariance = ornstein_uhlenbeck(equation, 0.5)
        np.testing.assert_allclose(x.mean(0), mean, atol=0.03)
        np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.03)

    def test_forces_within_a_batch(self):
        """Of fewer particles than a batch, the mean over all others, exactly."""
        module = sys.modules["skfokker.reference.langevin"]
        pair = Interaction(lambda r: (-r.square().sum(1)).exp(), 2)
        x = torch.randn(20, 2, dtype=torch.float64)
        r = x[:, None] - x
        exact = (2 * r * (-r.square().sum(2, keepdim=True)).exp()).sum(1) / 19
        force = module._batch_force(pair, x, 0.0, torch.Generator().manual_seed(0))
        torch.testing.assert_close(force, exact)
        x = torch.randn(150, 2, dtype=torch.float64)  # two batches, and some who join the first
        force = module._batch_force(pair, x, 0.0, torch.Generator().manual_seed(0))
        assert torch.isfinite(force).all()

    def test_forces_are_seen_to_be_linear_or_not(self):
        is_linear = sys.modules["skfokker.reference.langevin"]._is_linear
        assert is_linear(Interaction(lambda r, t: (1 + t) * r.square().sum(1), 2), 2)
        assert not is_linear(Interaction(lambda r: torch.exp(-r.square().sum(1)), 2), 2)

    def test_a_moving_trap_on_a_line(self):
        solution = finite_volumes(driven_trap, 1.0, beta=0.5, tol=1e-4)
        for t in (0.0, 0.37, 1.0):
            mean, covariance = ornstein_uhlenbeck(driven_trap, t, beta=0.5, mean0=[0.0])

            def gap(x, t=t, law=(mean, covariance)):
                return (solution.log_density(x, t) - gaussian_log_density(x[:, None], *law)) ** 2

            assert np.sqrt(solution.expectation(gap, t)) < max(solution.error, 1e-6)

    def test_noise_of_place_on_a_line(self):
        """At rest J = b rho - (D rho)' is 0, so that D rho = exp(int b / D)."""
        equation = Equation(drift=lambda x: -x, diffusion=lambda x: 0.3 + 0.1 * x**2, n_features=1)
        solution = finite_volumes(equation, 12.0, tol=1e-3)
        x = np.linspace(-2, 2, 9)
        exact = (1 + x**2 / 3) ** -6.0  # (0.3 + 0.1 x^2)^(-1 / 0.2 - 1), up to a constant
        ratio = solution.density(x, 12.0) / exact
        np.testing.assert_allclose(ratio / ratio.mean(), 1.0, atol=1e-4)

    def test_a_kinetic_equation_in_the_plane(self):
        equation = Equation(drift=kinetic, diffusion=[0.0, 2.0])
        start = [1.0, 0.0], [0.5, 0.5]
        solution = finite_volumes_2d(
            equation, 0.5, initial=start, domain=[[-6, 7], [-8, 8]], n_nodes=64, max_nodes=128,
            tol=0.03,
        )  # fmt: skip
        assert solution.mass_error < 1e-12
        for t in (0.2, 0.5):
            law = ornstein_uhlenbeck(equation, t, mean0=start[0], covariance0=0.5 * np.eye(2))
            np.testing.assert_allclose(solution.mean(t), law[0], atol=2e-3)
            np.testing.assert_allclose(solution.covariance(t), law[1], atol=2e-3)
            x = RANDOM.multivariate_normal(*law, 2000)
            error = solution.log_density(x, t) - gaussian_log_density(x, *law)
            assert np.sqrt((error**2).mean()) < 2 * solution.error < 0.1

    def test_a_matrix_in_time_in_the_plane(self):
        def diffusion(x, t):
            return torch.tensor([[0.5, 0.3 * np.cos(t)], [0.3 * np.cos(t), 0.4]])

        equation = Equation(drift=lambda x: torch.stack([x[:, 1], -x[:, 0]], 1) - x,
                            diffusion=diffusion, n_features=2)  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            solution = finite_volumes_2d(
                equation, 0.5, domain=[[-5, 5], [-5, 5]], n_nodes=16, max_nodes=32, tol=0.3
            )
        mean, covariance = ornstein_uhlenbeck(equation, 0.5)
        np.testing.assert_allclose(solution.mean(0.5), mean, atol=1e-3)
        np.testing.assert_allclose(solution.covariance(0.5), covariance, atol=2e-3)
