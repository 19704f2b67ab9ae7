"""Starts that are nearly a point, and potentials that show themselves only where the mass goes."""

import warnings

import numpy as np
import pytest
import torch

from skfokker import ParametricFokkerPlanck
from skfokker.flows import AffineFlow, ConditionalFlow
from skfokker.opening import NARROW, Opening, holds_gaussians
from skfokker.potentials import CallablePotential, DoubleWell, Quadratic
from skfokker.structure import probe
from skfokker.units import Units


def wells(x):
    return (x**2 - 1).square().sum(1)


def test_a_point_on_a_barrier_has_two_bumps():
    """Finite volumes on three meshes: p(0) = 0.1124, p(1) = 0.6882 (py-pde issue 252)."""
    fit = ParametricFokkerPlanck(beta=0.5, initial=(0.0, 1e-10), random_state=0)
    fit.fit(DoubleWell(d=1), t_final=1.0)
    at_barrier, at_well = np.exp(fit.log_density([[0.0], [1.0]]))
    assert at_barrier == pytest.approx(0.1124, rel=5e-3)
    assert at_well == pytest.approx(0.6882, rel=5e-3)
    assert fit.certificate_.kl() < 1e-3 and len(fit.times_) < 400
    assert "nearly a point" in str(fit.plan_)
    early = fit.t_final_ * 1e-8
    spread = fit.sample(4000, t=early, random_state=0).std()
    assert spread == pytest.approx(np.sqrt(1e-10 + 2 * 0.5 * early), rel=0.05)


@pytest.mark.parametrize("width", [1e-3, 1e-6])
def test_narrow_starts_in_a_quadratic_are_exact(width):
    fit = ParametricFokkerPlanck(initial=(3.0, width**2), n_features=1, random_state=0)
    fit.fit(Quadratic([0.0]), t_final=1.0)
    x = np.array([[0.0], [1.0], [2.0]])
    variance = 1 - np.exp(-2.0) * (1 - width**2)
    exact = -0.5 * (x[:, 0] - 3 * np.exp(-1)) ** 2 / variance - 0.5 * np.log(2 * np.pi * variance)
    np.testing.assert_allclose(fit.log_density(x), exact, atol=1e-4)
    assert len(fit.times_) < 1000


def test_the_first_moments_are_those_of_the_equation():
    potential = CallablePotential(wells, 1)
    opening = Opening.of((-1.0, 1e-12), potential, 0.5, 1.0, 1e-2)
    assert opening is not None and opening.times[0] == 0 and opening.times[-1] < 0.1
    # about the bottom of a well, V'' = 8
    exact = 1e-12 * np.exp(-16 * opening.times) - 0.5 / 8 * np.expm1(-16 * opening.times)
    early = opening.times < 1e-4
    np.testing.assert_allclose(opening.covariances[early, 0, 0], exact[early], rtol=1e-3)
    widths = np.sqrt(opening.covariances[:, 0, 0])
    assert widths[-1] > NARROW * widths[0]
    assert Opening.of((0.0, 1.0), potential, 0.5, 1.0, 1e-2) is None
    assert Opening.of(np.zeros((20, 1)), potential, 0.5, 1.0, 1e-2) is None
    flow = AffineFlow()
    steps = opening.steps(flow, flow.init(1))
    finite = (steps[3].theta - steps[2].theta) / (steps[3].t - steps[2].t)
    between = (steps[3].velocity + steps[2].velocity) / 2
    assert torch.allclose(finite, between, rtol=0.05)
    moved = opening.behind(Units(np.array([1.0]), 2.0), None)
    np.testing.assert_allclose(moved.means, (opening.means - 1) / 2)
    np.testing.assert_allclose(moved.covariance_rates, opening.covariance_rates / 4)


def test_families_that_hold_gaussians():
    assert holds_gaussians(AffineFlow(), 2) and holds_gaussians(ConditionalFlow(), 2)


def test_a_look_where_the_mass_goes():
    def steep(x):
        return (torch.nn.functional.softplus(20 * (x.abs() - 3)) ** 2).sum(1)

    potential = CallablePotential(lambda x: 0.5 * x.square().sum(1) + steep(x), 1)
    mean, scale = torch.zeros(1).double(), 1e-2 * torch.eye(1).double()
    assert probe(potential, mean, scale).quadratic
    ahead = torch.tensor([[0.5], [-3.5], [3.2]], dtype=torch.float64)
    assert not probe(potential, mean, scale, ahead=ahead).quadratic

    def apart(x):  # coordinates that meet far out only
        return 0.5 * x.square().sum(1) + torch.relu(x.sum(1) - 6) ** 4

    potential = CallablePotential(apart, 2)
    mean, scale = torch.zeros(2).double(), torch.eye(2).double()
    ahead = torch.tensor([[5.0, 5.0], [4.0, 6.0]], dtype=torch.float64)
    assert probe(potential, mean, 0.1 * scale).separable
    assert not probe(potential, mean, 0.1 * scale, ahead=ahead).separable


def test_a_fit_that_refutes_its_structure_chooses_again(monkeypatch):
    """As if the first look had seen nothing of the wells."""
    from skfokker import start as module

    def blind(potential, mean, scale, **rest):
        return module.Structure(True, np.eye(1, dtype=bool), 1.0)

    monkeypatch.setattr(module, "probe", blind)
    model = ParametricFokkerPlanck(n_features=1, beta=0.5, initial=(0.0, 0.3), random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # no advice to enlarge a family that nobody chose
        model.fit(wells, t_final=0.3)
    assert "V is not quadratic, as it seemed" in str(model.plan_)
    assert not model.flow_.affine and model.certificate_.kl() < 1e-2
