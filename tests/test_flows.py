"""One suite of laws for every family of maps."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from stand_in import conditional

from skfokker.distribution import TransportedNormal
from skfokker.flows import (
    AffineFlow,
    AutogradLinearization,
    Composition,
    ElementwiseFlow,
    Flow,
    Frame,
    Inverse,
    MixtureFlow,
    PlanarFlow,
    RadialFlow,
    ScaleFlow,
    TriangularFlow,
)
from skfokker.schemes.points import sobol_normal
from skfokker.trajectory import Trajectory

FLOWS = {
    "affine": AffineFlow(),
    "diagonal": AffineFlow(diagonal=True),
    "elementwise": ElementwiseFlow(n_intervals=12),
    "triangular": TriangularFlow(n_hidden=9),
    "reversed": TriangularFlow(n_hidden=9, reverse=True),
    "planar": PlanarFlow(6),
    "radial": RadialFlow(8),
    "elliptical": Composition([RadialFlow(6), AffineFlow()]),
    "scale": ScaleFlow(),
    "inverse elementwise": Inverse(ElementwiseFlow(n_intervals=12)),
    "inverse triangular": Inverse(TriangularFlow(n_hidden=9)),
    "separable": Composition([Inverse(ElementwiseFlow(12)), AffineFlow(diagonal=True)]),
    "composition": Composition(
        [ElementwiseFlow(12), TriangularFlow(9), TriangularFlow(9, reverse=True), AffineFlow()]
    ),
    "mixture": MixtureFlow(3),
    "mixture first": Composition([MixtureFlow(2), Inverse(TriangularFlow(9)), Frame()]),
    "mixture last": Composition([TriangularFlow(9), MixtureFlow(2)]),
    "inverse mixture": Inverse(MixtureFlow(2)),
    # these have functions for every coordinate
    "conditional": lambda d: conditional(d, order=list(range(d))[::-1]),
    "conditional splines": lambda d: conditional(d, "splines", [(3 * i + 1) % d for i in range(d)]),
}


@pytest.fixture(params=[1, 2, 5])
def d(request):
    return request.param


@pytest.fixture(params=FLOWS)
def flow(request, d):
    made = FLOWS[request.param]
    return clone(made if isinstance(made, Flow) else made(d))


def random_state(flow, d, scale=0.3, n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    theta = flow.init(d, generator)
    theta = theta + scale * torch.randn(len(theta), dtype=torch.float64, generator=generator)
    x = 2.5 * torch.randn(n, d, dtype=torch.float64, generator=generator)
    return theta, x


def derivatives(flow, theta, x):
    """dT/dtheta, dT/dx and the gradients of log_det, point by point with autograd."""

    def point(theta, x):
        y, log_det = flow.forward(theta, x[None])
        return torch.cat([y[0], log_det])

    rows = [torch.autograd.functional.jacobian(point, (theta, p)) for p in x]
    by_theta, by_x = (torch.stack(blocks) for blocks in zip(*rows, strict=True))
    return by_theta[:, :-1], by_x[:, :-1], by_x[:, -1]


def test_identity_at_init(flow, d):
    theta, x = flow.init(d), 3 * torch.randn(50, d, dtype=torch.float64)
    y, log_det = flow.forward(theta, x)
    assert theta.shape == (flow.n_parameters(d),)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-13)
    torch.testing.assert_close(log_det, torch.zeros_like(log_det), rtol=0, atol=1e-13)


@pytest.mark.parametrize("scale", [0.3, 1.5])
def test_inverse_is_exact(flow, d, scale):
    theta, x = random_state(flow, d, scale=scale)
    y, log_det = flow.forward(theta, x)
    back, log_det_back = flow.inverse(theta, y)
    # the condition number of the map bounds what float64 can do
    slope = torch.linalg.svdvals(derivatives(flow, theta, x)[1])
    condition = (slope[:, 0].clamp(min=1.0) / slope[:, -1])[:, None] * (1 + y.abs())
    assert ((back - x).abs() / condition).max() < 2e-13
    assert ((log_det + log_det_back).abs() / condition[:, 0]).max() < 1e-11


def test_log_det_is_that_of_the_jacobian(flow, d):
    theta, x = random_state(flow, d)
    _, log_det = flow.forward(theta, x)
    jacobian = derivatives(flow, theta, x)[1]
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian)[1], rtol=0, atol=1e-9)


@pytest.mark.parametrize("by_hand", [True, False], ids=["by hand", "autograd"])
def test_linearization(flow, d, by_hand):
    theta, x = random_state(flow, d, n=12)
    if by_hand:
        lin = flow.linearize(theta, x)
    elif any(name in repr(flow) for name in ("Inverse", "Mixture", "Conditional")):
        pytest.skip("maps by a search for a root always bring their linearization")
    else:
        lin = AutogradLinearization(flow, theta, x)
    by_theta, by_x, grad_log_det = derivatives(flow, theta, x)
    dtheta, dx, v = torch.randn_like(theta), torch.randn_like(x), torch.randn_like(x)
    left = torch.randn(len(x), 3, d, dtype=torch.float64)

    def close(a, b):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)

    y, log_det = flow.forward(theta, x)
    close(lin.y, y)
    close(lin.log_det, log_det)
    close(lin.grad_log_det(), grad_log_det)
    close(lin.solve(v), torch.linalg.solve(by_x, v))
    close(lin.solve_transposed(v), torch.linalg.solve(by_x.mT, v))
    close(lin.solve_transposed(left), torch.linalg.solve(by_x, left, left=False))
    close(lin.push_score(v), torch.linalg.solve(by_x.mT, v - grad_log_det))
    close(lin.jvp(dtheta), by_theta @ dtheta)
    close(lin.jvp(dtheta, dx), by_theta @ dtheta + (by_x @ dx[..., None])[..., 0])
    for a, b in zip(lin.jacobian(), (by_theta, by_x), strict=True):
        close(a, b)
    for a, b in zip(lin.jacobian(left), (left @ by_theta, left @ by_x), strict=True):
        close(a, b)
    pulled = torch.einsum("ndm,nd->m", by_theta, v), torch.einsum("nij,ni->nj", by_x, v)
    for a, b in zip(lin.vjp(v), pulled, strict=True):
        close(a, b)
    if flow.separable and by_hand:
        index = flow.coordinate_index(d)
        assert sorted(index.flatten().tolist()) == list(range(len(theta)))
        for i in range(d):
            close(lin.coordinate_jacobian()[:, i], by_theta[:, i, index[i]])
            close(lin.coordinate_slope()[:, i], by_x[:, i, i])


@pytest.mark.parametrize(
    "flow",
    [
        ElementwiseFlow(12),
        FLOWS["separable"],
        Composition(
            [AffineFlow(diagonal=True), ElementwiseFlow(12), Inverse(ElementwiseFlow(8))]
            + [AffineFlow(diagonal=True)]
        ),
    ],
)
def test_coordinate_moments_are_products_of_the_jacobian(flow, d):
    theta, x = random_state(flow, d)
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(x.shape, dtype=torch.float64, generator=generator)
    columns = torch.randn(*x.shape, 3, dtype=torch.float64, generator=generator)
    lin = flow.linearize(theta, x)
    by_theta = lin.coordinate_jacobian()
    gram, right = lin.coordinate_moments(weights, columns)
    expected = torch.einsum("ndp,nd,ndq->dpq", by_theta, weights, by_theta)
    torch.testing.assert_close(gram, expected, rtol=1e-10, atol=1e-10 * float(expected.max()))
    expected = torch.einsum("ndp,nd,nde->dpe", by_theta, weights, columns)
    torch.testing.assert_close(right, expected, rtol=1e-10, atol=1e-10 * float(expected.max()))


def numbers(flow, d):
    """theta, dtheta and points of the law, all well within it."""
    theta, x = random_state(flow, d, scale=0.2, n=30)
    generator = torch.Generator().manual_seed(2)
    dtheta = torch.randn(len(theta), dtype=torch.float64, generator=generator)
    return theta, dtheta, flow.forward(theta, x / 2.5)[0]


def test_law_velocity_moves_the_law(flow, d):
    """d log rho/dt = -(div v + v . s), whatever layer a field of its own stands in."""
    theta, dtheta, y = numbers(flow, d)
    score = TransportedNormal(flow, theta, d).score(y)
    eps = 1e-5
    divergence = torch.zeros_like(y[:, 0])
    for i, shift in enumerate(eps * torch.eye(d, dtype=torch.float64)):
        ahead, behind = (flow.law_velocity(theta, dtheta, y + s * shift) for s in (1, -1))
        divergence += (ahead - behind)[:, i] / (2 * eps)
    later, sooner = (
        TransportedNormal(flow, theta + s * eps * dtheta, d).log_prob(y) for s in (1, -1)
    )
    expected = -divergence - (flow.law_velocity(theta, dtheta, y) * score).sum(1)
    torch.testing.assert_close((later - sooner) / (2 * eps), expected, rtol=1e-5, atol=1e-4)


def test_law_velocities_agree(flow, d):
    """At points, carried forward, pulled back and written out."""
    theta, dtheta, y = numbers(flow, d)
    here = flow.linearize(theta, flow.inverse(theta, y)[0])
    v = here.law_velocity(dtheta)
    torch.testing.assert_close(flow.law_velocity(theta, dtheta, y), v, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(here.law_jacobian() @ dtheta, v, rtol=1e-9, atol=1e-9)
    w = torch.randn_like(v)
    torch.testing.assert_close(here.law_pull_back(w) @ dtheta, (v * w).sum())
    torch.testing.assert_close(here.by_points(), here.jacobian()[1], rtol=1e-9, atol=1e-9)
    if not flow.moves_otherwise:
        torch.testing.assert_close(here.jvp(dtheta), v)


def test_score_and_divergence(flow, d):
    theta, _, y = numbers(flow, d)
    score, divergence = flow.score_and_divergence(theta, y)
    law = TransportedNormal(flow, theta, d)
    torch.testing.assert_close(score, law.score(y), rtol=1e-8, atol=1e-8)
    eps = 1e-5 * torch.eye(d, dtype=torch.float64)
    expected = sum((law.score(y + eps[i]) - law.score(y - eps[i]))[:, i] / 2e-5 for i in range(d))
    torch.testing.assert_close(divergence, expected, rtol=1e-4, atol=1e-4)


def test_log_density_rate(flow, d):
    theta, dtheta, y = numbers(flow, d)
    rate, eps = flow.log_density_rate(theta, dtheta, y), 1e-5
    ahead, behind = (
        TransportedNormal(flow, theta + s * eps * dtheta, d).log_prob(y) for s in (1, -1)
    )
    torch.testing.assert_close(rate, (ahead - behind) / (2 * eps), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("d", [2])
def test_paths_follow_the_velocity(flow, d):
    """d/dt paths = velocity, and each slice has the law of its time."""
    theta, dtheta, _ = numbers(flow, d)
    thetas, velocities = torch.stack([theta, theta + 0.3 * dtheta, theta + 0.7 * dtheta]), dtheta
    march = Trajectory(
        np.array([0.0, 0.3, 0.7]), thetas.numpy(), np.stack([velocities.numpy()] * 3), flow, d
    )
    z = sobol_normal(256, d, seed=0)
    h = 1e-3
    sooner, now, later = march.paths(z, [0.5 - h, 0.5, 0.5 + h])
    speed, velocity = (later - sooner) / (2 * h), march.velocity(torch.as_tensor(now), 0.5).numpy()
    middle = np.abs(z.numpy()).max(1) < 2.0  # far out, paths bend within h
    gap = np.sqrt(np.mean((speed - velocity)[middle] ** 2))
    assert gap < 1e-3 * np.sqrt(np.mean(velocity[middle] ** 2))
    same = march.sample_from(z, 0.5).numpy()
    for power in (1, 2):
        moments = np.mean(now**power, 0), np.mean(same**power, 0)
        np.testing.assert_allclose(*moments, rtol=0.02, atol=0.02)


def test_tails_stay_onto(d):
    flow = ElementwiseFlow(n_intervals=12)
    theta, x = random_state(flow, d, scale=2.0)
    y, _ = flow.forward(theta, 100 * x)
    torch.testing.assert_close(flow.inverse(theta, y)[0], 100 * x, rtol=1e-12, atol=1e-10)


def test_gaussians_are_reached_exactly(d):
    torch.manual_seed(0)
    root = torch.randn(d, d, dtype=torch.float64)
    scale = torch.linalg.cholesky(root @ root.T + torch.eye(d))
    mean = torch.randn(d, dtype=torch.float64)
    flow = AffineFlow()
    theta, x = random_state(flow, d)
    y, log_det = flow.forward(theta, x)
    moved, log_det_moved = flow.forward(flow.with_affine(theta, mean, scale), x)
    torch.testing.assert_close(moved, mean + y @ scale.T)
    torch.testing.assert_close(log_det_moved, log_det + scale.diagonal().log().sum())


def test_layers_are_parameters():
    flow = FLOWS["composition"]
    copy = clone(flow).set_params(**{"1__n_hidden": 20, "0": ElementwiseFlow(8)})
    assert copy.get_params()["1__n_hidden"] == 20
    assert copy.layers[0].n_intervals == 8
    assert flow.layers[1].n_hidden == 9
