"""The semi-implicit step (45) and the projected metric: orders, dissipation, G <= Ghat."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skfokker import ParametricFokkerPlanck, metrics, problems
from skfokker.benchmark.studies.metric import gradient_part
from skfokker.equation import FokkerPlanck
from skfokker.flows import AffineFlow, Composition, ElementwiseFlow, Inverse, PlanarFlow
from skfokker.potentials import DoubleWell, Quadratic, Rosenbrock
from skfokker.safe_format import decode, encode
from skfokker.schemes import DualFeatures, LeastSquaresNested, ProjectedMetric, SemiImplicitNested
from skfokker.schemes.normal_equations import DirectSolver, InnerProblem
from skfokker.schemes.points import normal_grid, sobol_normal
from skfokker.schemes.projected import ProjectedSolver, Projection

METRICS = ["relaxed", "projected"]


def march(scheme, equation, flow, t_end, theta=None):
    generator = torch.Generator().manual_seed(0)
    theta = flow.init(equation.d, generator) if theta is None else theta
    return list(scheme.steps(equation, flow, theta, 0.0, t_end, generator))


def moments(flow, theta, d):
    y = flow.forward(theta, torch.cat([torch.zeros(1, d), torch.eye(d)]).double())[0]
    root = (y[1:] - y[0]).T
    return y[0].numpy(), (root @ root.T).numpy()


def slopes(h, errors):
    return np.diff(np.log(errors)) / np.diff(np.log(h))


# ---------------------------------------------------------------- order in time


@pytest.mark.parametrize("metric", METRICS)
def test_first_order_on_a_gaussian(metric):
    """Against the exact law: global error O(h) (Theorem 33), one step O(h^2) (Theorem 12)."""
    problem, flow = problems.load("quadratic-2d-aniso"), AffineFlow()
    equation = FokkerPlanck(problem.potential, problem.beta, 2)

    def error(h, t):
        last = march(SemiImplicitNested(h, metric, tolerance=1e-9), equation, flow, t)[-1]
        mean, covariance = problem.moments(t)
        ours = moments(flow, last.theta, 2)
        return [np.linalg.norm(ours[0] - mean), np.linalg.norm(ours[1] - covariance)]

    h = 0.2 / np.array([16, 32])
    overall = np.array([error(k, 0.2) for k in h])
    assert slopes(h, overall[:, 0]) == pytest.approx(1, abs=0.1)
    assert slopes(h, overall[:, 1]) == pytest.approx(1, abs=0.1)
    h = 0.008 / np.array([2, 4, 8])
    local = np.array([error(k, k) for k in h])
    assert slopes(h, local[:, 0]) == pytest.approx(2, abs=0.1)
    assert slopes(h, local[:, 1]) == pytest.approx(2, abs=0.1)


def test_the_step_is_the_proximal_map_of_a_gaussian():
    """In one dimension by hand: variance s^2, (s' - s) / h = -(s' / v - beta / s')."""
    v, mu, beta, h = 0.5, 1.5, 0.8, 0.3
    equation, flow = FokkerPlanck(Quadratic([mu], v), beta, 1), AffineFlow()
    last = march(SemiImplicitNested(h, damping=0.0, tolerance=1e-12), equation, flow, h)[-1]
    mean, variance = moments(flow, last.theta, 1)
    rate = 1 + h / v
    s = (1 + np.sqrt(1 + 4 * rate * beta * h)) / (2 * rate)
    assert mean[0] == pytest.approx(mu * h / v / rate, abs=1e-9)
    assert variance[0, 0] == pytest.approx(s**2, abs=1e-9)


def test_first_order_on_a_curved_problem():
    """A spline in a double well, against a converged march on the same quadrature."""
    flow, d = ElementwiseFlow(n_intervals=6, radius=2.5), 1
    equation = FokkerPlanck(DoubleWell(d), 1.0, d, separable=True)
    theta = flow.init(d)
    exact = march(LeastSquaresNested(1e-9, n_samples=400), equation, flow, 0.05, theta)[-1].theta
    x, weights = normal_grid(400, d)
    target = flow.forward(exact, x)[0]
    h, errors = 0.05 / np.array([8, 16, 32]), []
    for step in h:
        scheme = SemiImplicitNested(step, n_samples=400, tolerance=1e-8)
        gap = flow.forward(march(scheme, equation, flow, 0.05, theta)[-1].theta, x)[0] - target
        errors.append(float((weights @ gap.square().sum(1)).sqrt()))
    assert slopes(h, errors) == pytest.approx(1, abs=0.15)


# ---------------------------------------------------------------- what a proximal step obeys


@pytest.mark.parametrize("h", [0.01, 0.3, 10.0])
@pytest.mark.parametrize(
    "flow, potential, metric",
    [
        (ElementwiseFlow(n_intervals=6, radius=2.5), DoubleWell(2), "relaxed"),
        (AffineFlow(), Quadratic([1.0, -2.0], [[1.0, 0.4], [0.4, 0.3]]), "relaxed"),
        (AffineFlow(), Quadratic([1.0, -2.0], [[1.0, 0.4], [0.4, 0.3]]), "projected"),
        (PlanarFlow(4), Rosenbrock(2), "relaxed"),
        (PlanarFlow(4), Rosenbrock(2), "projected"),
    ],
    ids=["spline", "affine", "affine-projected", "planar", "planar-projected"],
)
@pytest.mark.filterwarnings("ignore:max_iterations")
def test_the_free_energy_decreases_whatever_the_step(h, flow, potential, metric):
    equation = FokkerPlanck(potential, 0.7, 2, separable=flow.separable)
    scheme = SemiImplicitNested(h, metric, resample=False, n_samples=512, max_iterations=10)
    energies = [s.record["free_energy"] for s in march(scheme, equation, flow, 3 * h)]
    assert len(energies) == 4
    assert (np.diff(energies) < 0).all()


def test_a_very_long_step_lands_on_the_gibbs_law():
    covariance = np.array([[1.0, 0.4], [0.4, 0.3]])
    equation = FokkerPlanck(Quadratic([1.0, -2.0], covariance), 1.0, 2)
    last = march(SemiImplicitNested(1e6, tolerance=1e-7), equation, AffineFlow(), 1e6)[-1]
    mean, found = moments(AffineFlow(), last.theta, 2)
    np.testing.assert_allclose(mean, [1.0, -2.0], atol=1e-5)
    np.testing.assert_allclose(found, covariance, atol=1e-5)


def test_steps_divide_the_span_and_record_themselves():
    equation = FokkerPlanck(Quadratic([1.0], 0.5), 1.0, 1)
    steps = march(SemiImplicitNested(0.03), equation, AffineFlow(), 0.1)
    np.testing.assert_allclose([s.t for s in steps], np.linspace(0, 0.1, 5))
    for step in steps[1:]:
        assert step.record["h"] == pytest.approx(0.025)
        assert step.record["converged"] and step.record["decrease"] > 0
        # H falls by at least distance^2 / 2h, as theta_k itself is a candidate in (45)
        assert step.record["decrease"] >= step.record["distance"] ** 2 / (2 * 0.025)


def test_a_step_cut_short_says_so():
    scheme = SemiImplicitNested(1.0, max_iterations=1)
    with pytest.warns(ConvergenceWarning, match="max_iterations=1 ended 1 of 1.*smaller step"):
        march(scheme, FokkerPlanck(DoubleWell(2), 1.0, 2), PlanarFlow(3), 1.0)


# ---------------------------------------------------------------- the projected metric


def moved_problem(flow, potential, n=600):
    d = potential.n_features_in_
    generator = torch.Generator().manual_seed(1)
    theta = flow.init(d, generator)
    theta = theta + 0.3 * torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
    x = sobol_normal(n, d, 3)
    return InnerProblem(
        FokkerPlanck(potential, 0.8, d), flow, theta, x, torch.full((n,), 1 / n).to(x)
    )


def metrics_of(problem, features):
    """G and Ghat (m, m) at a problem."""
    projection = ProjectedMetric(features, blend=0.0).at(problem)
    jacobian = problem.linearization.jacobian()[0].flatten(0, 1)
    rows = projection.coordinates(jacobian)
    return rows.T @ rows, jacobian.T @ (jacobian * projection.root.square())


@pytest.mark.parametrize("unit", ["softplus", "tanh", "rbf"])
def test_the_projected_metric_is_below_the_relaxed_one(unit):
    problem = moved_problem(PlanarFlow(6), Rosenbrock(2))
    small, full = metrics_of(problem, DualFeatures(40, unit=unit))
    scale = float(full.diagonal().max())
    assert torch.linalg.eigvalsh(full - small)[0] > -1e-12 * scale
    assert torch.linalg.eigvalsh(small)[0] > -1e-12 * scale
    assert small.trace() < 0.999 * full.trace()  # planar layers also stir


def test_more_features_more_length():
    problem = moved_problem(PlanarFlow(6), Rosenbrock(2))
    few = metrics_of(problem, DualFeatures(0, degree=1))[0]
    more = metrics_of(problem, DualFeatures(0, degree=2))[0]
    assert torch.linalg.eigvalsh(more - few)[0] > -1e-9 * float(more.diagonal().max())
    assert more.trace() > few.trace()


@pytest.mark.parametrize("unit", ["softplus", "tanh", "rbf"])
def test_features_are_gradients(unit):
    """Their Jacobians in y are symmetric: the fields derive from potentials."""
    d, features = 3, DualFeatures(5, unit=unit)
    x = sobol_normal(64, d, 0) @ torch.randn(d, d, generator=torch.Generator().manual_seed(0)).to(
        torch.float64
    )
    weights = torch.full((64,), 1 / 64, dtype=torch.float64)
    shift, jacobian = 1e-5, []
    for e in torch.eye(d).double():
        ends = []
        for sign in (1, -1):  # one more point, of no weight, moves alone
            y = torch.cat([x, (x[:1] + sign * shift * e)])
            w = torch.cat([weights, weights[:1] * 0])
            ends.append(features.gradients(y, w)[-1])
        jacobian.append((ends[0] - ends[1]) / (2 * shift))
    jacobian = torch.stack(jacobian)  # (d, d, K)
    assert jacobian.shape[2] == features.n_features(d) == 3 + 6 + 5
    torch.testing.assert_close(jacobian, jacobian.transpose(0, 1), rtol=0, atol=1e-8)


class Exhaustive:
    """In one dimension every field is a gradient, so are the tangent fields themselves."""

    def __init__(self, problem):
        self.fields = problem.linearization.jacobian()[0]

    def gradients(self, y, weights):
        return self.fields


def test_in_one_dimension_the_metrics_agree_where_the_features_span_the_tangents():
    """Corollary 4.1."""
    problem = moved_problem(PlanarFlow(3), DoubleWell(1))
    metric = ProjectedMetric(blend=0.0)
    metric.features = Exhaustive(problem)
    projection = metric.at(problem)
    jacobian = problem.linearization.jacobian()[0].flatten(0, 1)
    rows = projection.coordinates(jacobian)
    full = jacobian.T @ (jacobian * projection.root.square())
    torch.testing.assert_close(rows.T @ rows, full, rtol=1e-6, atol=1e-7 * float(full.max()))


@pytest.mark.parametrize("d", [1, 3])
def test_quadratic_features_span_the_tangents_of_diagonal_affine_maps(d):
    """Section 3.4: affine gradient fields, G = Ghat."""
    problem = moved_problem(AffineFlow(diagonal=True), Quadratic(np.ones(d), 0.5))
    small, full = metrics_of(problem, DualFeatures(0))
    torch.testing.assert_close(small, full, rtol=1e-8, atol=1e-8 * float(full.max()))


def test_a_rotation_of_a_round_gaussian_has_no_length():
    """The kernel of G, and why some of the relaxed metric is blended in."""
    d, flow = 2, AffineFlow()
    x = torch.cat([torch.eye(2), -torch.eye(2)]).double() * np.sqrt(2)  # moments of N(0, I)
    equation = FokkerPlanck(Quadratic([1.0, 2.0], 0.5), 1.0, d)
    problem = InnerProblem(equation, flow, flow.init(d), x, torch.full((4,), 0.25).to(x))
    turn = problem.linearization.tangent(
        torch.zeros(2).double(), torch.tensor([[0.0, -1.0], [1.0, 0.0]]).double()
    )
    small, full = metrics_of(problem, DualFeatures(0))
    assert float(turn @ full @ turn) == pytest.approx(2.0, abs=1e-12)
    assert float(turn @ small @ turn) == pytest.approx(0.0, abs=1e-9)


def test_a_rotation_hides_an_expansion_of_finite_size():
    """Why ``blend`` has to be above h times the rate: |P(T - x)|^2 is no distance of the laws."""
    x = torch.cat([torch.eye(2), -torch.eye(2)]).double() * np.sqrt(2)
    weights = torch.full((4,), 0.25).to(x)
    angle = float(np.arccos(1 / 1.2))
    turn = torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    gradients = DualFeatures(0).gradients(x, weights)
    span = Projection(gradients, torch.zeros_like(x), weights, blend=0.0)
    plain, hidden = (span.project(moved - x) for moved in (1.2 * x, 1.2 * x @ turn.T))
    assert float(weights @ plain.square().sum(1)) == pytest.approx(2 * 0.2**2)
    assert float(weights @ hidden.square().sum(1)) == pytest.approx(0, abs=1e-15)


def test_the_gradient_part_of_the_residual():
    """What the study reports: below the certificate, and all of it where r is a gradient."""
    problem = problems.load("quadratic-2d-aniso")
    fit = ParametricFokkerPlanck(AffineFlow(), SemiImplicitNested(0.02), random_state=0)
    fit.fit(problem.potential, 0.2)
    whole = fit.certificate_.kl(confidence=0.5)
    assert 0.8 * whole < gradient_part(fit) < 1.1 * whole


def test_the_solver_minimises_what_it_says():
    problem = moved_problem(PlanarFlow(4), Rosenbrock(2))
    metric = ProjectedMetric(DualFeatures(20), blend=0.1)
    projection = metric.at(problem)
    solution = ProjectedSolver(problem.flow, 2, 1e-12, metric).solve(problem)

    def loss(xi):
        field = problem.linearization.jvp(xi) + problem.g
        return 0.9 * problem.mean_square(projection.project(field)) + 0.1 * problem.mean_square(
            field
        )

    best = loss(solution.xi)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        nudge = 1e-2 * torch.randn(solution.xi.shape, generator=generator, dtype=torch.float64)
        assert loss(solution.xi + nudge) > best and loss(solution.xi - nudge) > best
    relaxed = DirectSolver(problem.flow, 2, 1e-12).solve(problem)
    assert problem.mean_square(relaxed.residual) < problem.mean_square(solution.residual)
    assert best < loss(relaxed.xi)


def test_the_force_belongs_to_the_span_so_that_the_energy_falls():
    """E[dT^T P g] is the pointwise gradient of H, however few features there are."""
    problem = moved_problem(PlanarFlow(4), Rosenbrock(2))
    projection = ProjectedMetric(DualFeatures(0, degree=1)).at(problem)
    torch.testing.assert_close(projection.project(problem.g), problem.g, rtol=0, atol=1e-8)
    xi = (
        ProjectedSolver(problem.flow, 2, 1e-10, ProjectedMetric(DualFeatures(0, degree=1)))
        .solve(problem)
        .xi
    )
    slope = problem.linearization.vjp(problem.g * problem.weights[:, None])[0]
    assert float(slope @ xi) < 0


def test_both_metrics_move_a_gaussian_alike():
    """The family holds the velocity: both residuals vanish, on any points."""
    problem = problems.load("quadratic-2d-aniso")
    laws = []
    for metric in METRICS:
        scheme = LeastSquaresNested(metric=metric, max_step=0.1)
        fit = ParametricFokkerPlanck(AffineFlow(), scheme, random_state=0)
        laws.append(fit.fit(problem.potential, 0.3))
    points = np.random.default_rng(0).normal(size=(20, 2))
    np.testing.assert_allclose(*[law.log_density(points) for law in laws], atol=1e-6)


# ---------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    "parameters, message",
    [
        (dict(step=0.0), "step must be positive and finite, got 0.0; try"),
        (dict(step=float("inf")), "step must be positive and finite"),
        (dict(tolerance=0.0), "tolerance must be positive"),
        (dict(damping=-1.0), "damping must be None or at least 0"),
        (dict(max_iterations=0), "max_iterations must be at least 1"),
        (dict(n_samples=0), "n_samples must be None or at least 1"),
        (dict(metric="flat"), "metric must be .* got 'flat'; try"),
        (dict(metric=ProjectedMetric(blend=2.0)), "blend must be a number in"),
        (dict(metric=ProjectedMetric(DualFeatures(unit="relu"))), "unit must be one of .*'relu'"),
        (dict(metric=ProjectedMetric(DualFeatures(degree=3))), "degree must be 1 or 2, got 3"),
        (dict(metric=ProjectedMetric(DualFeatures(-1))), "n_units must be a whole number"),
        (dict(metric=ProjectedMetric(DualFeatures(width=0))), "width must be positive"),
    ],
)
def test_parameters_are_checked(parameters, message):
    equation = FokkerPlanck(Quadratic([0.0], 1.0), 1.0, 1)
    with pytest.raises(ValueError, match=message):
        march(SemiImplicitNested(**parameters), equation, AffineFlow(), 0.01)


