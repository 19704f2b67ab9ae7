"""The certificate lies above the truth, and is not vacuous."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from skfokker import ParametricFokkerPlanck, metrics, problems
from skfokker.certificate import Certificate, certify
from skfokker.distribution import TransportedNormal
from skfokker.divergence import colour, divergence, spread_out
from skfokker.equation import FokkerPlanck
from skfokker.flows import (
    AffineFlow,
    Composition,
    ElementwiseFlow,
    Frame,
    MixtureFlow,
    TriangularFlow,
)
from skfokker.imbalance import Imbalance
from skfokker.point_look import Tail
from skfokker.potentials import (
    CallablePotential,
    CheckedPotential,
    GaussianMixture,
    Quadratic,
    Rosenbrock,
)
from skfokker.reference import finite_volumes
from skfokker.schemes.least_squares import LeastSquaresNested
from skfokker.schemes.points import sobol_normal, tail_normal
from skfokker.solenoidal import Points, Solenoidal
from skfokker.trajectory import Trajectory


@pytest.fixture(scope="module")
def crude():
    """A march with large time steps: its error is that of the discretisation."""
    problem = problems.load("quadratic-2d-iso")
    scheme = LeastSquaresNested(1e-2, max_step=0.2)
    fit = ParametricFokkerPlanck(scheme=scheme, random_state=0).fit(problem.potential, 0.7)
    return problem, fit


def test_above_the_true_error_of_the_time_steps(crude):
    problem, fit = crude
    truths = [metrics.kl_to_exact(fit, problem, t) for t in (0.1, 0.35, 0.7)]
    assert max(truths) > 1e-8
    for t, truth in zip((0.1, 0.35, 0.7), truths, strict=True):
        assert truth <= fit.certificate_.kl(t)


def test_above_the_true_error_of_a_family_that_is_too_small():
    """Gaussians for a double well: the bound must see what the family cannot do."""
    problem = problems.load("styblinski-tang-1d")
    fit = ParametricFokkerPlanck(AffineFlow(), tol=10, random_state=0).fit(problem.potential, 1.0)
    truth = metrics.kl_to_exact(fit, problem, 1.0)
    assert truth > 0.05
    assert truth <= fit.certificate_.kl(1.0)
    assert fit.certificate_.total_variation() <= 1


def test_tight_where_the_family_is_good():
    problem = problems.load("styblinski-tang-1d")
    fit = ParametricFokkerPlanck(random_state=0).fit(problem.potential, 1.0)
    assert metrics.kl_to_exact(fit, problem, 1.0) <= fit.certificate_.kl(1.0) < 1e-4


def test_w2_bound_of_a_convex_potential(crude):
    problem, fit = crude
    assert fit.certificate_.convexity == pytest.approx(4.0)
    for t in (0.1, 0.7):
        mean, covariance = metrics.moments(fit, t)
        exact_mean, exact_covariance = problem.moments(t)
        root = np.sqrt(np.diag(covariance)) - np.sqrt(np.diag(exact_covariance))
        w2 = np.sqrt(np.sum((mean - exact_mean) ** 2) + np.sum(root**2))  # commuting Gaussians
        assert w2 <= fit.certificate_.w2(t)


def test_no_constant_no_w2_bound():
    problem = problems.load("styblinski-tang-1d")
    fit = ParametricFokkerPlanck(random_state=0).fit(problem.potential, 0.1)
    with pytest.raises(ValueError, match="convexity"):
        fit.certificate_.w2()


def test_readable_and_monotone(crude):
    _, fit = crude
    certificate = fit.certificate_
    assert "KL(fit | exact) <=" in str(certificate) and "at t = 0.7 (95 %)" in str(certificate)
    times = np.linspace(0, 0.7, 50)
    values = replace(certificate, log_sobolev=None).kl(times)
    assert (np.diff(values) >= 0).all() and values[0] >= 0
    assert (certificate.kl(times) <= values).all()  # a convex potential forgets
    assert certificate.kl(0.7) < 0.5 * values[-1]
    assert certificate.kl(0.7, confidence=0.99) > certificate.kl(0.7) > 0
    with pytest.raises(ValueError, match="certified span"):
        certificate.kl(0.8)


def test_continuation_certifies_the_whole_span():
    problem = problems.load("quadratic-2d-iso")
    fit = ParametricFokkerPlanck(random_state=0, warm_start=True).fit(problem.potential, 0.3)
    first = fit.certificate_.kl()
    fit.fit(problem.potential, 0.6)
    assert fit.certificate_.times[0] == 0 and fit.certificate_.times[-1] == 0.6
    assert fit.certificate_.kl(0.6) >= fit.certificate_.kl(0.3)
    assert fit.certificate_.kl(0.3) < 10 * first + 1e-6


@pytest.mark.parametrize("d", [1, 10, 50])
def test_points_in_the_tails_are_unbiased_and_less_noisy_there(d):
    """Means of 1, |x|^2 and of an indicator of the tail, over 200 independent point sets."""
    far = stats.chi2.ppf(0.999, d)
    ours, plain = [], []
    for seed in range(200):
        x, weights = tail_normal(256, d, seed)
        size = x.square().sum(1)
        values = weights.sum(), weights @ size / d, weights @ (size > far).to(weights) / 1e-3
        ours.append([float(v) for v in values])
        plain.append(
            float((sobol_normal(256, d, seed).square().sum(1) > far).double().mean()) / 1e-3
        )
    error = np.std(ours, axis=0) / np.sqrt(len(ours))
    assert (np.abs(np.mean(ours, axis=0) - 1) < 4 * error + 1e-4).all()
    assert np.std([row[2] for row in ours]) < 0.5 * np.std(plain)


def certified(march, potential, beta=1.0, **known):
    equation = FokkerPlanck(CheckedPotential(potential), beta, march.d)
    return certify(march, equation, torch.Generator().manual_seed(0), **known)


def turning_gaussian(rate):
    """N(0, I), at rest as a law, by a rotation of ever more degrees: theta' is large."""
    flow, times = AffineFlow(), np.linspace(0, 1, 21)
    thetas, velocities = [], []
    for t in times:
        c, s = np.cos(rate * t), np.sin(rate * t)
        turn, speed = ([[c, -s], [s, c]], [[-rate * s, -rate * c], [rate * c, -rate * s]])
        turn, speed = (torch.tensor(a, dtype=torch.float64) for a in (turn, speed))
        lower = torch.tensor([[1.0, 0.0], [float(turn[1, 0] / turn[0, 0]), 1.0]]).double()
        upper = torch.linalg.solve(lower, turn)
        theta = torch.cat(
            [torch.zeros(2), upper.diagonal().log(), upper[0, 1:], lower[1, :1]]
        ).double()
        here = flow.linearize(theta, torch.zeros(1, 2, dtype=torch.float64))
        thetas.append(theta.numpy())
        velocities.append(here.tangent(torch.zeros(2, dtype=torch.float64), speed).numpy())
    return Trajectory(times, np.stack(thetas), np.stack(velocities), flow, 2)


