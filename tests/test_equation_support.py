"""Equations between ends: solved in log x or logit x, the law of x known exactly."""

from __future__ import annotations

import math
import pickle
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.base import clone
from torch.autograd.functional import hessian, jacobian
from torch.distributions import Gamma, Independent, LogNormal, Normal

from skfokker import Equation, ParametricFokkerPlanck, problems
from skfokker.dynamics.ends import missing_support
from skfokker.dynamics.reading import read_equation
from skfokker.dynamics.support import Support
from skfokker.flows import SupportMap
from skfokker.flows.frame import split_frame
from skfokker.initial import initial_shape, on_the_line
from skfokker.potentials import PotentialError
from skfokker.reference import finite_volumes, langevin
from skfokker.schemes import GaussianMoments

INF = math.inf
MIXED = [(0, INF), (1, INF), (-INF, 2), (0, 1), None, (2, 5)]


# ------------------------------------------------------------------------ the map


def test_the_map_and_its_derivatives():
    support = Support.of(MIXED, 6)
    y = 3 * torch.randn(50, 6, dtype=torch.float64)
    y.requires_grad_()
    x = support.to_x(y)
    assert support.contains(x).all()
    torch.testing.assert_close(support.to_y(x), y)
    (slope,) = torch.autograd.grad(x.sum(), y)
    torch.testing.assert_close(support.slope(y), slope)
    (bend,) = torch.autograd.grad(support.log_slope(y).sum(), y)
    torch.testing.assert_close(support.bend(y), bend)
    far = torch.tensor([[-1e3] * 6, [1e3] * 6], dtype=torch.float64)
    near = support.within(far)
    torch.testing.assert_close(near[:, 4], far[:, 4])
    ended = [0, 1, 2, 3, 5]
    assert (
        torch.isfinite(support.log_slope(near)).all() and (support.slope(near)[:, ended] > 0).all()
    )
    assert Support.of([None, None], 2) is None and Support.of(None, 2) is None
    assert "y = log(x - low), for the support (0, inf)" == Support.of((0, INF), 3).formula


def test_it_is_a_flow():
    flow = SupportMap(*np.array([(-INF, INF) if row is None else row for row in MIXED]).T)
    empty, z = torch.zeros(0, dtype=torch.float64), torch.randn(8, 6, dtype=torch.float64)
    x, log_det = flow.forward(empty, z)
    back, minus = flow.inverse(empty, x)
    torch.testing.assert_close(back, z)
    torch.testing.assert_close(minus, -log_det)
    linear, v = flow.linearize(empty, z), torch.randn(8, 6, dtype=torch.float64)
    torch.testing.assert_close(linear.jvp(empty, linear.solve(v)), v)
    torch.testing.assert_close(linear.vjp(linear.solve_transposed(v))[1], v)
    torch.testing.assert_close(linear.by_points(), torch.diag_embed(linear.slope))
    torch.testing.assert_close(linear.jacobian()[1], linear.by_points())
    x[0, 3] = 1.5
    assert flow.inverse(empty, x)[1][0] == -INF


# ------------------------------------------------------------------------ the equation of y


def fading(x):
    """x_0, x_1 (1 - x_1), 1: what fades at the ends of (0, inf) x (0, 1) x R."""
    return torch.stack([x[:, 0], x[:, 1] * (1 - x[:, 1]), torch.ones_like(x[:, 0])], 1)


def tangled(x, t):
    return fading(x) * (1 + t) * torch.sin(x + x.roll(1, 1))


def mixing(x):
    root = torch.stack([x.cos(), 0.3 * x.roll(1, 1), 1 + 0.1 * x.square()], 2)
    root = fading(x)[:, :, None] * root
    return root @ root.mT


def test_the_equation_of_y_is_that_of_ito():
    """dE[h(X)] = E[b . grad h + D : Hess h] for a function h, in x and in y alike."""
    ends, t = [(0, INF), (0, 1), None], 0.3
    y_equation, _ = read_equation(
        Equation(drift=tangled, diffusion=mixing, support=ends),
        n_features=None,
        beta=1.0,
        mean=None,
        horizon=1.0,
        device=torch.device("cpu"),
    )
    support = Support.of(ends, 3)
    y = torch.randn(6, 3, dtype=torch.float64)

    def observable(x):
        return torch.sin(x).sum() + x.prod()

    def rate(function, point, drift, noise):
        return drift @ jacobian(function, point) + (noise * hessian(function, point)).sum()

    drift, diffusion, _ = y_equation.terms
    for point in y:
        x = support.to_x(point)
        there = rate(observable, x, tangled(x[None], t)[0], mixing(x[None])[0])
        b, D = drift(point[None], t)[0], diffusion.matrix(point[None], t)[0]
        here = rate(lambda y: observable(support.to_x(y)), point, b, D)
        torch.testing.assert_close(here, there)
        by = jacobian(lambda y: diffusion.matrix(y[None], t)[0], point)
        bend = by.diagonal(dim1=1, dim2=2).sum(1)
        torch.testing.assert_close(diffusion.divergence(point[None], t)[0], bend)


