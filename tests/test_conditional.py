"""Conditional densities and their march by scores: laws of the parts, order, energy, accuracy."""

import copy
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from stand_in import conditional

from skfokker import ParametricFokkerPlanck
from skfokker.distribution import TransportedNormal
from skfokker.equation import FokkerPlanck
from skfokker.flows import ConditionalFlow
from skfokker.flows.bases import as_basis
from skfokker.potentials import CheckedPotential
from skfokker.potentials.adapters import CallablePotential
from skfokker.reference import finite_volumes_2d, langevin
from skfokker.schemes import MarchError, ScoreDualNested
from skfokker.schemes.points import sobol_normal
from skfokker.schemes.quadrature_block import QuadratureBlock
from skfokker.schemes.sampled_block import SampledBlock
from skfokker.schemes.score_blocks import BlockState

KINDS = ["polynomials", "splines"]


def wells(x):
    """Two wells, the second coordinate bent by the first."""
    return (x[:, 0] ** 2 - 1) ** 2 + 0.5 * (x[:, 1] - 0.5 * x[:, 0] ** 2) ** 2


def chain(x):
    return 0.5 * x.square().sum(1) + 0.5 * torch.cos(x[:, :-1] * x[:, 1:]).sum(1)


def moved(flow, d, scale=0.1):
    """Parameters a little off those of N(0, I)."""
    generator = torch.Generator().manual_seed(1)
    theta = flow.init(d)
    return theta + scale * torch.randn(len(theta), generator=generator, dtype=torch.float64)


def equation(potential, d):
    return FokkerPlanck(CheckedPotential(CallablePotential(potential, d)), 1.0, d)


def march(scheme, flow, potential=wells, d=2, t_end=0.2):
    generator = torch.Generator().manual_seed(0)
    return list(scheme.steps(equation(potential, d), flow, flow.init(d), 0.0, t_end, generator))


# -------------------------------------------------------------------- laws of the parts


