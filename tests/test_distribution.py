"""The law at fixed parameters: density, score, derivatives, chunks."""

import math

import pytest
import torch

import skfokker.distribution
from skfokker.distribution import TransportedNormal, chunk_rows
from skfokker.flows import AffineFlow, Composition, ElementwiseFlow, TriangularFlow
from skfokker.flows.base import Flow

FLOWS = {
    "affine": AffineFlow(),
    "elementwise": ElementwiseFlow(n_intervals=8),
    "composition": Composition(
        [ElementwiseFlow(8), TriangularFlow(6), TriangularFlow(6, reverse=True), AffineFlow()]
    ),
}


def normal(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def random_law(flow, d, seed=0, scale=0.3):
    theta = flow.init(d, torch.Generator().manual_seed(seed))
    return TransportedNormal(flow, theta + scale * normal(len(theta), seed=seed + 1), d)


@pytest.fixture(params=FLOWS)
def law(request):
    return random_law(FLOWS[request.param], 3)


def test_log_prob_matches_the_multivariate_normal():
    law = random_law(AffineFlow(), 3)
    _, lower, upper = law.flow._parts(law.theta, 3)
    matrix = lower @ upper
    exact = torch.distributions.MultivariateNormal(law.theta[:3], matrix @ matrix.T)
    x = normal(20, 3, seed=5)
    torch.testing.assert_close(law.log_prob(x), exact.log_prob(x))


def test_density_integrates_to_one_and_has_the_moments_of_the_draws():
    law = random_law(FLOWS["composition"], 1, seed=3)
    grid = torch.linspace(-60, 60, 200_001, dtype=torch.float64)[:, None]
    density = law.log_prob(grid).exp()
    assert abs(torch.trapezoid(density, grid[:, 0]) - 1) < 1e-8
    mean = torch.trapezoid(grid[:, 0] * density, grid[:, 0])
    torch.manual_seed(0)
    draws = law.rsample((100_000,))[:, 0]
    assert abs(draws.mean() - mean) < 5 * draws.std() / math.sqrt(len(draws))


def test_score_is_the_gradient_of_log_prob(law):
    x = normal(6, 3, seed=2)
    step, columns = 1e-5, []
    for e in torch.eye(3, dtype=torch.float64) * step:
        columns.append((law.log_prob(x + e) - law.log_prob(x - e)) / (2 * step))
    torch.testing.assert_close(law.score(x), torch.stack(columns, 1), rtol=1e-6, atol=1e-6)
    points = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(law.log_prob(points).sum(), points)
    torch.testing.assert_close(gradient, law.score(x))


def test_log_prob_is_differentiable_in_theta(law):
    x, weight = normal(7, 3, seed=4), normal(7, seed=6)
    theta = law.theta.clone().requires_grad_()
    value = (weight * TransportedNormal(law.flow, theta, 3).log_prob(x)).sum()
    (gradient,) = torch.autograd.grad(value, theta)

    def at(shift):
        return (weight * TransportedNormal(law.flow, law.theta + shift, 3).log_prob(x)).sum()

    for seed in range(5):
        direction = normal(len(theta), seed=10 + seed)
        slope = (at(1e-5 * direction) - at(-1e-5 * direction)) / 2e-5
        assert math.isclose(float(slope), float(gradient @ direction), rel_tol=1e-6, abs_tol=1e-7)


def test_expected_derivative_of_log_prob_in_theta_is_zero():
    """E d log rho / d theta = 0 under rho itself."""
    law = random_law(FLOWS["composition"], 2)
    theta = law.theta.clone().requires_grad_()
    x = law.push(normal(100_000, 2, seed=8))
    mean = TransportedNormal(law.flow, theta, 2).log_prob(x).mean()
    (gradient,) = torch.autograd.grad(mean, theta)
    assert gradient.abs().max() < 0.05


def test_push_and_pull_are_inverse(law):
    z = normal(50, 3, seed=1)
    torch.testing.assert_close(law.pull(law.push(z)), z, rtol=0, atol=1e-10)


def test_rsample_is_differentiable_in_theta():
    theta = AffineFlow().init(2).requires_grad_()
    draws = TransportedNormal(AffineFlow(), theta, 2).rsample((4, 5))
    assert draws.shape == (4, 5, 2)
    (gradient,) = torch.autograd.grad(draws.sum(), theta)
    torch.testing.assert_close(gradient[:2], torch.full((2,), 20.0, dtype=torch.float64))


@pytest.mark.parametrize("method", ["push", "pull", "log_prob", "score"])
def test_chunks_change_nothing(law, method, monkeypatch):
    x = normal(200, 3, seed=1)
    whole = getattr(law, method)(x)
    monkeypatch.setattr(skfokker.distribution, "_CHUNK", 1)
    assert chunk_rows(law.flow, 3) == 64
    torch.testing.assert_close(getattr(law, method)(x), whole, rtol=1e-12, atol=1e-12)


def test_gradients_survive_chunks(monkeypatch):
    law = random_law(FLOWS["composition"], 3)
    x = normal(200, 3, seed=1).requires_grad_()
    monkeypatch.setattr(skfokker.distribution, "_CHUNK", 1)
    (gradient,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    torch.testing.assert_close(gradient, law.score(x.detach()))


def test_wide_flows_get_smaller_chunks():
    class Slow(AffineFlow):
        linearize = Flow.linearize

    assert (
        64 <= chunk_rows(Slow(), 40) < chunk_rows(AffineFlow(), 40) <= chunk_rows(AffineFlow(), 2)
    )


def test_any_leading_shape_and_a_wrong_last_one():
    law = random_law(AffineFlow(), 2)
    x = normal(4, 5, 2, seed=0)
    assert law.log_prob(x).shape == (4, 5)
    torch.testing.assert_close(law.log_prob(x)[1, 2], law.log_prob(x[1, 2]))
    with pytest.raises(ValueError, match="3 coordinates.*dimension 2"):
        law.log_prob(torch.zeros(4, 3))
    assert law.support.event_dim == 1 and law.event_shape == (2,) and law.batch_shape == ()