# ------------------------------------------------------------------------ against exact laws


def growth(x):
    return 0.3 * x


def in_proportion(x):
    return 0.125 * x.square()


def geometric(**options):
    return Equation(drift=growth, diffusion=in_proportion, support=(0, INF), **options)


def brownian(t):
    """The law of a geometric Brownian motion whose log starts at N(0.1, 0.2)."""
    return stats.lognorm(math.sqrt(0.2 + 0.25 * t), scale=math.exp(0.1 + (0.3 - 0.125) * t))


def divergence(model, law, t, n=20_000):
    """KL(fit | law) in one dimension, and its standard error."""
    x = model.sample(n, t, random_state=1)
    gaps = model.log_density(x, t) - law.logpdf(x[:, 0])
    return gaps.mean(), gaps.std() / math.sqrt(n)


@pytest.fixture(scope="module")
def prices():
    estimator = ParametricFokkerPlanck(initial=(0.1, 0.2), n_features=1, random_state=0)
    return estimator.fit(geometric(), 2.0)


def test_a_geometric_brownian_motion_is_exact(prices):
    for t in (0.0, 0.5, 2.0):
        law, x = brownian(t), np.linspace(0.1, 6.0, 50)[:, None]
        np.testing.assert_allclose(prices.log_density(x, t), law.logpdf(x[:, 0]), atol=1e-6)
        assert prices.score(x, t=t) == pytest.approx(law.logpdf(x[:, 0]).mean(), abs=1e-6)
        z = prices.transform(x, t)
        np.testing.assert_allclose(stats.norm.cdf(z), law.cdf(x), atol=1e-6)
        np.testing.assert_allclose(prices.inverse_transform(z, t), x, rtol=1e-10)
        slope = (law.logpdf(x + 1e-5) - law.logpdf(x - 1e-5)) / 2e-5
        np.testing.assert_allclose(prices.grad_log_density(x, t), slope, atol=1e-4)
    assert prices.certificate_.kl() < 1e-10
    assert "coordinates: y = log(x - low), for the support (0, inf)" in str(prices.plan_)
    assert isinstance(split_frame(prices.flow_)[0], type(prices.plan_.flow))


def test_current_velocity_and_paths_are_of_x(prices):
    """J = rho v in one dimension, and the law's own change says what J is."""
    x, t, h = np.linspace(0.3, 4.0, 12)[:, None], 1.0, 1e-4
    current = prices.current(x, t)
    rho = np.exp(prices.log_density(x, t))[:, None]
    np.testing.assert_allclose(current, rho * prices.velocity(x, t), atol=1e-6)
    change = (brownian(t + h).cdf(x) - brownian(t - h).cdf(x)) / (2 * h)
    np.testing.assert_allclose(current, -change, atol=1e-5)
    a, b, c = prices.paths(20, [t - h, t, t + h], random_state=0)
    np.testing.assert_allclose((c - a) / (2 * h), prices.velocity(b, t), rtol=1e-4)
    law = prices.at(t)
    points = torch.tensor(x, requires_grad=True)
    score = torch.autograd.grad(law.log_prob(points).sum(), points)[0]
    np.testing.assert_allclose(score, prices.grad_log_density(x, t), atol=1e-8)


def test_outside_there_is_no_density(prices):
    assert prices.log_density([[-1.0], [0.0]]).tolist() == [-INF, -INF]
    for method in (prices.transform, prices.velocity, prices.grad_log_density, prices.current):
        with pytest.raises(
            ValueError, match=r"X\[1\] = \[-1.0\] is not inside the support \(0, inf"
        ):
            method([[1.0], [-1.0]])
    with pytest.raises(ValueError, match=r"posterior\(\) weighs draws"):
        prices.posterior()
    with pytest.raises(ValueError, match="convexity"):
        prices.certificate_.w2()


def test_log_normal_noise_is_exact():
    problem = problems.load("log-normal-10d")
    model = ParametricFokkerPlanck(initial=problem.initial, random_state=0)
    model.fit(problem.potential, problem.t_final)
    assert isinstance(model.scheme_, GaussianMoments)
    for t in problem.times:
        x = model.sample(500, t)
        gap = model.log_density(x, t) - problem.log_density(x, t)
        assert np.abs(gap.mean()) < 1e-7
    x = problem.start(200)
    np.testing.assert_allclose(model.log_density(x, 0.0), problem.log_density(x, 0.0), atol=1e-10)


def reverting(x):
    return 1.0 - x