def test_least_squares_checks_its_metric():
    equation = FokkerPlanck(Quadratic([0.0], 1.0), 1.0, 1)
    with pytest.raises(ValueError, match='metric must be "relaxed"'):
        march(LeastSquaresNested(metric="flat"), equation, AffineFlow(), 0.01)


def test_components_are_reached_by_name():
    scheme = SemiImplicitNested(metric=ProjectedMetric(DualFeatures(8)))
    model = clone(ParametricFokkerPlanck(scheme=scheme))
    model.set_params(scheme__metric__features__n_units=16, scheme__step=0.1)
    assert model.scheme.metric.features.n_units == 16 and scheme.metric.features.n_units == 8
    assert model.get_params()["scheme__step"] == 0.1


def test_the_metric_is_saved_with_its_scheme():
    scheme = SemiImplicitNested(0.1, ProjectedMetric(DualFeatures(8, unit="rbf"), blend=0.2))
    assert decode(encode(scheme)).get_params()["metric__features__unit"] == "rbf"


def test_a_spline_family_fits_and_is_certified():
    """Through the estimator: no velocity is stored, and the certificate still bounds the error."""
    problem = problems.load("styblinski-tang-1d")
    flow = Composition([Inverse(ElementwiseFlow(12, radius=6.0)), AffineFlow(diagonal=True)])
    fit = ParametricFokkerPlanck(flow, SemiImplicitNested(0.01), random_state=0)
    fit.fit(problem.potential, 0.2)
    assert -1e-6 < metrics.kl_to_exact(fit, problem, 0.2) < fit.certificate_.kl()
