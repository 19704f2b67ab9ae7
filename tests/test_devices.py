"""Everything is made where it is needed, and little is read back: on a device that is strict."""

import numpy as np
import pytest
import torch
from pretend_device import DEVICE, PretendDevice, There
from stand_in import conditional

from skfokker import ParametricFokkerPlanck, estimator, law
from skfokker.equation import FokkerPlanck
from skfokker.flows import (
    AffineFlow,
    Composition,
    ElementwiseFlow,
    Inverse,
    PlanarFlow,
    TriangularFlow,
)
from skfokker.potentials import CheckedPotential, Quadratic, StyblinskiTang
from skfokker.schemes import (
    AdamNested,
    FlatGradient,
    ForwardEuler,
    LeastSquaresNested,
    ScoreDualNested,
)

D = 3
TRIANGULAR = Composition(
    [Inverse(TriangularFlow(5)), Inverse(TriangularFlow(5, reverse=True)), AffineFlow()]
)
FLOWS = [
    AffineFlow(),
    AffineFlow(diagonal=True),
    ElementwiseFlow(8),
    Inverse(ElementwiseFlow(8)),
    TriangularFlow(5),
    Inverse(TriangularFlow(5, reverse=True)),
    PlanarFlow(4),
    TRIANGULAR,
    conditional(D, order=[2, 0, 1]),
    conditional(D, "splines"),
]


def everything(flow, theta, x):
    """All that a flow can be asked at points x."""
    linearization = flow.linearize(theta, x)
    results = [*flow.forward(theta, x), *flow.inverse(theta, x)]
    results += [linearization.y, linearization.push_score(-x), linearization.jvp(theta)]
    results += [*linearization.vjp(x), *linearization.jacobian()]
    if flow.closed_form:
        results += flow.score_and_divergence(theta, results[0])
        results.append(flow.log_density_rate(theta, theta, results[0]))
    if flow.separable:
        results += linearization.coordinate_moments(torch.ones_like(x), x[..., None])
    return results


def state(flow):
    generator = torch.Generator().manual_seed(0)
    theta = flow.init(D, generator)
    noise = torch.randn(len(theta), generator=generator, dtype=torch.float64)
    return theta + 0.05 * noise, torch.randn(20, D, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: repr(flow)[:60])
def test_flows_stay_on_their_device(flow):
    expected = everything(flow, *state(flow))
    with PretendDevice():
        results = everything(flow, *(tensor.to(DEVICE) for tensor in state(flow)))
    assert all(isinstance(result, There) for result in results)
    for result, reference in zip(results, expected, strict=True):
        assert torch.equal(result.inner, reference)


@pytest.mark.parametrize("flow", [AffineFlow(), TriangularFlow(5), Inverse(TriangularFlow(5))])
def test_maps_without_iterations_wait_for_nothing(flow):
    everything(flow, *state(flow))
    with PretendDevice() as device:
        theta, x = (tensor.to(DEVICE) for tensor in state(flow))
        everything(flow, theta, x)  # what is made once is made
        device.waits.clear()
        device.copies.clear()
        everything(flow, theta, x)
    assert not device.waits and not device.copies


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: repr(flow)[:60])
def test_single_precision(flow):
    """Float32 in, float32 out, to 2e-4 of the size of the float64 result (Jacobians included)."""
    theta, x = state(flow)
    single = everything(flow, theta.float(), x.float())
    for result, reference in zip(single, everything(flow, theta, x), strict=True):
        assert result.dtype == torch.float32
        assert (result - reference).abs().max() <= 2e-4 * max(1.0, float(reference.abs().max()))


TILTED = Quadratic(np.ones(D), np.eye(D) + 0.3)
SCHEMES = {
    "coordinates": (
        StyblinskiTang(D),
        Inverse(ElementwiseFlow(8)),
        LeastSquaresNested(n_samples=64, max_step=0.01),
    ),
    "affine": (Quadratic(np.zeros(D)), AffineFlow(), LeastSquaresNested(max_step=0.01)),
    "direct": (
        TILTED,
        TRIANGULAR,
        LeastSquaresNested(0.1, n_samples=64, max_step=0.01, feature_iterations=1),
    ),
    "cg": (
        TILTED,
        TRIANGULAR,
        LeastSquaresNested(0.1, n_samples=64, max_step=0.01, feature_iterations=1, solver="cg"),
    ),
    "euler": (Quadratic(np.zeros(D)), AffineFlow(), ForwardEuler(n_samples=64)),
    "flat": (Quadratic(np.zeros(D)), AffineFlow(), FlatGradient(n_samples=64)),
    "adam": (
        Quadratic(np.zeros(D)),
        AffineFlow(),
        AdamNested(n_outer=2, n_inner=2),
    ),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in ("coordinates", "cg") else [])
        for name in SCHEMES
    ],
)
def test_whole_fits_stay_on_their_device(name, monkeypatch):
    """March, certificate, draws and densities, with the bits of the CPU."""
    potential, flow, scheme = SCHEMES[name]

    def results():
        fit = ParametricFokkerPlanck(flow, scheme, random_state=0, t_final=0.02, tol=1e3)
        fit.fit(potential)
        points = fit.sample(10, random_state=1)
        answers = [points, fit.log_density(points), fit.grad_log_density(points)]
        answers += [fit.velocity(points, 0.01), fit.transform(points), fit.thetas_]
        return [*answers, fit.certificate_.kl()]

    expected = results()
    for module in (estimator, law):
        monkeypatch.setattr(module, "resolve_device", lambda device: DEVICE)
    with PretendDevice() as device:
        answers = results()
    assert device.waits and device.copies  # it was there
    for answer, reference in zip(answers, expected, strict=True):
        np.testing.assert_array_equal(answer, reference)


@pytest.mark.parametrize(
    "flow", [conditional(D), conditional(D, "splines", together=2)], ids=["points", "quadrature"]
)
def test_marches_by_scores_stay_on_their_device(flow):
    """A whole fit would do the same for minutes: the pretended device is slow."""
    theta = flow.init(D)
    interacts = torch.ones(D, D).bool().numpy()
    scheme = ScoreDualNested(n_samples=64, first_step=1.0, max_step=0.01)

    def steps(theta):
        equation = FokkerPlanck(CheckedPotential(TILTED), 1.0, D, False, interacts)
        generator = torch.Generator().manual_seed(0)
        return list(scheme.steps(equation, flow, theta, 0.0, 0.02, generator))

    expected = steps(theta)
    with PretendDevice() as device:
        answers = steps(theta.to(DEVICE))
    assert device.waits and device.copies
    for answer, reference in zip(answers, expected, strict=True):
        assert torch.equal(answer.theta.inner, reference.theta)
        assert torch.equal(answer.velocity.inner, reference.velocity)
