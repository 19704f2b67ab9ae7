"""The planar flow: invertible for every theta, derivatives by hand equal to automatic ones."""

from __future__ import annotations

import pytest
import torch

from skfokker.flows.base import AutogradLinearization
from skfokker.flows.planar import PlanarFlow, _Layers, _solve

# The reference derivatives only: torch.func.jvp calls a deprecated part of torch itself.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")


@pytest.fixture(params=[1, 2, 5], ids="d={}".format)
def case(request):
    """A flow of seven layers away from the identity: flow, theta, x."""
    d, generator = request.param, torch.Generator().manual_seed(request.param)
    flow = PlanarFlow(n_layers=7)
    noise = torch.randn(flow.n_parameters(d), generator=generator, dtype=torch.float64)
    theta = flow.init(d, generator) + 0.6 * noise
    return flow, theta, torch.randn(20, d, generator=generator, dtype=torch.float64)


def test_init_is_the_identity_exactly():
    flow, generator = PlanarFlow(), torch.Generator().manual_seed(0)
    theta, x = flow.init(3, generator), torch.randn(50, 3, generator=generator).double()
    y, log_det = flow.forward(theta, x)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-15)
    torch.testing.assert_close(log_det, torch.zeros(50).double(), rtol=0, atol=1e-13)
    assert theta.reshape(60, 7)[:, :3].abs().min() > 0
    assert len(theta) == flow.n_parameters(3)


def test_inverse_undoes_forward(case):
    flow, theta, x = case
    y, log_det = flow.forward(theta, x)
    back, log_det_back = flow.inverse(theta, y)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_det_back, -log_det, rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [10.0, 100.0])
def test_inverse_at_extreme_parameters(size):
    """Slopes from 1e-3 (the floor) to 1e4, points far out as well: as well as rounding allows.

    The rounding of y alone moves T^{-1}(y) by |w| |u| / slope units in the last place.
    """
    generator = torch.Generator().manual_seed(1)
    flow = PlanarFlow(n_layers=1)
    for d in (1, 2, 6):
        for _ in range(30):
            theta = size * torch.randn(2 * d + 1, generator=generator, dtype=torch.float64)
            x = 10 * torch.randn(200, d, generator=generator, dtype=torch.float64)
            y, log_det = flow.forward(theta, x)
            back, log_det_back = flow.inverse(theta, y)
            assert log_det.isfinite().all()
            w, u = _Layers(theta, 1, d).maps[:2]
            unit = 1e-15 * (1 + y.abs().max()) * (1 + w.norm() * u.norm())
            assert (flow.forward(theta, back)[0] - y).abs().max() < unit
            assert ((back - x).abs().amax(1) < unit / log_det.exp().clamp_max(1)).all()
            if size == 10:
                assert (back - x).abs().max() < 1e-10 * (1 + y.abs().max())


def test_scalar_equation_to_rounding_at_every_gap():
    c = torch.cat([torch.linspace(-30, 30, 401), torch.logspace(-12, 0, 50)]).double()
    for gap in (1e-3, 0.1, 0.999, 1.0, 1.5, 30.0, 1e4):
        gap = torch.tensor(gap, dtype=torch.float64)
        a = _solve(c, gap)
        assert (a + (gap - 1) * a.tanh() - c).abs().div(1 + c.abs() + gap).max() < 1e-14


def test_inverse_is_differentiable(case):
    flow, theta, x = case
    y = flow.forward(theta, x)[0].detach()[:4]
    assert torch.autograd.gradcheck(
        flow.inverse, (theta.clone().requires_grad_(), y.requires_grad_()), atol=1e-6
    )


def test_log_det_is_that_of_the_jacobian(case):
    flow, theta, x = case
    slope = AutogradLinearization(flow, theta, x).jacobian()[1]
    expected = torch.linalg.slogdet(slope)
    assert (expected[0] > 0).all()
    torch.testing.assert_close(flow.forward(theta, x)[1], expected[1])


def test_products_are_those_of_autograd(case):
    flow, theta, x = case
    generator = torch.Generator().manual_seed(5)
    n, d = x.shape

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    by_hand, expected = flow.linearize(theta, x), AutogradLinearization(flow, theta, x)
    score, dtheta, dx, v, left = draw(n, d), draw(len(theta)), draw(n, d), draw(n, d), draw(n, 3, d)
    torch.testing.assert_close(by_hand.y, expected.y)
    torch.testing.assert_close(by_hand.log_det, expected.log_det)
    torch.testing.assert_close(by_hand.push_score(score), expected.push_score(score))
    torch.testing.assert_close(by_hand.jvp(dtheta), expected.jvp(dtheta))
    torch.testing.assert_close(by_hand.jvp(dtheta, dx), expected.jvp(dtheta, dx))
    torch.testing.assert_close(by_hand.vjp(v), expected.vjp(v))
    torch.testing.assert_close(by_hand.jacobian(), expected.jacobian())
    torch.testing.assert_close(by_hand.jacobian(left), expected.jacobian(left))


def test_no_layer_compresses_beyond_the_floor():
    """The determinant of one layer stays above 1e-3 however negative w.v is."""
    flow, x = PlanarFlow(n_layers=1), torch.linspace(-5, 5, 101).double()[:, None]
    log_det = flow.forward(torch.tensor([30.0, -40.0, 0.5]).double(), x)[1]
    assert log_det.min() > torch.tensor(1e-3).log() - 1e-9


def test_single_precision_and_hyper_parameters():
    flow = PlanarFlow(n_layers=3, init_scale=0.5)
    assert flow.get_params() == {"n_layers": 3, "init_scale": 0.5, "init_spread": 1.0}
    theta = flow.init(2, torch.Generator().manual_seed(0)).float()
    y, log_det = flow.forward(theta, torch.zeros(4, 2))
    x, _ = flow.inverse(theta, y)
    assert y.dtype == log_det.dtype == x.dtype == torch.float32
