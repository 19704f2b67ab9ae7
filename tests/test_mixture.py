"""Mixtures of Gaussians as maps: the same laws, and a velocity of their own."""

import math

import numpy as np
import pytest
import torch

from skfokker import ParametricFokkerPlanck
from skfokker.distribution import TransportedNormal
from skfokker.equation import FokkerPlanck
from skfokker.flows import Composition, Inverse, MixtureFlow, TriangularFlow
from skfokker.flows.mixture_map import normal_quantile
from skfokker.potentials import CheckedPotential, GaussianMixture, Rosenbrock
from skfokker.reference import finite_volumes_2d
from skfokker.schemes.mixture_solver import MixtureSolver
from skfokker.schemes.normal_equations import DirectSolver, InnerProblem
from skfokker.schemes.points import sobol_normal
from skfokker.scout import count_modes, send


def random_mixture(k, d, n=30, seed=0, spread=2.0):
    """A flow, parameters of components apart, latent points far into the tails."""
    generator = torch.Generator().manual_seed(seed)
    flow = MixtureFlow(k)
    theta = 0.4 * torch.randn(flow.n_parameters(d), dtype=torch.float64, generator=generator)
    theta[k : k + k * d] *= spread / 0.4
    x = 1.5 * torch.randn(n, d, dtype=torch.float64, generator=generator)
    return flow, theta, x, generator


CASES = [(1, 3), (3, 1), (5, 2), (4, 6)]


@pytest.mark.parametrize("k, d", CASES)
def test_equal_components_are_the_identity(k, d):
    flow, _, x, generator = random_mixture(k, d)
    y, log_det = flow.forward(flow.init(d, generator), x)
    torch.testing.assert_close(y, x, rtol=1e-13, atol=1e-13)
    assert log_det.abs().max() < 1e-12


@pytest.mark.parametrize("k, d", CASES)
@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_inverse_is_exact(k, d, scale):
    flow, theta, x, _ = random_mixture(k, d, spread=scale)
    x = 2 * x
    y, log_det = flow.forward(theta, x)
    back, log_det_back = flow.inverse(theta, y)
    # a flat stretch of T^-1 between two components loses digits in the proportion of its slope
    loss = (TransportedNormal(flow, theta, d).score(y).abs().amax(1) + 1) * y.abs().amax(1)
    assert ((back - x).abs().amax(1) <= 1e-13 * (1 + loss)).all()
    torch.testing.assert_close(log_det_back, -log_det, rtol=1e-10, atol=1e-10)


def test_image_is_the_mixture():
    flow, theta, x, _ = random_mixture(4, 3)
    mixture = flow.mixture(theta, 3)
    components = torch.distributions.MultivariateNormal(mixture.means, scale_tril=mixture.root)
    law = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=mixture.log_weights), components
    )
    y = flow.forward(theta, sobol_normal(2**13, 3, seed=1))[0]
    torch.testing.assert_close(TransportedNormal(flow, theta, 3).log_prob(y), law.log_prob(y))
    assert (y.mean(0) - law.mean).abs().max() < 2e-3 * law.stddev.max()
    assert (y.std(0) - law.stddev).abs().max() < 5e-3 * law.stddev.max()


