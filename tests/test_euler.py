"""Forward Euler on (27) against the exact Ornstein-Uhlenbeck law; the flat gradient beside it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skfokker.equation import FokkerPlanck
from skfokker.flows.affine import AffineFlow
from skfokker.flows.planar import PlanarFlow
from skfokker.potentials import Quadratic
from skfokker.schemes.euler import ForwardEuler
from skfokker.schemes.flat import FlatGradient


def _problem(d, precision=2.0):
    return FokkerPlanck(Quadratic(np.full(d, 1.5), 1 / precision), 1.0, d)


def _march(scheme, equation, flow, t_end, seed=0):
    generator = torch.Generator().manual_seed(seed)
    theta = flow.init(equation.d, generator)
    return list(scheme.steps(equation, flow, theta, 0.0, t_end, generator))


def _moments(flow, theta, d):
    x = torch.cat([torch.zeros(1, d), torch.eye(d)]).double()
    y = flow.forward(theta, x)[0]
    return y[0], (y[1:] - y[0]).T @ (y[1:] - y[0])


@pytest.mark.parametrize("d", [1, 2])
def test_first_order_against_ornstein_uhlenbeck(d):
    """The error in mean and covariance halves with the step (Theorem 33)."""
    equation, flow, t = _problem(d), AffineFlow(), 0.5
    decay = float(np.exp(-2 * t))
    mean, variance = 1.5 * (1 - decay), 0.5 + 0.5 * decay**2
    errors = []
    for step in (0.05, 0.025, 0.0125):
        last = _march(ForwardEuler(step, n_samples=8192, resample=False), equation, flow, t)[-1]
        m, c = _moments(flow, last.theta, d)
        errors.append([float((m - mean).norm()), float((c - variance * torch.eye(d)).norm())])
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert (ratios > 1.8).all() and (ratios < 2.25).all(), (errors, ratios)


def test_steps_divide_the_span_and_dissipate():
    """Velocities are those of the steps; the energy of fixed points falls at the rate stated."""
    scheme = ForwardEuler(0.003, damping=1e-3, resample=False)
    steps = _march(scheme, _problem(1), PlanarFlow(4), 0.01)
    np.testing.assert_allclose([s.t for s in steps], np.linspace(0, 0.01, 5))
    energies = np.array([s.record["free_energy"] for s in steps])
    dissipation = np.array([s.record["dissipation"] for s in steps])
    h = steps[1].record["h"]
    assert h == pytest.approx(0.0025)
    assert (np.diff(energies) < 0).all() and (dissipation > 0).all()
    np.testing.assert_allclose(-np.diff(energies) / h, dissipation[:-1], rtol=0.2)
    for before, after in zip(steps[:-1], steps[1:], strict=True):
        torch.testing.assert_close(after.theta, before.theta + h * before.velocity)


def test_independent_of_the_parametrisation_where_the_flat_gradient_is_not():
    """Theorem 33's ODE moves the law; grad H alone moves the numbers that describe it."""
    equation, x = _problem(1), torch.linspace(-2, 2, 9).double()[:, None]

    class Rescaled(AffineFlow):
        def forward(self, theta, x):
            return super().forward(3 * theta, x)

        def linearize(self, theta, x):
            return super(AffineFlow, self).linearize(theta, x)

    flows = AffineFlow(), Rescaled()
    for scheme, same in ((ForwardEuler(0.01), True), (FlatGradient(0.01), False)):
        images = [
            flow.forward(_march(scheme, equation, flow, 0.2)[-1].theta, x)[0] for flow in flows
        ]
        assert bool((images[0] - images[1]).abs().max() < 1e-3) == same


def test_flat_gradient_decreases_the_free_energy_to_the_gibbs_law():
    equation, flow = _problem(2), AffineFlow()
    steps = _march(FlatGradient(0.05, n_samples=1024, resample=False), equation, flow, 10.0)
    energies = np.array([s.record["free_energy"] for s in steps])
    assert (np.diff(energies) < 1e-12).all()
    mean, covariance = _moments(flow, steps[-1].theta, 2)
    torch.testing.assert_close(mean, torch.full((2,), 1.5).double(), atol=1e-2, rtol=0)
    torch.testing.assert_close(covariance, 0.5 * torch.eye(2).double(), atol=1e-2, rtol=0)


def test_divergence_is_reported():
    with pytest.raises(FloatingPointError, match="step smaller than"):
        _march(FlatGradient(50.0, resample=False), _problem(1, precision=30.0), AffineFlow(), 5000)
    with pytest.raises(ValueError, match="step must be positive"):
        _march(ForwardEuler(0.0), _problem(1), AffineFlow(), 1.0)


def test_clone():
    assert clone(FlatGradient(0.1)).get_params() == {
        "step": 0.1,
        "n_samples": None,
        "resample": True,
    }
    assert clone(ForwardEuler(damping=1e-3)).damping == 1e-3