@pytest.mark.slow
def test_square_root_noise():
    """Cox, Ingersoll and Ross: a Gamma law is stationary, another start comes to it."""
    rest = stats.gamma(6.25, scale=0.16)
    equation = Equation(
        drift=reverting, diffusion=lambda x: 0.16 * x, support=(0, INF), n_features=1
    )
    model = ParametricFokkerPlanck(initial=(0.5, 0.1), random_state=0).fit(equation, 8.0)
    kl, error = divergence(model, rest, 8.0)
    assert abs(kl) < 1e-4 + 4 * error
    assert model.certificate_.kl() < 0.01
    start = Gamma(torch.tensor(6.25), torch.tensor(6.25))
    model = ParametricFokkerPlanck(initial=start, random_state=0).fit(equation, 0.5)
    kl, error = divergence(model, rest, 0.5)
    assert abs(kl) < 1e-3 + 4 * error and model.initial_error_ < 1e-2


@pytest.mark.slow
@pytest.mark.xfail(strict=True, reason="the march to t = 8 ends with a useless certificate")
def test_a_share_that_mutates():
    """Jacobi, or Wright and Fisher with mutation: comes to a Beta law."""
    equation = Equation(
        drift=lambda x: 0.4 - x,
        diffusion=lambda x: 0.125 * x * (1 - x),
        support=(0, 1),
        n_features=1,
    )
    model = ParametricFokkerPlanck(initial=(0.0, 0.1), random_state=0).fit(equation, 8.0)
    kl, error = divergence(model, stats.beta(3.2, 4.8), 8.0)
    assert abs(kl) < 1e-4 + 4 * error
    x = model.sample(1000)
    assert x.min() > 0 and x.max() < 1


@pytest.mark.slow
def test_a_constant_diffusion_in_y_makes_a_potential_of_it():
    """Logistic growth with noise in proportion: gradient flow of y = log x, at rest a Gamma law."""
    equation = Equation(
        drift=lambda x: x * (1 - x), diffusion=lambda x: 0.18 * x**2, support=(0, INF), n_features=1
    )
    model = ParametricFokkerPlanck(initial=(0.0, 0.1), random_state=0).fit(
        equation, t_final="equilibrium"
    )
    assert model.beta_ == pytest.approx(0.18)
    kl, error = divergence(model, stats.gamma(2 / 0.36 - 1, scale=0.18), None)
    assert abs(kl) < 1e-3 + 4 * error


# ------------------------------------------------------------------------ starts


def test_starts():
    """Pairs are Gaussians of y; distributions and draws are of x."""
    support, pair = Support.of((0, INF), 2), ([0.1, 0.2], 0.3)
    assert on_the_line(pair, support, 2) is pair and on_the_line(None, support, 2) is None
    assert on_the_line(pair, None, 2) is pair
    exact = on_the_line(LogNormal(torch.tensor(0.1), torch.tensor(0.5)), Support.of((0, INF), 1), 1)
    mean, scale = exact.moments(1)
    assert float(mean) == pytest.approx(0.1) and float(scale) == pytest.approx(0.5)
    many = Independent(LogNormal(torch.zeros(2), torch.ones(2)), 1)
    assert initial_shape(on_the_line(many, support, 2), 2) == (True, True)
    x = torch.rand(50, 2, dtype=torch.float64) + 0.1
    torch.testing.assert_close(on_the_line(x, support, 2), x.log())
    law = Independent(Gamma(torch.tensor([2.0, 3.0]).double(), torch.ones(2).double()), 1)
    pulled = on_the_line(law, support, 2)
    assert initial_shape(pulled, 2) == (False, True)
    torch.testing.assert_close(pulled.log_prob(x.log()), law.log_prob(x) + x.log().sum(1))
    assert pulled.sample((5,)).min() < 2 and pulled.event_shape == (2,)
    one = on_the_line(Gamma(torch.tensor(2.0), torch.tensor(1.0)), Support.of((0, INF), 1), 1)
    assert one.sample((5,)).shape == (5, 1) and one.log_prob(x[:, :1]).shape == (50,)
    with pytest.raises(ValueError, match="draws of initial lie outside the support .0, inf"):
        on_the_line(x - 1.0, support, 2)
    with pytest.raises(ValueError, match="initial=Normal lie outside.*pair .mean, covariance"):
        on_the_line(Normal(0.0, 1.0), Support.of((0, INF), 1), 1)


# ------------------------------------------------------------------------ it goes on