@pytest.mark.parametrize("k, d", CASES)
def test_derivatives_in_the_points(k, d):
    flow, theta, x, generator = random_mixture(k, d, n=8)
    here = flow.linearize(theta, x)

    def point(p):
        y, log_det = flow.forward(theta, p[None])
        return torch.cat([y[0], log_det])

    jacobian = torch.stack([torch.autograd.functional.jacobian(point, p) for p in x])
    by_x, gradient = jacobian[:, :d], jacobian[:, d]
    v = torch.randn(8, d, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(here.by_x, by_x, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(here.grad_log_det(), gradient, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(here.solve(here.jvp(0 * theta, v)), v, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(here.solve_transposed(here.vjp(v)[1]), v, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(here.log_det, jacobian.new_tensor([point(p)[-1] for p in x]))


@pytest.mark.parametrize("k, d", CASES)
def test_score_is_carried_forward(k, d):
    flow, theta, x, generator = random_mixture(k, d)
    here = flow.linearize(theta, x)
    # any score of the latent law: that of N(0, 4 I), whose image has another density
    law = lambda y: -flow.inverse(theta, y)[0].square().sum(1) / 8 + flow.inverse(theta, y)[1]  # noqa: E731
    y = here.y.clone().requires_grad_()
    expected = torch.autograd.grad(law(y).sum(), y)[0]
    torch.testing.assert_close(here.push_score(-x / 4), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("k, d", CASES)
def test_velocity_moves_the_law(k, d):
    """d rho/dt = -div(rho v): the field is not the tangent of the map, but moves the same law."""
    flow, theta, x, generator = random_mixture(k, d, n=10)
    dtheta = torch.randn(len(theta), dtype=torch.float64, generator=generator)
    y, eps = flow.forward(theta, x)[0], 1e-5

    def velocity(y):
        return flow.law_velocity(theta, dtheta, y)

    shifts = eps * torch.eye(d, dtype=torch.float64)
    divergence = sum(
        (velocity(y + shift) - velocity(y - shift))[:, i] / (2 * eps)
        for i, shift in enumerate(shifts)
    )
    score = flow.linearize(theta, x).score
    rate = (
        flow.mixture(theta + eps * dtheta, d).log_prob(y)
        - flow.mixture(theta - eps * dtheta, d).log_prob(y)
    ) / (2 * eps)
    expected = -divergence - (velocity(y) * score).sum(1)
    torch.testing.assert_close(rate, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("k, d", CASES)
def test_products_agree(k, d):
    flow, theta, x, generator = random_mixture(k, d, n=7)
    here = flow.linearize(theta, x)
    dtheta = torch.randn(len(theta), dtype=torch.float64, generator=generator)
    v, dx = torch.randn(2, 7, d, dtype=torch.float64, generator=generator)
    pushed = here.jvp(dtheta, dx)
    by_theta, by_x = here.vjp(v)
    torch.testing.assert_close((v * pushed).sum(), by_theta @ dtheta + (by_x * dx).sum())
    left = torch.randn(7, 2, d, dtype=torch.float64, generator=generator)
    full, points = here.jacobian(left)
    expected = (left @ pushed[:, :, None])[:, :, 0]
    torch.testing.assert_close(full @ dtheta + (points @ dx[:, :, None])[:, :, 0], expected)
    moved = here.law_velocity(dtheta)
    torch.testing.assert_close((v * moved).sum(), here.law_pull_back(v) @ dtheta)
    expected = (left @ moved[:, :, None])[:, :, 0]
    torch.testing.assert_close(here.law_jacobian(left) @ dtheta, expected)


def test_density_is_differentiable_in_theta():
    flow, theta, _, _ = random_mixture(3, 2)
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def total(theta):
        return TransportedNormal(flow, theta, 2).log_prob(x).sum()

    by_hand = torch.autograd.functional.jacobian(total, theta)
    expected = torch.autograd.functional.jacobian(
        lambda theta: flow.mixture(theta, 2).log_prob(x).sum(), theta
    )
    torch.testing.assert_close(by_hand, expected, rtol=1e-7, atol=1e-9)


def test_affine_images():
    flow, theta, x, _ = random_mixture(3, 2)
    mean = torch.tensor([1.0, -2.0], dtype=torch.float64)
    scale = torch.tensor([[2.0, 0.0], [0.5, 0.3]], dtype=torch.float64)
    image = flow.mixture(flow.with_affine(theta, mean, scale), 2)
    before = flow.mixture(theta, 2).log_prob(x)
    log_det = scale.diagonal().log().sum()
    torch.testing.assert_close(image.log_prob(mean + x @ scale.T), before - log_det)


def test_quantile_far_in_the_tail():
    log_p = torch.tensor([math.log(0.5), -3.0, -499.0, -501.0, -1e4, -1e8], dtype=torch.float64)
    torch.testing.assert_close(torch.special.log_ndtr(normal_quantile(log_p)), log_p)


@pytest.mark.parametrize("k, d", [(1, 3), (3, 1), (4, 3)])
def test_closed_form_solves_the_normal_equations(k, d):
    """The regression on r_k and r_k (y - m_k) finds what the explicit metric does."""
    flow, theta, _, generator = random_mixture(k, d)
    centres = 3 * torch.randn(3, d, dtype=torch.float64, generator=generator)
    equation = FokkerPlanck(GaussianMixture(centres), 1.0, d)
    x = sobol_normal(512, d, seed=0)
    with torch.no_grad():
        problem = InnerProblem(equation, flow, theta, x, x.new_full((512,), 1 / 512))
        closed = MixtureSolver(flow, d, 1e-13, 1e-13, 0.0).solve(problem)
        direct = DirectSolver(flow, d, 1e-12).solve(problem)
    torch.testing.assert_close(
        problem.mean_square(closed.residual),
        problem.mean_square(direct.residual),
        rtol=1e-4,
        atol=0,
    )
    torch.testing.assert_close(closed.residual, direct.residual, rtol=1e-2, atol=1e-2)


def two_wells():
    return GaussianMixture([[-2.0, 0.5], [2.0, -0.5]], weights=[0.3, 0.7])


def test_modes_are_counted():
    generator = torch.Generator().manual_seed(0)

    def count(potential, scale=1.0):
        starts = scale * torch.randn(48, 2, dtype=torch.float64, generator=generator)
        return count_modes(FokkerPlanck(CheckedPotential(potential), 1.0, 2), starts)

    assert count(two_wells(), 2.0) == 2
    assert count(GaussianMixture([[0.0, 0.0], [0.5, 0.0]])) == 1
    assert count(Rosenbrock(2)) == 1  # a curved valley is one mode


@pytest.mark.parametrize("potential, several", [(two_wells(), True), (Rosenbrock(8), False)])
def test_gaussians_do_not_describe_bent_modes(potential, several):
    d, generator = potential.n_features_in_, torch.Generator().manual_seed(0)
    starts = torch.randn(2048, d, dtype=torch.float64, generator=generator)
    equation = FokkerPlanck(CheckedPotential(potential), 1.0, d)
    parts = send(equation, starts, 1.0, generator).n_parts(equation)
    assert (parts > 1) == several


@pytest.fixture(scope="module")
def fitted():
    return ParametricFokkerPlanck(MixtureFlow(3), random_state=0).fit(two_wells(), 1.0)


@pytest.mark.slow
def test_two_wells_are_marched_as_a_mixture(fitted):
    assert isinstance(fitted.flow_, MixtureFlow)
    exact = finite_volumes_2d(two_wells(), 1.0)
    for t in (0.25, 1.0):
        gap = exact.expectation(
            lambda x, t=t: exact.log_density(x, t) - fitted.log_density(x, t), t
        )
        assert -1e-3 < gap < fitted.certificate_.kl(t) < 2e-2
    assert fitted.initial_error_ < 1e-2


def test_a_mixture_is_a_law_like_any_other(fitted, tmp_path):
    x = fitted.sample(2000, t=0.5, random_state=1)
    np.testing.assert_allclose(fitted.inverse_transform(fitted.transform(x)), x, atol=1e-9)
    fitted.save(tmp_path / "model.safetensors")
    loaded = ParametricFokkerPlanck.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(loaded.log_density(x, 0.5), fitted.log_density(x, 0.5))


def test_mixtures_compose():
    """Behind the mixture a triangular map bends its components; conjugate gradients march it."""
    flow = Composition([MixtureFlow(2), Inverse(TriangularFlow(4))])
    theta = flow.init(2, torch.Generator().manual_seed(0))
    theta[:12] = random_mixture(2, 2)[1]
    x = sobol_normal(64, 2, seed=0)
    back = flow.inverse(theta, flow.forward(theta, x)[0])[0]
    torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
    here = flow.linearize(theta, x)
    v = torch.ones_like(x)
    assert torch.isfinite(here.push_score(-x)).all()
    torch.testing.assert_close(here.solve(here.jvp(0 * theta, v)), v, rtol=1e-8, atol=1e-8)


def test_a_mixture_needs_a_component():
    with pytest.raises(ValueError, match="n_components=0.*try 8"):
        MixtureFlow(0).init(2)


def test_a_component_run_empty_is_at_rest():
    """It used to wander off to where no point saw it, and to come back with all of the weight."""
    flow, d = MixtureFlow(3), 2
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [6.0, 6.0]], dtype=torch.float64)
    covariances = 0.3 * torch.eye(d, dtype=torch.float64).expand(3, d, d)
    equation = FokkerPlanck(GaussianMixture(means[:2]), 1.0, d)
    x = sobol_normal(512, d, seed=0)
    for empty in (1e-8, 1e-40, 1e-300):
        weights = torch.tensor([0.5, 0.5 - empty, empty], dtype=torch.float64)
        theta = flow.from_components(weights, means, covariances)
        with torch.no_grad():
            problem = InnerProblem(equation, flow, theta, x, x.new_full((512,), 1 / 512))
            solution = MixtureSolver(flow, d).solve(problem)
        logits, centres, triangles = flow.parts(solution.xi, d)
        assert (logits[2] - logits[:2].mean()).abs() < 1.0
        assert centres[2].norm() < 1e-2 and triangles[2].norm() < 1e-2
        assert centres[:2].norm() > 0.1  # the others are not


def test_quantiles_of_far_points_and_of_gaps():
    """Newton's iteration ends on the plateau between distant components, and beyond 35 sd."""
    flow = MixtureFlow(2)
    means = torch.tensor([[-1000.0], [1000.0]], dtype=torch.float64)
    theta = flow.from_components(
        torch.full((2,), 0.5).double(), means, torch.ones(2, 1, 1).double()
    )
    for reach in (5.0, 60.0):
        x = torch.linspace(-reach, reach, 241, dtype=torch.float64)[:, None]
        y, _ = flow.forward(theta, x)
        assert (y.diff(dim=0) >= 0).all()
        torch.testing.assert_close(flow.inverse(theta, y)[0], x, rtol=1e-10, atol=1e-10)


def test_inverse_is_exact_for_many_points():
    """Weights that add up to more than one by rounding must not end the search for a quantile."""
    generator = torch.Generator().manual_seed(0)
    for k, d in ((9, 2), (6, 3)):
        flow, theta, _, _ = random_mixture(k, d, spread=6.0)
        theta[k + k * d :] *= 4
        x = 1.8 * torch.randn(100_000, d, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            back = flow.inverse(theta, flow.forward(theta, x)[0])[0]
        torch.testing.assert_close(back, x, rtol=1e-9, atol=1e-9)