def test_what_turns_a_law_in_itself_is_not_charged():
    """The whole residual is that of a rotation by one radian; the law never moves."""
    certificate = certified(turning_gaussian(1.0), Quadratic([0.0, 0.0]))
    assert replace(certificate, charged=None).kl() > 0.4
    assert certificate.kl() < 1e-3
    assert certificate.total_variation() < 1e-3


@pytest.mark.parametrize("d", [2, 4])
def test_fields_of_the_span_leave_the_law_alone(d):
    """div w + w . s = 0 for every one of them, behind any map."""
    flow = Composition([ElementwiseFlow(8), TriangularFlow(6)])
    generator = torch.Generator().manual_seed(0)
    theta = 0.3 * torch.randn(flow.n_parameters(d), dtype=torch.float64, generator=generator)
    span = Solenoidal(d)
    assert len(span) > 2 * d

    def field(y, c):
        x = flow.inverse(theta, y)[0]
        at = flow.linearize(theta, x)
        ones = torch.ones(len(x), dtype=torch.float64)
        return span.field(Points(theta, at, x, ones, torch.zeros_like(x)), c)

    y = flow.forward(theta, torch.randn(20, d, dtype=torch.float64, generator=generator))[0]
    score = TransportedNormal(flow, theta, d).score(y)
    step = torch.full((d,), 1e-5, dtype=torch.float64)
    columns = flow.linearize(theta, flow.inverse(theta, y)[0])
    columns = columns.by_points() @ span.columns(flow.inverse(theta, y)[0])
    for k in range(0, len(span), 7):
        c = torch.zeros(len(span), dtype=torch.float64)
        c[k] = 1.0
        w = field(y, c)
        torch.testing.assert_close(w, columns[:, :, k], rtol=1e-8, atol=1e-8)
        change = divergence(lambda y, c=c: field(y, c), y, step, spread_out(d, d))
        torch.testing.assert_close(change, -(w * score).sum(1), rtol=1e-5, atol=1e-5)