def test_pickle_clone_save_and_warm_start(prices, tmp_path):
    pytest.importorskip("safetensors")
    equation = clone(geometric())
    assert equation.get_params()["support"] == (0, INF)
    x = prices.sample(10)
    again = pickle.loads(pickle.dumps(prices))
    np.testing.assert_array_equal(again.log_density(x), prices.log_density(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the equation is left out
        prices.save(tmp_path / "prices.safetensors")
    read = ParametricFokkerPlanck.load(tmp_path / "prices.safetensors")
    np.testing.assert_array_equal(read.log_density(x), prices.log_density(x))
    assert read.log_density([[-1.0]])[0] == -INF
    again.set_params(warm_start=True)
    with pytest.raises(ValueError, match=r"support \(0, inf\) cannot be continued on None"):
        again.fit(clone(equation).set_params(support=None), 3.0)
    again.fit(equation, 3.0)
    assert again.t_final_ == 3.0
    np.testing.assert_allclose(again.log_density(x, 3.0), brownian(3.0).logpdf(x[:, 0]), atol=1e-6)
    np.testing.assert_allclose(again.log_density(x, 1.0), brownian(1.0).logpdf(x[:, 0]), atol=1e-6)


def test_particles_step_in_y():
    x = langevin(geometric(), [0.5, 1.0], n_particles=20_000, n_features=1, n_steps=20)
    assert x.min() > 0
    y = np.log(x[1])
    assert y.mean() == pytest.approx(0.175, abs=0.03) and y.var() == pytest.approx(1.25, rel=0.04)
    with pytest.raises(ValueError, match="x0 must lie inside the support"):
        langevin(geometric(), 1.0, x0=[[-1.0]])
    with pytest.raises(ValueError, match="leave support out and give a domain inside it"):
        finite_volumes(geometric(n_features=1), 1.0)


# ------------------------------------------------------------------------ messages


@pytest.mark.parametrize(
    ("support", "message"),
    [
        (3, "must be a pair"),
        ([(0, 1, 2)] * 2, "got shape"),
        ((1, 0), r"low < high, got \(1, 0\) for coordinate 0"),
        ([(0, INF)] * 3, "contradictory.*length of support says 3"),
        ("positive", "must be a pair"),
    ],
)
def test_bad_supports(support, message):
    equation = Equation(drift=growth, diffusion=in_proportion, support=support)
    with pytest.raises(ValueError, match=message):
        ParametricFokkerPlanck(n_features=2).fit(equation, 1.0)


def ends(drift, diffusion, support=(0, INF)):
    equation = Equation(drift=drift, diffusion=diffusion, support=support, n_features=1)
    device = torch.device("cpu")
    return read_equation(equation, n_features=None, beta=1.0, mean=None, horizon=1.0, device=device)


def test_ends_that_are_reached():
    def root(x):
        return 0.5 * x

    with pytest.raises(ValueError, match="Noise does not fade for coordinate 0 at its end 0"):
        ends(lambda x: -x, 0.5)  # reflected
    with pytest.raises(ValueError, match="Noise does not fade"):
        ends(lambda x: 0.2 / x, 0.5)  # a Bessel process of dimension 1.4
    with pytest.raises(ValueError, match="drift takes coordinate 0 at its end 1 of support out"):
        ends(lambda x: 1.0 - 0 * x, lambda x: (x * (1 - x)) ** 2, (0, 1))
    with pytest.warns(UserWarning, match="turn back. The drift away from it is 0.5 of what"):
        ends(lambda x: 0.25 * (1 - x), root)
    with pytest.warns(UserWarning, match="stay there: that part of the law has no density"):
        ends(lambda x: 0 * x, lambda x: x * (1 - x), (0, 1))
    with pytest.raises(ValueError, match="support and interaction do not go together"):
        Equation(interaction=lambda r: r.square().sum(1), support=(0, 1)).read_support(1)
    ends(lambda x: 0.6 / x, 0.5)  # a Bessel process that does not come to 0
    ends(lambda x: 0.6 * (1 - x), root)


def test_messages_name_points_of_x():
    def walled(x):
        return torch.where(x > 0.5, torch.nan, 1.0) * growth(x)

    with pytest.raises(PotentialError, match=r"drift returned NaN at x = \[(0\.[5-9]|[1-9])"):
        ends(walled, in_proportion)
    with pytest.raises(ValueError, match="half line or an interval, give the equation a support"):
        equation = Equation(drift=reverting, diffusion=lambda x: 0.1 * x, n_features=2)
        ParametricFokkerPlanck().fit(equation, 1.0)


def test_particles_on_one_side_of_zero_suggest_a_support():
    device, x = torch.device("cpu"), np.exp(np.random.RandomState(0).randn(3, 400, 1))

    def advice(diffusion, seen):
        equation = Equation(drift=growth, diffusion=diffusion, n_features=1)
        read, _ = read_equation(
            equation, n_features=None, beta=1.0, mean=None, horizon=1.0, device=device
        )
        return missing_support(read, seen)

    assert r"support=(0, inf)" in advice(in_proportion, x)
    assert r"support=(-inf, 0)" in advice(in_proportion, -x)
    assert advice(in_proportion, x - 1) is None
    assert advice(lambda x: 1 + x.square(), x) is None and advice([0.5], x) is None
