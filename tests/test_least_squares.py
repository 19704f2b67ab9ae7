"""The least-squares march against exact solutions, and the laws its parts obey."""

import math

import numpy as np
import pytest
import torch

from skfokker import ParametricFokkerPlanck, metrics, problems
from skfokker.benchmark.studies.common import triangular
from skfokker.equation import FokkerPlanck
from skfokker.flows import AffineFlow, Composition, Inverse, TriangularFlow
from skfokker.flows.elementwise import ElementwiseFlow
from skfokker.potentials import CheckedPotential, Quadratic, Rosenbrock, StyblinskiTang
from skfokker.schemes.integrators import Chebyshev, bogacki_shampine, dormand_prince
from skfokker.schemes.least_squares import LeastSquaresNested, MarchError, _March
from skfokker.schemes.normal_equations import (
    ConjugateGradientSolver,
    CoordinateSolver,
    DirectSolver,
    InnerProblem,
)
from skfokker.schemes.pieces import Pieces
from skfokker.schemes.points import normal_grid, sobol_normal


@pytest.mark.parametrize(
    "integrator, order", [(bogacki_shampine(), 3), (dormand_prince(), 5), (Chebyshev(40), 2)]
)
def test_order_of_the_integrators(integrator, order):
    """A nonlinear scalar equation with a known solution; the error falls like h^order."""

    def error(n):
        y, h = torch.ones(1, dtype=torch.float64), 1 / n
        for _ in range(n):
            y, _ = integrator.step(lambda y: -(y**3), y, -(y**3), h, rho=6.0)
        return abs(float(y) - 1 / math.sqrt(3))

    slope = math.log2(error(32) / error(64))
    assert order - 0.1 < slope < order + 0.8


@pytest.mark.parametrize("h_rho", [30.0, 300.0])
def test_chebyshev_steps_are_stable_where_they_say(h_rho):
    rates = torch.linspace(0, h_rho, 200, dtype=torch.float64)
    y = torch.ones(200, dtype=torch.float64)
    after, _ = Chebyshev(40).step(lambda y: -rates * y, y, -rates * y, h=1.0, rho=h_rho)
    assert after.abs().max() <= 1.0 + 1e-12


@pytest.mark.parametrize("flow", [AffineFlow(), TriangularFlow(8)], ids=["affine", "triangular"])
def test_solvers_agree(flow):
    """Conjugate gradients and the factorisation solve the same normal equations."""
    d = 3
    composition = Composition([flow, AffineFlow()])
    equation = FokkerPlanck(Rosenbrock(d), 1.0, d)
    theta = composition.init(d, torch.Generator().manual_seed(0))
    theta = theta + 0.1 * torch.sin(torch.arange(len(theta), dtype=torch.float64))
    x = sobol_normal(512, d, seed=1)
    problem = InnerProblem(equation, composition, theta, x, torch.full((512,), 1 / 512).to(x))
    direct = DirectSolver(composition, d, 1e-6).solve(problem)
    # the factor of all points, so that both damp by the same amount
    solver = ConjugateGradientSolver(composition, d, 1e-6, tolerance=1e-9, oversampling=1e3)
    iterative = solver.solve(problem)
    torch.testing.assert_close(iterative.residual, direct.residual, rtol=0, atol=1e-4)
    assert 0 < iterative.iterations < 200


def test_coordinate_solver_is_the_direct_one():
    d, flow = 2, Composition([Inverse(ElementwiseFlow(8)), AffineFlow(diagonal=True)])
    equation = FokkerPlanck(StyblinskiTang(d), 1.0, d, separable=True)
    theta = flow.init(d) + 0.05
    x = sobol_normal(256, d, seed=1)
    problem = InnerProblem(equation, flow, theta, x, torch.full((256,), 1 / 256).to(x))
    small, full = CoordinateSolver(flow, d, 1e-9), DirectSolver(flow, d, 1e-9)
    ours, reference = small.solve(problem).residual, full.solve(problem).residual
    torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)


def test_the_residual_vanishes_where_the_family_holds_the_velocity():
    """Zero variance: any handful of points gives the exact velocity of a Gaussian."""
    d = 3
    potential = Quadratic(np.arange(d), np.diag([1.0, 0.5, 2.0]) + 0.2)
    flow = AffineFlow()
    x = sobol_normal(16, d, seed=3)
    problem = InnerProblem(
        FokkerPlanck(potential, 0.7, d), flow, flow.init(d), x, torch.full((16,), 1 / 16).to(x)
    )
    assert DirectSolver(flow, d, 1e-12).solve(problem).residual.abs().max() < 1e-9