def test_differences_along_signs_are_unbiased():
    d, n = 6, 20_000
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(d, d, dtype=torch.float64, generator=generator)
    y = torch.randn(n, d, dtype=torch.float64, generator=generator)
    step = torch.full((d,), 1e-3, dtype=torch.float64)

    def trace(groups):
        return divergence(lambda y: y @ matrix.T, y, step, groups, generator)

    exact = matrix.trace().expand(n)
    torch.testing.assert_close(trace(spread_out(d, d)), exact, rtol=1e-8, atol=1e-8)
    noisy = trace(spread_out(d, 2))
    assert noisy.std() > 0.1
    assert abs(noisy.mean() - exact[0]) < 5 * noisy.std() / n**0.5


def test_coordinates_of_a_colour_do_not_interact():
    chain = np.eye(7, dtype=bool) | np.eye(7, k=1, dtype=bool)
    assert len(colour(chain)) == 2
    assert len(colour(np.eye(5, dtype=bool))) == 1
    assert len(colour(np.ones((4, 4), dtype=bool))) == 4
    generator = np.random.default_rng(0)
    random = generator.random((12, 12)) < 0.2
    groups = colour(random)
    assert sorted(torch.cat(groups).tolist()) == list(range(12))
    for group in groups:
        block = random[np.ix_(group, group)]
        assert not (block & ~np.eye(len(group), dtype=bool)).any()


FAMILIES = {
    "affine": AffineFlow(),
    "mixture": MixtureFlow(2),
    "splines": ElementwiseFlow(8),
    "triangular": Composition([TriangularFlow(6), AffineFlow()]),
    "mixture behind a frame": Composition([MixtureFlow(2), Frame([0.3, -0.2], 1.2)]),
}


def wandering(flow, seed=0, d=2):
    """A march to nowhere in particular."""
    generator = torch.Generator().manual_seed(seed)
    m = flow.n_parameters(d)
    theta, dtheta = 0.25 * torch.randn(2, m, dtype=torch.float64, generator=generator)
    times = np.array([0.0, 0.2, 0.4])
    thetas = np.stack([(theta + t * dtheta).numpy() for t in times])
    return Trajectory(times, thetas, np.stack([dtheta.numpy()] * 3), flow, d)