@pytest.mark.parametrize("kind", KINDS)
def test_factors_have_mass_one_and_scores_of_mean_zero(kind):
    """Whatever the coordinates before are."""
    flow = conditional(3, kind)
    z = 2 * torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for factor, part in zip(flow.factors, flow.split(moved(flow, 3)), strict=True):
        at = factor.local(part, factor.products(z)).at_nodes()
        mass = at.log_density.exp() * factor.cells.weights
        torch.testing.assert_close(mass.sum(1), torch.ones(6).double(), rtol=0, atol=2e-5)
        means = (mass[:, :, None] * at.phi).sum(1)
        sizes = (mass[:, :, None] * at.phi.square()).sum(1).sqrt()
        assert (means.abs() <= 1e-4 * (1 + sizes)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_has_mass_one(kind):
    flow = conditional(2, kind, order=[1, 0])
    axis = torch.linspace(-14, 14, 561, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    law = TransportedNormal(flow, moved(flow, 2), 2)
    mass = law.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(mass) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_derivatives_of_the_log_density(kind):
    d, n = 3, 4
    flow = conditional(d, kind, order=[1, 2, 0])
    theta, x = moved(flow, d), sobol_normal(n, d, 0)
    y = flow.forward(theta, x)[0]

    def log_density(theta):
        back, log_det = flow.inverse(theta, y)
        return -0.5 * back.square().sum(1) + log_det

    by_autograd = torch.autograd.functional.jacobian(log_density, theta)
    z, parts = y[:, flow.order], []
    for factor, part in zip(flow.factors, flow.split(theta), strict=True):
        products = factor.products(z)
        at = factor.local(part, products).at_samples(z[:, factor.index])
        parts.append(factor.expand(products.values, at.phi[:, 0]))
    torch.testing.assert_close(torch.cat(parts, 1), by_autograd, rtol=1e-10, atol=1e-10)


def test_the_metric_is_block_diagonal():
    """F over points: what lies off the blocks of the coordinates is sampling error."""
    d, n = 3, 2**14
    flow = conditional(d)
    theta = moved(flow, d)
    z, parts = flow.forward(theta, sobol_normal(n, d, 0))[0], []
    for factor, part in zip(flow.factors, flow.split(theta), strict=True):
        products = factor.products(z)
        at = factor.local(part, products).at_samples(z[:, factor.index])
        parts.append(factor.expand(products.values, at.phi[:, 0]))
    phi = torch.cat(parts, 1)
    phi = phi / phi.square().mean(0).sqrt()
    gram, start = phi.T @ phi / n, 0
    for part in parts:
        rows = slice(start, start + part.shape[1])
        assert gram[rows, rows].abs().mean() > 0.05
        gram[rows, rows] = 0.0
        start = rows.stop
    assert gram.abs().max() < 6 / n**0.5


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_systems_are_those_of_the_quadrature(kind):
    flow = conditional(2, kind)
    # so close to N(0, I) that there is no mass beyond the nodes
    theta, problem, centre = moved(flow, 2, 0.04), equation(wells, 2), torch.zeros(2).double()
    exact = QuadratureBlock(flow, [0, 1], problem, centre).state(list(flow.split(theta)))
    block = SampledBlock(flow, [0, 1], problem, centre, 1e-9, 2**14, form="weak")
    block.renew(torch.Generator().manual_seed(0))
    sampled = block.state(list(flow.split(theta)))
    assert sampled.driving == pytest.approx(exact.driving, rel=0.02)
    assert sampled.free_energy == pytest.approx(exact.free_energy, abs=0.01)
    for name, within in (("force", 0.05), ("metric", 0.02), ("potential_scores", 0.1)):
        for a, b in zip(getattr(sampled, name), getattr(exact, name), strict=True):
            assert (a - b).norm() < within * b.norm(), name
    # by the regression on what the equation asks of log rho, at points; neither knows the other
    block = SampledBlock(flow, [0, 1], problem, centre, 1e-5, 2**16)
    block.renew(torch.Generator().manual_seed(0))
    rate = block.state(list(flow.split(theta))).rate
    for a, b, metric in zip(rate, exact.force, exact.metric, strict=True):
        gap, size = metric @ a - b, b @ torch.linalg.solve(metric, b)
        assert gap @ torch.linalg.solve(metric, gap) < 0.02 * size


@pytest.mark.parametrize("kind", KINDS)
def test_tails(kind):
    flow = conditional(3, kind, order=[2, 0, 1])
    law = TransportedNormal(flow, moved(flow, 3), 3)
    for direction in ([1.0, 0.5, -0.2], [-1.0, -1.0, 1.0], [0.0, 1.0, 0.0]):
        sizes = 10.0 ** torch.arange(1, 201, dtype=torch.float64)
        points = sizes[:, None] * torch.tensor(direction, dtype=torch.float64)
        log_density = law.log_prob(points)
        assert not log_density.isnan().any()
        assert ((log_density.diff() < 0) | log_density[1:].isinf()).all()
        assert not law.score(points).isnan().any()


def test_what_a_flow_is_made_of():
    flow = ConditionalFlow()
    assert not flow.chosen and flow.summary() == "ConditionalFlow()"
    with pytest.raises(ValueError, match="no functions yet.*a fit chooses them"):
        flow.n_parameters(2)
    given = conditional(3)
    assert clone(given).get_params() == given.get_params()
    assert given.blocks() == [[0, 1, 2]] and conditional(4, together=2).blocks() == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="functions for 3 coordinates.*points have 2"):
        given.init(2)
    with pytest.raises(ValueError, match="before it only.*parents"):
        ConditionalFlow(given.own[:1], given.features[:1], [[((0,), [[1]], 1)]]).n_parameters(1)
    for spec in (("fourier", 3), ("polynomials", 0.0, 1.0, 10**9)):
        with pytest.raises(ValueError, match="a basis is .*splines"):
            as_basis(spec)


# -------------------------------------------------------------------- the march


def test_order_two_in_time():
    flow = conditional(2, half=5.0)
    x = torch.randn(200, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def log_density(n):
        scheme = ScoreDualNested(1e6, first_step=1.0, max_step=0.2 / n)
        steps = march(scheme, flow)
        assert len(steps) == n + 1
        return TransportedNormal(flow, steps[-1].theta, 2).log_prob(x)

    fine = log_density(128)
    errors = [float((log_density(n) - fine).square().mean().sqrt()) for n in (8, 16, 32)]
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert (orders > 1.6).all() and (orders < 2.8).all(), (errors, orders)


@pytest.mark.parametrize("d, potential", [(2, wells), (3, chain)], ids=["quadrature", "points"])
def test_free_energy_falls_as_the_dissipation_says(d, potential):
    scheme = ScoreDualNested(1e-4 if d == 2 else 1e-2, None if d == 2 else 2**14, max_step=0.01)
    records = [(s.t, s.record) for s in march(scheme, conditional(d, half=5.0), potential, d, 0.1)]
    t = np.array([t for t, _ in records])
    energy, rate = (np.array([r[k] for _, r in records]) for k in ("free_energy", "dissipation"))
    assert (rate > 0).all()
    fall = np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(t))])
    noise = 0.0 if d == 2 else 0.03 * fall[-1]
    assert (np.diff(energy) < noise).all() and energy[-1] < energy[0]
    np.testing.assert_allclose(energy[0] - energy, fall, atol=0.01 * fall[-1] + noise)


