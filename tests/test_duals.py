"""The dual network: its gradient field and the slope of the inner loss against autograd."""

from __future__ import annotations

import pytest
import torch
from sklearn.base import clone

from skfokker.duals import NetworkDual


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("d", [1, 2, 7])
@pytest.mark.parametrize("quadratic", [False, True])
@pytest.mark.parametrize("activation", ["relu", "softplus", "tanh"])
def test_field_and_loss_are_those_of_autograd(activation, quadratic, d):
    dual = NetworkDual(5, 11, activation, quadratic, single=False)
    psi = dual.init(d, torch.Generator().manual_seed(1))
    psi = (psi + 0.3 * _draw(len(psi), seed=2)).requires_grad_()
    x, v = _draw(40, d, seed=3).requires_grad_(), _draw(40, d, seed=4)
    (field,) = torch.autograd.grad(dual.value(psi, x).sum(), x, create_graph=True)
    loss = (field - v).square().sum(1).mean()
    (slope,) = torch.autograd.grad(loss, psi, allow_unused=True)
    loss_by_hand, slope_by_hand = dual.loss_gradient(psi.detach(), x.detach(), v)
    torch.testing.assert_close(dual.gradient(psi.detach(), x.detach()), field.detach())
    torch.testing.assert_close(loss_by_hand, loss.detach())
    torch.testing.assert_close(slope_by_hand, slope)


def test_bound_dual_follows_its_parameters():
    """In-place steps on psi are seen, and gradient descent lowers the loss."""
    dual = NetworkDual()
    psi = dual.init(2, torch.Generator().manual_seed(0))
    bound = dual.bind(psi, 2)
    x = _draw(2, 500).float()
    v = 1 - x
    losses = []
    for _ in range(100):
        losses.append(float(bound.descend(x, v)))
        psi.sub_(bound.slope, alpha=0.01)
    assert losses[-1] < 0.3 * losses[0]
    torch.testing.assert_close(bound.gradient(x), dual.gradient(psi, x.T).T)


def test_initial_parameters():
    paper = NetworkDual(initial=0.1).init(2, torch.Generator().manual_seed(0))
    assert len(paper) == NetworkDual().n_parameters(2) == 60 + 4 * 420 + 21
    assert 0.09 < paper.abs().max() <= 0.1 and paper.dtype == torch.float32
    dual = NetworkDual(quadratic=True, single=False)
    psi, x = dual.init(10, torch.Generator().manual_seed(0)), _draw(500, 10)
    assert psi.dtype == torch.float64 and psi[-110:].abs().max() == 0
    assert 0.1 < dual.gradient(psi, x).norm(dim=1).mean() < 10


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"activation": "swish"}, "activation"),
        ({"n_layers": 1}, "n_layers"),
        ({"initial": "zeros"}, "initial"),
    ],
)
def test_bad_hyper_parameters_are_named(parameters, message):
    with pytest.raises(ValueError, match=message):
        NetworkDual(**parameters).init(2)


def test_clone():
    assert clone(NetworkDual(width=7)).get_params()["width"] == 7