@pytest.mark.parametrize("name", FAMILIES)
def test_imbalance_is_that_of_the_density(name):
    """eps on points against d/dt log rho - L* rho / rho by differences of the log density."""
    march, t = wandering(FAMILIES[name]), 0.3
    potential, beta = Rosenbrock(2, scale=0.02), 0.7
    equation = FokkerPlanck(potential, beta, 2)
    theta, dtheta = (torch.as_tensor(a) for a in march.at(t))
    y = march.sample_from(sobol_normal(64, 2, seed=0) / 2, t)
    generator = torch.Generator().manual_seed(0)
    eps = Imbalance(equation, march.flow, generator).at(theta, dtheta, y)
    h = 1e-4
    here, gradient = march.log_density(y, t), potential.value_and_grad(y)[1]
    rate = (march.log_density(y, t + h) - march.log_density(y, t - h)) / (2 * h)
    score = march.score(y, t)
    right = (gradient * score).sum(1) + beta * score.square().sum(1)
    for axis in h * torch.eye(2, dtype=torch.float64):
        around = march.log_density(y + axis, t) + march.log_density(y - axis, t) - 2 * here
        slope = potential.value_and_grad(y + axis)[1] - potential.value_and_grad(y - axis)[1]
        right += beta * around / h**2 + (slope * axis).sum(1) / (2 * h**2)
    torch.testing.assert_close(eps, rate - right, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_total_variation_against_a_grid():
    """Gaussians for a double well: both bounds lie above the truth, and L1 is not vacuous."""
    problem = problems.load("double-well-1d")
    fit = ParametricFokkerPlanck(AffineFlow(), tol=10, random_state=0).fit(problem.potential, 0.5)
    certificate = fit.certificate_
    x = np.linspace(-4, 4, 4001)
    for t in (0.1, 0.3, 0.5):
        fitted = np.exp(fit.log_density(x[:, None], t))
        exact = np.exp(problem.log_density(x[:, None], t))
        truth = 0.5 * np.sum(np.abs(fitted - exact)) * (x[1] - x[0])
        assert 1e-3 < truth <= certificate.total_variation(t)
    contracted = np.sum(np.diff(certificate.times) * certificate.imbalance) / 2
    assert certificate.total_variation() <= contracted * 1.1 + 1e-3


def test_a_wrong_march_of_gaussians_is_seen():
    """An Ornstein-Uhlenbeck process at half its pace: KL and TV above the truth, forgetting too."""
    flow, times = AffineFlow(diagonal=True), np.linspace(0, 1.5, 31)
    scale = np.sqrt(0.25 + 0.75 * np.exp(-4 * times))  # V = 2 x^2 would have exp(-8 t)
    rate = -1.5 * np.exp(-4 * times) / scale**2
    thetas = np.stack([0 * times, np.log(scale)], 1)
    march = Trajectory(times, thetas, np.stack([0 * times, rate], 1), flow, 1)
    known = dict(convexity=4.0, log_sobolev=1.0)
    certificate = certified(march, Quadratic([0.0], 0.25), **known)
    x = np.linspace(-6, 6, 4001)
    for t in (0.1, 0.4, 1.0, 1.5):
        exact, fitted = 0.25 + 0.75 * np.exp(-8 * t), 0.25 + 0.75 * np.exp(-4 * t)
        kl = 0.5 * (fitted / exact - 1 - np.log(fitted / exact))
        density = [stats.norm.pdf(x, scale=np.sqrt(v)) for v in (exact, fitted)]
        distance = 0.5 * np.sum(np.abs(density[0] - density[1])) * (x[1] - x[0])
        assert kl <= certificate.kl(t) and distance <= certificate.total_variation(t)
    never = replace(certificate, log_sobolev=None)
    assert certificate.kl() < 0.5 * never.kl()
    assert certificate.total_variation() < never.total_variation()


def test_a_kink_is_charged():
    """|x| bends at one point, which no difference sees: E eps is not 0, and is added."""
    laplace = CallablePotential(lambda x: 4 * x.abs().sum(1), 1)
    flow = AffineFlow()
    still = Trajectory(np.array([0.0, 1.0]), np.zeros((2, 2)), np.zeros((2, 2)), flow, 1)
    certificate = certified(still, laplace)
    # eps = -[2 * 4 delta(x) + 4 sign(x) (-x) + beta (x^2 - 1)]; by quadrature, with the atom
    x = np.linspace(-8, 8, 16001)
    smooth = np.abs(-4 * np.abs(x) + x**2 - 1)
    expected = np.sum(smooth * stats.norm.pdf(x)) * (x[1] - x[0]) + 8 * stats.norm.pdf(0)
    assert certificate.imbalance[0] == pytest.approx(expected, rel=0.05)


def with_stray(march, weight, speed):
    """The same mixtures with one more component, that runs away from y = 3."""
    flow, d = march.flow, march.d
    larger = MixtureFlow(flow.n_components + 1)
    root = -torch.ones(1, d, dtype=torch.float64).diag_embed()
    thetas, velocities = [], []
    for t, theta, velocity in zip(march.times, march.thetas, march.velocities, strict=True):
        logits, means, triangle = flow.parts(torch.as_tensor(theta), d)
        dlogits, dmeans, dtriangle = flow.parts(torch.as_tensor(velocity), d)
        change = torch.softmax(logits, 0) @ dlogits
        logits = torch.cat([logits.log_softmax(0), torch.tensor([np.log(weight)])])
        dlogits = torch.cat([dlogits - change, torch.zeros(1)])
        stray = torch.tensor([[0.0, 3.0 + speed * t]], dtype=torch.float64)
        moving = torch.tensor([[0.0, speed]], dtype=torch.float64)
        here = torch.cat([means, stray]), torch.cat([triangle, root])
        there = torch.cat([dmeans, moving]), torch.cat([dtriangle, 0 * root])
        thetas.append(larger.pack(logits, *here).numpy())
        velocities.append(larger.pack(dlogits, *there).numpy())
    return replace(march, flow=larger, thetas=np.stack(thetas), velocities=np.stack(velocities))


@pytest.mark.slow
def test_a_little_stray_mass_does_not_certify_much():
    """A component of weight 1e-4 at a speed of 1000: KL <= 62 as a whole."""
    wells = GaussianMixture([[-2.0, 0.5], [2.0, -0.5]], weights=[0.3, 0.7])
    fit = ParametricFokkerPlanck(MixtureFlow(3), random_state=0).fit(wells, 0.5)
    good = fit.certificate_
    astray = certified(
        with_stray(fit._trajectory(), 1e-4, 1000.0), wells, initial_error=fit.initial_error_
    )
    assert astray.kl() > 10
    assert astray.total_variation() < good.total_variation() + 0.02
    assert astray.main.kl() < good.kl() + 2e-3
    assert astray.left_out.max() == pytest.approx(1e-4, rel=1e-3)
    assert "all but 0.0001 of its mass" in str(astray)
    assert good.main is None


def test_tails_that_certify_most_are_set_apart():
    """N(0, 1) at rest in a potential that ends in x^8: the rest of it is above its own truth."""
    potential = CallablePotential(lambda x: (0.5 * x**2 + 1e-3 * x**8).sum(1), 1)
    still = Trajectory(np.array([0.0, 0.1]), np.zeros((2, 2)), np.zeros((2, 2)), AffineFlow(), 1)
    certificate = certified(still, potential)
    assert certificate.main.kl() < 0.4 * certificate.kl()
    assert certificate.total_variation() <= certificate.main.total_variation() + 1e-3 + 1e-12
    assert "all but 0.001 of its mass" in str(certificate)
    exact, tail = finite_volumes(potential, 0.1), Tail(1)
    x = torch.linspace(-6, 6, 4001, dtype=torch.float64)[:, None]
    share, slope = tail.at(x)
    density = share.numpy() * stats.norm.pdf(x[:, 0])
    step = float(x[1, 0] - x[0, 0])
    assert np.sum(density) * step == pytest.approx(1.0, abs=1e-6)
    assert torch.autograd.functional.jacobian(lambda x: tail.at(x)[0].log().sum(), x).allclose(
        slope
    )
    inside = np.abs(x[:, 0].numpy()) < 5.0  # where the reference resolves logarithms
    ratio = np.log(density[inside]) - exact.log_density(x.numpy()[inside, 0], 0.1)
    truth = np.sum(density[inside] * ratio) * step
    assert 1e-4 < truth <= certificate.main.kl()


def test_certificates_of_old_files_have_fewer_fields():
    old = Certificate(np.array([0.0, 1.0]), np.array([0.1]), np.array([1e-6]), 1.0)
    vars(old).clear()
    vars(old).update(
        times=np.array([0.0, 1.0]), residual=np.array([0.1]), variance=np.array([1e-6]), beta=1.0,
        initial_error=0.0, convexity=None, confidence=0.95,
    )  # fmt: skip
    assert 0.025 < old.kl() < 0.04
    assert old.total_variation() == pytest.approx((old.kl() / 2) ** 0.5)
    assert "total variation" in str(old)
