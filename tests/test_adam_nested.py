"""Algorithm 1: it follows the equation for a few steps, and its parts are what they claim."""

from __future__ import annotations

import pytest
import torch
from sklearn.base import clone

from skfokker.duals import NetworkDual
from skfokker.equation import FokkerPlanck
from skfokker.flows.planar import PlanarFlow
from skfokker.potentials import Quadratic
from skfokker.schemes.adam_nested import AdamNested, _Adam, _March

EQUATION = FokkerPlanck(Quadratic([3.0, 3.0], 0.25), 1.0, 2)
TINY = dict(n_outer=2, n_inner=3, n_first=None, n_samples_inner=50, n_samples_outer=60)


def _march(scheme, flow, t_end, seed=0):
    generator = torch.Generator().manual_seed(seed)
    theta = flow.init(2, generator)
    return list(scheme.steps(EQUATION, flow, theta, 0.0, t_end, generator))


def _draw(n):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_default_follows_the_exact_law():
    """Three steps on the quadratic of section 6.1: mean, covariance, free energy, dual."""
    flow, t = PlanarFlow(30), 0.015
    steps = _march(AdamNested(n_inner=10, keep_dual=True), flow, t)
    assert [s.t for s in steps] == pytest.approx([0, 0.005, 0.01, 0.015])
    energies = torch.tensor([s.record["free_energy"] for s in steps])
    assert (energies.diff() < 0).all()
    x = _draw(20000)
    x = torch.cat([x, -x])
    at = flow.linearize(steps[-1].theta, x)
    decay = torch.exp(torch.tensor(-4 * t))
    exact_mean, exact_variance = 3 * (1 - float(decay)), 0.25 + 0.75 * float(decay) ** 2
    assert at.y.mean(0).tolist() == pytest.approx([exact_mean] * 2, rel=0.08)
    assert torch.cov(at.y.T).diagonal().tolist() == pytest.approx([exact_variance] * 2, rel=0.05)
    # grad phi / h at T_k is minus the driving force, give or take the Euler step
    anchor = flow.linearize(steps[-2].theta, x)
    force = EQUATION.driving_force(anchor.y, anchor.push_score(-x))
    velocity = steps[-1].record["dual"].gradient(anchor.y) / 0.005
    assert (velocity + force).square().mean() < 0.05 * force.square().mean()


def test_as_printed_runs_ahead():
    """A dual restarted near zero holds nothing back: the law outruns the equation."""
    scheme = AdamNested.as_printed(n_inner=10)
    flow = PlanarFlow(30)
    steps = _march(scheme, flow, 0.01)
    mean = flow.forward(steps[-1].theta, _draw(2000))[0].mean(0)
    assert (mean > 1.5 * 3 * (1 - torch.exp(torch.tensor(-0.04)))).all()


def test_record_keeps_what_is_asked():
    scheme = AdamNested.as_printed(**TINY, keep_inner_losses=True, keep_dual={2})
    start, first, second = _march(scheme, PlanarFlow(5), 0.01)
    assert "inner_losses" not in start.record and "dual" not in first.record
    assert first.record["inner_losses"].shape == second.record["inner_losses"].shape == (2, 3)
    assert first.record["iterations"] == 6 and first.record["epsilon"] == 0.005
    dual = second.record["dual"]
    y = _draw(9).requires_grad_()
    (gradient,) = torch.autograd.grad(dual.value(y).sum(), y)
    torch.testing.assert_close(dual.gradient(y.detach()), gradient, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("gradient", ["score", "autograd"])
def test_reproducible_and_restartable(gradient):
    scheme = AdamNested(**TINY, gradient=gradient, warm_adam=False)
    one, two = (_march(scheme, PlanarFlow(5), 0.012, seed=4) for _ in range(2))
    assert [s.t for s in one] == pytest.approx([0, 0.004, 0.008, 0.012])
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.theta, b.theta)
    assert not torch.equal(one[0].theta, one[1].theta)  # and no state is shared between steps


def test_both_estimators_have_the_same_mean():
    """The score form of grad H and the one through log det differ by noise only."""
    flow, generator = PlanarFlow(3), torch.Generator().manual_seed(3)
    noise = torch.randn(flow.n_parameters(2), generator=generator, dtype=torch.float64)
    theta, slopes = flow.init(2, generator) + 0.3 * noise, []
    for gradient in ("score", "autograd"):
        scheme = AdamNested(gradient=gradient, epsilon=0.01, n_samples_outer=200_000)
        march = _March(scheme, EQUATION, flow, theta, torch.Generator().manual_seed(5))
        march.epsilon = scheme.epsilon
        slopes.append(march._slope(theta, theta, 1.0, march._pool(theta, 1000)))
    assert (slopes[0] - slopes[1]).abs().max() < 0.02 * slopes[0].abs().max()


def test_adam_is_adam():
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(7, generator=generator, dtype=torch.float64)
    ours, theirs = start.clone(), start.clone().requires_grad_()
    adam, reference = _Adam(ours, (0.8, 0.99)), torch.optim.Adam([theirs], 0.1, (0.8, 0.99))
    for _ in range(20):
        slope = torch.randn(7, generator=generator, dtype=torch.float64)
        adam.descend(ours, slope, 0.1)
        theirs.grad = slope
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-6, atol=1e-6)


def test_hyper_parameters():
    scheme = clone(AdamNested(dual=NetworkDual(width=8), n_outer=3))
    assert scheme.n_outer == 3 and scheme.get_params()["dual__width"] == 8
    with pytest.raises(ValueError, match="step must be positive"):
        _march(AdamNested(0), PlanarFlow(2), 0.1)
    with pytest.raises(ValueError, match="gradient must be"):
        _march(AdamNested(gradient="exact"), PlanarFlow(2), 0.1)