def test_potentials_without_a_bottom_end_in_a_sentence():
    def bottomless(x):
        return -((x[:, 0] - 0.3 * x[:, 1]) ** 4)

    model = ParametricFokkerPlanck(conditional(2), n_features=2, random_state=0, t_final=2.0)
    with pytest.raises(MarchError, match="unbounded below"):
        model.fit(bottomless)


def test_max_steps():
    with pytest.raises(MarchError, match=r"max_steps=3 steps.*reached.*larger max_steps"):
        march(ScoreDualNested(max_steps=3), conditional(2))


# -------------------------------------------------------------------- whole fits


@pytest.fixture(scope="module")
def fitted():
    """By default, in the plane."""
    return ParametricFokkerPlanck(n_features=2, random_state=0, t_final=0.1).fit(wells)


@pytest.mark.slow
def test_default_in_the_plane_against_finite_volumes(fitted):
    assert isinstance(fitted.flow_, ConditionalFlow)
    assert isinstance(fitted.scheme_, ScoreDualNested)
    box = ((-4.2, 4.2), (-4.5, 5.0))
    exact = finite_volumes_2d(wells, 0.1, domain=box, tol=1.5e-2, max_nodes=128)
    assert exact.error < 0.015
    for t in (0.03, 0.1):
        gap = exact.expectation(
            lambda x, t=t: exact.log_density(x, t) - fitted.log_density(x, t), t
        )
        assert -1e-4 < gap < 1e-3
        assert gap < fitted.certificate_.kl(t)


def test_the_history_of_a_fit(fitted):
    energy = [record["free_energy"] for record in fitted.history_]
    assert np.all(np.diff(energy) < 0)
    assert all(record["dissipation"] > 0 for record in fitted.history_)
    assert [record["t"] for record in fitted.history_] == list(fitted.times_)
    assert "dissipation" in fitted.history_frame()


def test_the_plan_says_who_chose_what(fitted, capsys):
    print(fitted.plan_)
    said = capsys.readouterr().out
    assert "ConditionalFlow" in said and "ScoreDualNested" in said
    assert "coordinates interact" in said and "independent blocks of coordinates: 1 of 2" in said
    assert len(said) < 1000
    given = {"flow": conditional(2), "scheme": ScoreDualNested(), "n_features": 2, "tol": 1e3}
    plan = ParametricFokkerPlanck(**given, random_state=0).fit(wells, 1e-3).plan_
    assert plan.reasons == ("flow: as given", "scheme: as given")


def small(**params):
    settings = {"flow": conditional(3), "n_features": 3, "random_state": 0, "tol": 1e3}
    scheme = ScoreDualNested(n_samples=512)
    return ParametricFokkerPlanck(**settings | {"scheme": scheme, "t_final": 0.05} | params)


@pytest.fixture(scope="module")
def short():
    return small().fit(chain)


def test_seeds(short):
    first, again, other = short, small().fit(chain), small(random_state=1).fit(chain)
    np.testing.assert_array_equal(first.thetas_, again.thetas_)
    np.testing.assert_array_equal(first.sample(5), again.sample(5))
    assert first.certificate_.kl() == again.certificate_.kl()
    assert np.abs(first.thetas_[-1] - other.thetas_[-1]).max() > 0


def test_a_march_is_continued(short):
    whole, parts = small(t_final=0.1).fit(chain), copy.deepcopy(short)
    parts.set_params(warm_start=True)
    flow = str(parts.flow_)
    parts.fit(chain, 0.1)
    assert parts.t_final_ == 0.1 and str(parts.flow_) == flow
    assert "continued" in str(parts.plan_)
    x = whole.sample(200, random_state=0)
    np.testing.assert_allclose(parts.log_density(x), whole.log_density(x), rtol=0.01)


def test_parameters_are_reached_through_the_estimator():
    model = ParametricFokkerPlanck(ConditionalFlow(), ScoreDualNested(), n_features=2)
    model.set_params(flow__capacity=2, scheme__tolerance=1e-3)
    copy = clone(model)
    assert copy.flow.capacity == 2 and copy.scheme.tolerance == 1e-3
    assert copy.get_params()["flow__own"] is None