def test_the_grid_is_a_quadrature():
    z, weights = normal_grid(200, 2)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-14)
    assert float(weights @ z[:, 0] ** 6) == pytest.approx(15, rel=1e-6)
    assert float(weights @ torch.cos(z[:, 1])) == pytest.approx(math.exp(-0.5), abs=1e-9)


@pytest.mark.parametrize("name", ["quadratic-2d-iso", "quadratic-2d-aniso", "quadratic-10d"])
def test_quadratics_are_exact(name):
    problem = problems.load(name)
    fit = ParametricFokkerPlanck(random_state=0).fit(problem.potential, problem.t_final)
    for t in np.linspace(0, problem.t_final, 7):
        mean, covariance = metrics.moments(fit, t)
        exact_mean, exact_covariance = problem.moments(t)
        assert np.linalg.norm(mean - exact_mean) < 1e-4
        assert np.linalg.norm(covariance - exact_covariance) < 1e-4
    energy = [record["free_energy"] for record in fit.history_]
    assert (np.diff(energy) < 1e-9).all()


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_marginals_of_a_product(beta):
    problem = problems.load("styblinski-tang-1d", d=2, beta=beta)
    fit = ParametricFokkerPlanck(random_state=0, beta=beta).fit(problem.potential, 1.0)
    for t in (0.3, 1.0):
        assert metrics.marginal_kl(fit, problem, t).max() < 1e-5
        assert abs(metrics.kl_from_exact(fit, problem, t, n=2000)) < 1e-3


def test_convergence_with_the_tolerance():
    problem = problems.load("quadratic-2d-iso")
    errors = []
    for tolerance in (1e-2, 1e-4, 1e-6):
        scheme = LeastSquaresNested(tolerance, max_step=1.0)
        fit = ParametricFokkerPlanck(scheme=scheme, random_state=0).fit(problem.potential, 0.7)
        errors.append(np.linalg.norm(metrics.moments(fit, 0.7)[0] - problem.moments(0.7)[0]))
    assert errors[0] > 5 * errors[1] > 25 * errors[2]


def test_a_march_that_cannot_go_on_says_so():
    equation = FokkerPlanck(CheckedPotential(Quadratic([0.0], [[1e-6]])), 1.0, 1)
    scheme = LeastSquaresNested(max_steps=3)
    flow = AffineFlow()
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(MarchError, match="max_steps=3.*try"):
        list(scheme.steps(equation, flow, flow.init(1), 0.0, 1.0, generator))


def test_a_coupled_potential_is_followed_by_triangular_maps():
    """Two coordinates of Rosenbrock: free energy falls, and the law is normalised."""
    flow = Composition(
        [TriangularFlow(16), TriangularFlow(16, reverse=True), Inverse(ElementwiseFlow(12))]
        + [AffineFlow()]
    )
    scheme = LeastSquaresNested(1e-3, damping=1e-5)
    fit = ParametricFokkerPlanck(flow, scheme, random_state=0).fit(Rosenbrock(2), 0.2)
    energy = [record["free_energy"] for record in fit.history_]
    assert energy[-1] < energy[0] - 0.2
    axis = np.linspace(-7, 7, 281)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    mass = np.exp(fit.log_density(grid)).sum() * (axis[1] - axis[0]) ** 2
    assert mass == pytest.approx(1, abs=1e-3)


def test_units_are_trained_on_as_many_points_as_fit_in_one_piece():
    """A hundred coupled coordinates used to end here: their points came in blocks."""
    d, generator = 3, torch.Generator().manual_seed(0)
    equation = FokkerPlanck(CheckedPotential(Rosenbrock(d)), 1.0, d)
    flow = triangular(d)
    theta = flow.init(d, generator)
    scheme = LeastSquaresNested(n_samples=1024, max_memory=1e-4)
    march = _March(scheme, equation, flow, theta, generator, 1e-6)
    problem = march.training_problem(theta)
    assert len(problem.x) == 256 and not isinstance(problem.linearization, Pieces)
