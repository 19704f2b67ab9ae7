"""What a certificate averages over a plane, by quadrature: against points, grids and identities."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from skfokker import ParametricFokkerPlanck, problems
from skfokker.certificate import certify
from skfokker.equation import FokkerPlanck
from skfokker.flows import ConditionalFlow
from skfokker.flows.bases import CubicSplines, Polynomials
from skfokker.imbalance import Imbalance
from skfokker.planar_look import PlanarLook, Turns, planar_look
from skfokker.potentials import CallablePotential, CheckedPotential, Quadratic, Rosenbrock
from skfokker.reference import finite_volumes_2d
from skfokker.schemes.normal_equations import InnerProblem
from skfokker.schemes.points import sobol_normal
from skfokker.trajectory import Trajectory

BETA, HORIZON = 0.6, 0.5


@pytest.fixture(scope="module")
def holes():
    """A march over three holes and its equation."""
    potential = problems.load("three-holes").potential
    fit = ParametricFokkerPlanck(beta=BETA, random_state=0, tol=10).fit(potential, HORIZON)
    return fit, FokkerPlanck(CheckedPotential(potential), BETA, 2)


def equation_of(potential, beta, d):
    return FokkerPlanck(CheckedPotential(potential), beta, d)


def wandering(d=2, scale=0.1, seed=0):
    """Conditional densities on the way to nowhere in particular."""
    knots = np.linspace(-7, 7, 9).tolist()
    own, features = [("splines", knots)] * d, [("splines", knots[::2])] * d
    groups = [[((i - 1,), [list(range(7))], 10**6) if i % 2 else ((), [], 10**6)] for i in range(d)]
    flow = ConditionalFlow(own, features, groups)
    generator = torch.Generator().manual_seed(seed)
    m = flow.n_parameters(d)
    theta, rate = scale * torch.randn(2, m, dtype=torch.float64, generator=generator)
    times, theta = np.array([0.0, 0.2, 0.4]), theta + flow.init(d)
    thetas = np.stack([(theta + t * rate).numpy() for t in times])
    return Trajectory(times, thetas, np.stack([rate.numpy()] * 3), flow, d)


def fields(look, t):
    plane, march = look.planes[0], look.trajectory
    theta, rate = (march.flow.split(torch.as_tensor(a)) for a in march.at(t))
    return plane, plane.fields(theta, rate)


def mean_square(weights, field):
    return float(sum((weights * f.square()).sum() for f in field))


def coarse(size=21, half=6.0):
    """Splines too few for three holes: what they miss is more than an error of a reference."""
    knots = np.linspace(-half, half, size).tolist()
    groups = [[((), [], 10**6)], [((0,), [list(range(size + 2))], 10**6)]]
    return ConditionalFlow([("splines", knots, 0.3)] * 2, [("splines", knots)] * 2, groups)


@pytest.mark.slow
def test_above_the_truth_and_not_far(holes):
    potential = holes[1].potential.potential
    box = [[-5.0, 5.0], [-5.0, 5.0]]
    exact = finite_volumes_2d(
        potential, HORIZON, beta=BETA, domain=box, tol=2e-2, n_nodes=32, max_nodes=128
    )
    fit = ParametricFokkerPlanck(coarse(), beta=BETA, random_state=0, tol=10)
    certificate = fit.fit(potential, HORIZON).certificate_
    assert planar_look(fit._trajectory(), holes[1]) is not None
    points = np.stack(np.meshgrid(*exact.axes, indexing="ij"), -1).reshape(-1, 2)
    cell = np.prod([axis[1] - axis[0] for axis in exact.axes])
    for t in (0.1, HORIZON):
        log_fitted, log_exact = fit.log_density(points, t), exact.log_density(points, t)
        mass = np.exp(log_fitted) * cell
        kept = mass > 1e-12
        kl = np.sum(mass[kept] * (log_fitted - log_exact)[kept])
        distance = 0.5 * np.sum(np.abs(mass - np.exp(log_exact) * cell))
        assert kl > 2 * exact.error**2  # so that the reference may stand for the truth
        assert kl < certificate.kl(t) < 10 * kl
        assert distance < certificate.total_variation(t) < 10 * distance
    # the velocity of the map itself would certify much less
    assert replace(certificate, charged=None).kl() > 10 * certificate.kl()


def test_what_a_default_fit_is_certified_to(holes):
    assert 0 < holes[0].certificate_.kl() < 1e-3


@pytest.mark.parametrize("t", [0.03, 0.3])
def test_the_residual_is_that_of_points(holes, t):
    fit, equation = holes
    march = fit._trajectory()
    theta, rate = (torch.as_tensor(a) for a in march.at(t))
    x = sobol_normal(2**14, 2, seed=0)
    ones = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    problem = InnerProblem(equation, march.flow, theta, x, ones)
    residual = problem.linearization.law_velocity(rate) + problem.g
    expected = problem.mean_square(residual)
    assert planar_look(march, equation).at(t)[0] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("t", [0.03, 0.3])
def test_the_quadrature_has_converged(holes, t):
    fit, equation = holes
    march = fit._trajectory()
    used, fine = (np.array(PlanarLook(march, equation, n).at(t)) for n in (2, 4))
    np.testing.assert_allclose(used[:2], fine[:2], rtol=2e-3)
    assert used[2] == pytest.approx(fine[2], rel=0.02)
    assert abs(used[3]) < 1e-4
    assert used[1] < 0.1 * used[0]


def test_fields_that_leave_the_law_alone_are_not_charged():
    """Any field of the span on top of a residual changes nothing; it has no weak divergence."""
    march = wandering()
    look = PlanarLook(march, equation_of(Rosenbrock(2, scale=0.02), 0.7, 2))
    plane, (weights, residual, score, _) = fields(look, 0.3)
    generator = torch.Generator().manual_seed(1)
    shape = plane.turns.first.size, plane.turns.second.size
    c = torch.randn(shape, dtype=torch.float64, generator=generator)
    turn = plane.turns.field(c, score)
    x, y = plane.block.nodes().unbind(1)
    slope = [(k * torch.cos(x + 2 * y)).view(weights.shape) for k in (1, 2)]  # of sin(x + 2 y)
    weak = sum((weights * t * s).sum() for t, s in zip(turn, slope, strict=True))
    assert abs(float(weak)) < 1e-6 * mean_square(weights, turn) ** 0.5

    def charged(residual):
        turn = plane.turns.fit(weights, residual, score)
        return mean_square(weights, [r + t for r, t in zip(residual, turn, strict=True)])

    assert charged(turn) < 1e-6 * mean_square(weights, turn)
    more = charged([r + t for r, t in zip(residual, turn, strict=True)])
    assert more == pytest.approx(charged(residual), rel=1e-4)
    assert charged(residual) < mean_square(weights, residual)


@pytest.mark.parametrize("kinds", ["splines splines", "polynomials splines", "splines polynomials"])
def test_turns_are_least_squares_in_any_functions(kinds):
    """Splines overlap with three neighbours, polynomials with all others."""
    bases = {"splines": CubicSplines(np.linspace(-4, 4, 11)), "polynomials": Polynomials(-4, 4, 6)}
    x, y = torch.linspace(-4, 4, 50).double(), torch.linspace(-4, 4, 60).double()
    weights = torch.exp(-0.5 * (x[:, None].square() + (y - torch.sin(x[:, None])).square()))
    generator = torch.Generator().manual_seed(0)
    residual = list(torch.randn(2, 50, 60, dtype=torch.float64, generator=generator))
    tilt = y - torch.sin(x[:, None])
    score = [torch.cos(x[:, None]) * tilt - x[:, None], -tilt]
    turns = Turns(*(bases[kind] for kind in kinds.split()), x, y)
    shape, root = (turns.first.size, turns.second.size), weights.sqrt()
    columns = [
        torch.stack([root * f for f in turns.field(c.view(shape), score)]).flatten()
        for c in torch.eye(len(turns)).double()
    ]
    target = -torch.stack([root * r for r in residual]).flatten()
    design = torch.stack(columns, 1)
    expected = design @ torch.linalg.lstsq(design, target[:, None], driver="gelsd").solution[:, 0]
    fitted = torch.stack([root * f for f in turns.fit(weights, residual, score)]).flatten()
    torch.testing.assert_close(fitted, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_imbalance_is_that_of_the_density():
    march, equation = wandering(), equation_of(Rosenbrock(2, scale=0.02), 0.7, 2)
    plane, (weights, *_, eps) = fields(PlanarLook(march, equation, 1), 0.3)
    theta, rate = (torch.as_tensor(a) for a in march.at(0.3))
    likely = (weights.flatten() > 1e-8).nonzero()[::37, 0]
    y = plane.block.nodes()[likely]
    expected = Imbalance(equation, march.flow, torch.Generator()).at(theta, rate, y)
    torch.testing.assert_close(eps.flatten()[likely], expected, rtol=1e-4, atol=1e-4)


def test_independent_blocks_add_up():
    march, equation = wandering(3), equation_of(Quadratic([0.5, -0.5, 0.2]), 1.0, 3)
    look = planar_look(march, equation)
    assert [len(plane.indices) for plane in look.planes] == [2, 1]
    theta, rate = (torch.as_tensor(a) for a in march.at(0.3))
    x = sobol_normal(2**14, 3, seed=0)
    ones = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    problem = InnerProblem(equation, march.flow, theta, x, ones)
    expected = problem.mean_square(problem.linearization.law_velocity(rate) + problem.g)
    assert look.at(0.3)[0] == pytest.approx(expected, rel=0.02)


def test_left_to_points_where_grids_do_not_hold_the_law():
    march = wandering(3)
    coupled = CallablePotential(lambda x: 0.5 * (x**2).sum(1) + x[:, 0] * x[:, 2] / 2, 3)
    coupled, alone = equation_of(coupled, 1.0, 3), equation_of(Quadratic([0.0] * 3), 1.0, 3)
    assert planar_look(march, coupled) is None
    assert planar_look(march, alone) is not None
    flow = march.flow
    away = march.flow.with_affine(None, torch.tensor([5.0, 0.0, 0.0]), torch.eye(3))
    outside = replace(march, thetas=np.stack([away.numpy()] * 3))
    assert planar_look(outside, alone) is None
    groups = [[((), [], 9)], [((0,), [[0, 1]], 9)], [((1,), [[0, 1]], 9)]]
    chain = ConditionalFlow(flow.own, flow.features, groups)
    assert planar_look(replace(march, flow=chain), alone) is None
    generator = torch.Generator().manual_seed(0)
    certificate = certify(march, coupled, generator, n_samples=64)
    assert certificate.residual.min() > 0