@pytest.mark.slow
def test_a_start_too_narrow_for_the_nodes_is_sampled(fitted):
    """In a plane, where expectations are a quadrature otherwise."""
    mean, variance = np.array([0.5, -0.5]), 1e-3  # 0.03 wide, nodes are 0.1 apart
    model = ParametricFokkerPlanck(
        conditional(2, "splines", half=4.0), initial=(mean, variance), n_features=2,
        random_state=0, t_final=0.2, tol=1e3,
    ).fit(wells)  # fmt: skip
    assert fitted.history_[0]["n_samples"] == 0 < model.history_[0]["n_samples"]
    assert model.certificate_.kl() < 0.05
    x0 = mean + variance**0.5 * np.random.RandomState(0).randn(20_000, 2)
    exact = langevin(wells, 0.2, x0=x0, n_features=2, n_steps=200, weak_order=2)
    x = model.sample(20_000, random_state=0)
    np.testing.assert_allclose(x.mean(0), exact.mean(0), atol=0.025)
    np.testing.assert_allclose(np.cov(x.T), np.cov(exact.T), atol=0.025)


@pytest.mark.parametrize(
    "functions",
    [
        pytest.param(None, id="independent"),
        pytest.param([0, 2], id="even", marks=pytest.mark.slow),
    ],
)
def test_a_start_that_the_family_does_not_hold_is_fitted(functions):
    """The second coordinate cannot follow the first along a line."""
    own, feature = ("polynomials", -5.0, 5.0, 4, 2.0), ("polynomials", -5.0, 5.0, 4)
    alone, tied = ((), [], 4), ((0,), [functions], 4)
    flow = ConditionalFlow([own] * 2, [feature] * 2, [[alone], [tied if functions else alone]])
    mean, covariance = np.array([0.5, -0.5]), np.array([[1.0, 0.3], [0.3, 0.8]])
    root = torch.linalg.cholesky(torch.tensor(covariance))
    assert flow.with_affine(None, torch.tensor(mean), root) is None
    model = ParametricFokkerPlanck(
        flow, initial=(mean, covariance), n_features=2, random_state=0, tol=1e3
    ).fit(wells, 1e-3)
    # KL(rho_theta | rho_0) of the product of the marginals, which is the best without a tie
    r2 = 0.3**2 / 0.8
    product = 1 / (1 - r2) - 1 + 0.5 * np.log(1 - r2)
    if functions is None:
        assert model.initial_error_ == pytest.approx(product, rel=0.15)
    else:
        assert 0.01 * product < model.initial_error_ < 0.9 * product
    assert model.certificate_.kl(0.0) == model.initial_error_
    x = model.sample(20_000, 0.0, random_state=0)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(x.var(0), np.diag(covariance), atol=0.05)


def test_a_start_that_the_family_holds_is_met():
    start = (np.array([0.5, -0.5]), np.array([[1.0, 0.6], [0.6, 0.8]]))
    model = ParametricFokkerPlanck(
        conditional(2), initial=start, n_features=2, random_state=0, tol=1e3
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(wells, 1e-3)
    assert model.initial_error_ < 1e-4
    mean, covariance = model.sample(20000, 0.0).mean(0), np.cov(model.sample(20000, 0.0).T)
    np.testing.assert_allclose(mean, start[0], atol=0.03)
    np.testing.assert_allclose(covariance, start[1], atol=0.04)


# -------------------------------------------------------------------- where families cannot follow


def test_a_free_energy_that_rises_is_running_away():
    block = SampledBlock(conditional(3), range(3), equation(chain, 3), torch.zeros(3), None)
    assert block.pointwise

    def state(energy, slope):
        return BlockState(
            1.0, energy, potential_scores=[torch.ones(2)], rate=[slope * torch.ones(2)]
        )

    start = state(3.0, -0.1)
    assert not block.runs_away(start, state(2.9, -0.1))
    assert not block.runs_away(start, state(3.3, -0.1))  # of other points, perhaps
    assert block.runs_away(start, state(3.6, -0.1))
    assert block.runs_away(start, state(2.9, 0.3))  # -E[grad phi . g] points uphill
    assert block.weaken() and not block.pointwise and block.damping == 1e-3
    assert not block.weaken()
    asked = SampledBlock(
        conditional(3), range(3), equation(chain, 3), torch.zeros(3), None, form="pointwise"
    )
    assert not asked.runs_away(start, state(9.0, 0.3)) and not asked.weaken()


@pytest.mark.slow
def test_a_ring_in_six_dimensions_is_arrived_at():
    """Its radius is no function of any coordinate: the pointwise form runs away from there."""

    def ring(x):
        return (x.square().sum(-1) - 4) ** 2 / 4

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the certified error is above tol
        fit = ParametricFokkerPlanck(n_features=6, random_state=0).fit(ring, 1.0)
    assert fit.certificate_.kl() < 1.0
    particles = langevin(ring, [1.0], n_features=6, n_particles=20_000, n_steps=2000)
    expected = (particles[-1] ** 2).sum(1)
    radius = (fit.sample(20_000) ** 2).sum(1)
    assert abs(radius.mean() / expected.mean() - 1) < 0.03
    assert abs(radius.std() / expected.std() - 1) < 0.15
