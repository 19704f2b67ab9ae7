"""ParametricFokkerPlanck: what goes in, what comes out, and what is refused."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.exceptions import NotFittedError
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import KernelDensity
from stand_in import RungeKutta, estimator
from torch.distributions import (
    MultivariateNormal,
    Normal,
)

from skfokker import GaussianDensity, ParametricFokkerPlanck, TransportedNormal
from skfokker.flows import AffineFlow
from skfokker.potentials import PotentialError, Quadratic

MEAN, VARIANCE, START, SPREAD = 2.0, 0.5, -1.0, 0.25
QUADRATIC = Quadratic([MEAN, 0.0], VARIANCE)


def quadratic(x):
    return ((x - torch.tensor([MEAN, 0.0], dtype=x.dtype)) ** 2).sum(1) / (2 * VARIANCE)


def exact(t, beta=1.0, mean=0.0, variance=1.0):
    """Mean and variance along the first coordinate of the Ornstein-Uhlenbeck process."""
    decay = math.exp(-t / VARIANCE)
    limit = beta * VARIANCE
    return MEAN + (mean - MEAN) * decay, limit + (variance - limit) * decay**2


@pytest.fixture(scope="module")
def fitted():
    return estimator().fit(QUADRATIC, t_final=1.0)


X = np.array([[0.0, 0.0], [1.0, -0.5], [2.0, 0.3], [-1.0, 1.0], [0.5, 0.5]])


# -------------------------------------------------------------------- the solution


@pytest.mark.parametrize("t", [0.0, 0.03, 0.5, 1.0])
@pytest.mark.parametrize("beta", [0.3, 1.0])
def test_ornstein_uhlenbeck(t, beta):
    model = estimator(beta=beta, initial=([START, 0.0], SPREAD), scheme=RungeKutta(48)).fit(
        QUADRATIC, 1.0
    )
    mean, variance = exact(t, beta, START, SPREAD)
    start = 0.0 * mean, exact(t, beta, 0.0, SPREAD)[1]
    log_density = sum(
        Normal(m, math.sqrt(v)).log_prob(torch.tensor(X[:, i])).numpy()
        for i, (m, v) in enumerate([(mean, variance), start])
    )
    np.testing.assert_allclose(model.log_density(X, t), log_density, atol=2e-4)
    score = -(X - [mean, 0.0]) / variance
    np.testing.assert_allclose(model.grad_log_density(X, t), score, atol=1e-3)
    velocity = -(X - [MEAN, 0.0]) / VARIANCE - beta * score
    np.testing.assert_allclose(model.velocity(X, t), velocity, atol=2e-3)
    draws = model.sample(20_000, t)
    assert abs(draws[:, 0].mean() - mean) < 5 * math.sqrt(variance / len(draws))
    assert abs(draws[:, 0].var() / variance - 1) < 0.06


def test_free_energy_decreases_and_the_history_says_what_happened(fitted):
    energy = [record["free_energy"] for record in fitted.history_]
    assert np.all(np.diff(energy) < 0)
    assert len(fitted.history_) == len(fitted.times_) == 17
    assert [record["t"] for record in fitted.history_] == list(fitted.times_)
    assert all(type(record["free_energy"]) is float for record in fitted.history_)
    assert all(record["wall_time"] >= 0 for record in fitted.history_)


def test_default_initial_density_is_the_reference(fitted):
    reference = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double())
    np.testing.assert_array_equal(
        fitted.log_density(X, 0.0), reference.log_prob(torch.tensor(X)).numpy()
    )


def test_latent_and_data_points(fitted):
    z = fitted.transform(X, t=0.4)
    np.testing.assert_allclose(fitted.inverse_transform(z, t=0.4), X, atol=1e-12)
    draws = fitted.sample(4000)
    assert np.abs(fitted.transform(draws).mean(0)).max() < 5 / math.sqrt(4000)
    paths = fitted.paths(7, [0.0, 0.4, 1.0])
    assert paths.shape == (3, 7, 2)
    for t, slice_ in zip([0.0, 0.4, 1.0], paths, strict=True):
        np.testing.assert_allclose(fitted.transform(slice_, t), paths[0], atol=1e-12)


def test_score_is_the_mean_log_density(fitted):
    assert fitted.score(X) == pytest.approx(fitted.log_density(X, 1.0).mean(), abs=1e-15)
    assert fitted.score(X, t=0.2) == pytest.approx(fitted.log_density(X, 0.2).mean(), abs=1e-15)
    np.testing.assert_array_equal(fitted.score_samples(X), fitted.log_density(X))


def test_one_time_a_row(fitted):
    t = np.array([0.0, 1.0, 0.3, 0.3, 0.7])
    for method in (fitted.log_density, fitted.grad_log_density, fitted.velocity, fitted.transform):
        for k, one in enumerate(t):
            np.testing.assert_allclose(method(X, t)[k], method(X[k : k + 1], one)[0], rtol=1e-12)
    draws = fitted.sample(3, t=[0.0, 0.5, 1.0])
    np.testing.assert_allclose(draws[1], fitted.sample(3, t=0.5)[1], rtol=1e-12)


def test_at_is_the_same_law(fitted):
    law = fitted.at(0.3)
    assert isinstance(law, TransportedNormal)
    np.testing.assert_array_equal(law.log_prob(torch.tensor(X)), fitted.log_density(X, 0.3))
    points = torch.tensor(X, requires_grad=True)
    (gradient,) = torch.autograd.grad(law.log_prob(points).sum(), points)
    np.testing.assert_allclose(gradient, fitted.grad_log_density(X, 0.3), rtol=1e-12)


def test_schemes_without_velocities_get_finite_differences():
    rough = estimator(scheme=RungeKutta(64, with_velocity=False)).fit(QUADRATIC)
    smooth = estimator(scheme=RungeKutta(64)).fit(QUADRATIC)
    np.testing.assert_allclose(rough.velocity(X, 0.51), smooth.velocity(X, 0.51), atol=5e-3)


# -------------------------------------------------------------------- kinds of input


@pytest.mark.parametrize(
    "potential",
    [quadratic, MultivariateNormal(torch.tensor([MEAN, 0.0]), VARIANCE * torch.eye(2))],
    ids=["callable", "distribution"],
)
def test_every_way_to_say_a_potential(potential, fitted):
    model = estimator(n_features=2).fit(potential)
    np.testing.assert_allclose(model.log_density(X), fitted.log_density(X), atol=1e-6)


def test_a_distribution_is_the_equilibrium_whatever_beta():
    law = MultivariateNormal(torch.tensor([MEAN, 0.0]), VARIANCE * torch.eye(2))
    model = estimator(beta=3.0, scheme=RungeKutta(96)).fit(law, t_final=2.0)
    np.testing.assert_allclose(model.score_samples(X), law.log_prob(torch.tensor(X)), atol=1e-3)


def test_the_horizon_by_position_keyword_and_parameter():
    models = [
        estimator().fit(QUADRATIC, 0.5),
        estimator().fit(QUADRATIC, torch.tensor(0.5)),
        estimator().fit(QUADRATIC, t_final=0.5),
        estimator(t_final=0.5).fit(QUADRATIC),
        estimator(t_final=0.5).fit(QUADRATIC, np.arange(3)),
    ]
    for model in models:
        assert model.t_final_ == 0.5
        np.testing.assert_array_equal(model.thetas_, models[0].thetas_)
    with pytest.raises(TypeError, match="twice"):
        estimator().fit(QUADRATIC, 0.5, t_final=0.5)


def test_torch_in_torch_out(fitted):
    for dtype, tolerance in [(torch.float64, 0), (torch.float32, 1e-6)]:
        points = torch.tensor(X, dtype=dtype, requires_grad=True)
        for name in (
            "log_density",
            "score_samples",
            "grad_log_density",
            "velocity",
            "transform",
            "inverse_transform",
        ):
            result = getattr(fitted, name)(points)
            assert isinstance(result, torch.Tensor) and result.dtype == dtype
            expected = getattr(fitted, name)(points.detach().double().numpy())
            assert isinstance(expected, np.ndarray)
            np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_array_equal(
        fitted.log_density(X, torch.tensor(0.5)), fitted.log_density(X, 0.5)
    )


def test_data_frames():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(50, 2)), columns=["left", "right"])
    model = estimator().fit(frame)
    assert list(model.feature_names_in_) == ["left", "right"]
    np.testing.assert_array_equal(
        model.score_samples(frame),
        model.density_ and model.at().log_prob(torch.tensor(frame.to_numpy())),
    )
    out = model.set_output(transform="pandas").transform(frame)
    assert list(out.columns) == ["left", "right"]
    model.fit(QUADRATIC)
    assert not hasattr(model, "feature_names_in_") and not hasattr(model, "density_")


def test_draws_of_the_equilibrium():
    rng = np.random.default_rng(0)
    draws = [1.0, -2.0] + rng.normal(size=(500, 2)) @ [[1.0, 0.0], [0.4, 0.5]]
    model = ParametricFokkerPlanck(t_final=8.0, random_state=0).fit(draws)
    expected = GaussianDensity().fit(draws)
    np.testing.assert_allclose(model.density_.mean_, expected.mean_)
    np.testing.assert_allclose(model.score_samples(X), expected.score_samples(X), atol=2e-3)


@pytest.mark.parametrize(
    "component",
    [
        GaussianDensity(),
        KernelDensity(bandwidth=0.7),
        *(GaussianMixture(3, covariance_type=c, random_state=0) for c in ("full", "tied", "diag")),
        GaussianMixture(2, covariance_type="spherical", random_state=0),
    ],
    ids=str,
)
@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_potential_of_draws_is_minus_beta_log_density(component, beta):
    draws = np.random.default_rng(0).normal(size=(60, 2)) * [2.0, 0.7]
    model = estimator(AffineFlow(), RungeKutta(1), from_samples=component, beta=beta, t_final=1e-3)
    model.fit(draws)
    points = torch.tensor(X)
    value, gradient = model.potential_.value_and_grad(points)
    np.testing.assert_allclose(value, -beta * model.density_.score_samples(X), rtol=1e-9)
    np.testing.assert_allclose(model.potential_(points), value, rtol=1e-12)
    points.requires_grad_()
    (automatic,) = torch.autograd.grad(model.potential_(points).sum(), points)
    np.testing.assert_allclose(gradient, automatic, rtol=1e-9, atol=1e-12)
    assert not hasattr(component, "n_features_in_")  # a clone was fitted


def test_weights_are_repetitions():
    rng = np.random.default_rng(0)
    draws, weight = rng.normal(size=(30, 2)), rng.integers(0, 4, 30)
    weighted = estimator().fit(draws, sample_weight=weight)
    repeated = estimator().fit(np.repeat(draws, weight, axis=0))
    np.testing.assert_allclose(weighted.score_samples(X), repeated.score_samples(X), rtol=1e-9)


# -------------------------------------------------------------------- seeds, interruption, more


def test_same_seed_same_bits():
    models = [estimator(random_state=3).fit(quadratic_of_two()) for _ in range(2)]
    np.testing.assert_array_equal(models[0].thetas_, models[1].thetas_)
    np.testing.assert_array_equal(models[0].sample(5), models[1].sample(5))
    np.testing.assert_array_equal(
        models[0].sample(5, random_state=1), models[0].sample(5, random_state=1)
    )
    assert (models[0].sample(5, random_state=1) != models[0].sample(5, random_state=2)).any()
    rng = np.random.RandomState(0)
    assert (models[0].sample(5, random_state=rng) != models[0].sample(5, random_state=rng)).any()


def quadratic_of_two():
    return Quadratic([1.0, 1.0], [[1.0, 0.3], [0.3, 1.0]])


def test_draws_are_not_the_points_of_the_fit():
    seen = []

    class Spy(RungeKutta):
        def steps(self, equation, flow, theta, t_start, t_end, generator):
            seen.append(torch.randn(5, 2, generator=generator, dtype=torch.float64))
            generator.manual_seed(0)
            yield from super().steps(equation, flow, theta, t_start, t_end, generator)

    model = estimator(scheme=Spy()).fit(QUADRATIC)
    assert np.abs(model.sample(5, t=0) - seen[0].numpy()).max() > 0.1


def test_nothing_global_is_touched():
    torch.manual_seed(0)
    np.random.seed(0)
    laplace = torch.distributions.Laplace(torch.tensor(0.0).double(), 1.0)  # fitted by likelihood
    expected = torch.randn(1), np.random.randn()
    torch.manual_seed(0)
    np.random.seed(0)
    model = estimator(initial=laplace, scheme=RungeKutta(1), t_final=1e-4)
    model.fit(Quadratic([0.0])).sample(3)
    assert torch.randn(1) == expected[0] and np.random.randn() == expected[1]


def test_an_interrupted_march_is_a_shorter_one():
    with pytest.warns(UserWarning, match=r"Interrupted at t = 0.25 of 1"):
        model = estimator(scheme=RungeKutta(16, stop_after=4)).fit(QUADRATIC)
    assert model.interrupted_ and model.t_final_ == 0.25
    whole = estimator().fit(QUADRATIC)
    assert not whole.interrupted_
    np.testing.assert_array_equal(model.log_density(X, 0.2), whole.log_density(X, 0.2))
    with pytest.raises(ValueError, match=r"outside the fitted span \[0, 0.25\]"):
        model.sample(1, 0.3)
    model.set_params(warm_start=True, scheme=RungeKutta(12)).fit(QUADRATIC, 1.0)
    assert not model.interrupted_ and model.t_final_ == 1.0
    np.testing.assert_allclose(model.log_density(X), whole.log_density(X), atol=1e-6)


def test_warm_start_goes_on():
    model = estimator(warm_start=True, scheme=RungeKutta(8)).fit(QUADRATIC, 0.5)
    early = model.log_density(X, 0.3)
    model.fit(QUADRATIC, 1.0)
    assert model.t_final_ == 1.0
    assert len(model.times_) == len(model.history_) == 17
    np.testing.assert_array_equal(model.log_density(X, 0.3), early)
    whole = estimator().fit(QUADRATIC, 1.0)
    np.testing.assert_allclose(model.log_density(X), whole.log_density(X), atol=1e-6)
    with pytest.raises(ValueError, match="t_final=0.2 lies before t = 1"):
        model.fit(QUADRATIC, 0.2)
    with pytest.warns(UserWarning, match="nothing left"):
        model.fit(QUADRATIC, 1.0)
    with pytest.raises(ValueError, match="dimension 2.*dimension 1"):
        model.fit(Quadratic([0.0]), 2.0)
    assert model.n_features_in_ == 2 and np.isfinite(model.score(X))


@pytest.mark.slow
def test_continuing_the_default_march_gives_what_one_long_fit_gives():
    def well(x):
        return (0.25 * x**4 - x**2).sum(1)

    def make(**params):
        return ParametricFokkerPlanck(n_features=1, random_state=0, tol=1e-3, **params)

    whole = make().fit(well, 0.4)
    parts = make(warm_start=True).fit(well, 0.15).fit(well, 0.4)
    points = np.linspace(-2, 2, 9)[:, None]
    for t in (0.1, 0.3, 0.4):
        np.testing.assert_allclose(
            parts.log_density(points, t), whole.log_density(points, t), atol=2e-3
        )
    assert parts.certificate_.kl() < 1e-3


def test_hooks_to_posterior_and_plot():
    model = estimator(scheme=RungeKutta(48), beta=0.5, initial=([MEAN, 0.0], VARIANCE))
    posterior = model.fit(QUADRATIC, 2.0).posterior(2000)
    assert posterior.reliable  # of exp(-V / beta), variance beta times that of exp(-V)
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    display = model.plot()
    assert display.figure_ is not None
    matplotlib.pyplot.close(display.figure_)


def test_progress(capsys):
    estimator(verbose=2).fit(QUADRATIC)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 17 and "t = 1 / 1" in lines[-1] and "H = " in lines[-1]
    pytest.importorskip("tqdm")
    estimator(verbose=1).fit(QUADRATIC)
    assert "100%" in capsys.readouterr().err
    estimator(verbose=0).fit(QUADRATIC)
    assert capsys.readouterr().err == ""


# -------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"beta": 0.0}, "'beta'.*Got 0.0"),
        ({"beta": -1.0}, "'beta'.*Got -1.0"),
        ({"beta": math.inf}, r"'beta'.*range \(0.0, inf\). Got inf"),
        ({"t_final": 0.0}, "'t_final'.*Got 0.0"),
        ({"flow": 3}, "'flow'.*Got 3"),
        ({"scheme": "adam"}, "'scheme'.*Got 'adam'"),
        ({"n_features": 0}, "'n_features'.*Got 0"),
        ({"device": "gpu0"}, "device='gpu0'.*'cpu'"),
    ],
)
def test_bad_parameters(params, message):
    with pytest.raises(ValueError, match=message):
        estimator(**params).fit(QUADRATIC)


def test_a_misspelt_parameter_says_what_was_meant():
    with pytest.raises(ValueError, match=r"did you mean 'beta'\?"):
        estimator().set_params(bta=1.0)
    with pytest.raises(ValueError, match=r"did you mean 'flow__diagonal'\?"):
        estimator(flow=AffineFlow()).set_params(flow__diagnal=True)
    with pytest.raises(ValueError, match="Invalid parameter 'zzz'"):
        estimator().set_params(zzz=1.0)


@pytest.mark.parametrize("horizon", [0.0, -1.0, math.nan, math.inf])
def test_bad_horizons(horizon):
    with pytest.raises(ValueError, match="t_final must be a positive finite time"):
        estimator().fit(QUADRATIC, t_final=horizon)
    with pytest.raises(ValueError, match="t_final must be a positive finite time"):
        estimator().fit(QUADRATIC, horizon)
    with pytest.raises(TypeError, match="t_final must be a number"):
        estimator().fit(QUADRATIC, t_final="long")


@pytest.mark.parametrize("t", [-0.1, 1.001, math.nan, math.inf])
def test_times_outside_the_span(fitted, t):
    for call in (
        lambda: fitted.sample(2, t),
        lambda: fitted.log_density(X, t),
        lambda: fitted.at(t),
        lambda: fitted.paths(2, [0.0, t]),
        lambda: fitted.velocity(X, [0.0, 0.1, 0.2, t, 0.3]),
    ):
        with pytest.raises(ValueError, match=r"outside the fitted span \[0, 1\].*warm_start"):
            call()


def test_times_of_a_wrong_kind(fitted):
    with pytest.raises(ValueError, match=r"one time a row: shape \(5,\), got shape \(3,\)"):
        fitted.log_density(X, [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="t must be a number, got shape"):
        fitted.at([0.1, 0.2])
    with pytest.raises(TypeError, match="t must be a time.*'soon'"):
        fitted.sample(1, "soon")


def test_times_that_round_to_the_ends_are_the_ends(fitted):
    np.testing.assert_array_equal(fitted.log_density(X, 1 + 1e-15), fitted.log_density(X))


def test_points_of_a_wrong_kind(fitted):
    for points in (X[:, :1], torch.tensor(X[:, :1])):
        with pytest.raises(ValueError, match="X has 1 features, but .* expecting 2 features"):
            fitted.log_density(points)
    for points in (X[0], torch.tensor(X[0])):
        with pytest.raises(ValueError, match="Expected"):
            fitted.transform(points)
    for points in (X * np.nan, torch.tensor(X) * math.inf):
        with pytest.raises(ValueError, match="contains (NaN|infinity)"):
            fitted.velocity(points)
    with pytest.raises(TypeError, match="floating-point.*int64"):
        fitted.log_density(torch.zeros(2, 2, dtype=torch.int64))
    for n in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="integer of at least 1"):
            fitted.sample(n)


def test_unfitted():
    model = estimator()
    for call in (model.sample, model.at, lambda: model.log_density(X), lambda: model.paths(1, [0])):
        with pytest.raises(NotFittedError):
            call()


def test_potentials_that_cannot_be_used():
    with pytest.raises(ValueError, match="n_features"):
        estimator().fit(quadratic)
    with pytest.raises(ValueError, match="n_features=3.*2 columns"):
        estimator(n_features=3).fit(X)
    with pytest.raises(TypeError, match="sample_weight weighs draws"):
        estimator().fit(QUADRATIC, sample_weight=np.ones(3))
    with pytest.raises(TypeError, match="does not take weights"):
        estimator(from_samples=GaussianMixture(2)).fit(X, sample_weight=np.ones(5))
    with pytest.raises(ValueError, match="kernel='gaussian'"):
        estimator(from_samples=KernelDensity(kernel="tophat")).fit(X)
    with pytest.raises(ValueError, match="sample"):
        estimator().fit(X[:1])
    with pytest.raises(ValueError, match="same point"):
        estimator().fit(np.ones((5, 2)))


def test_a_potential_that_blows_up_names_point_and_time():
    def cliff(x):
        value = (x**2).sum(1)
        return torch.where(x[:, 0] > 4, torch.nan, value - 10 * x[:, 0])

    with pytest.raises(PotentialError, match=r"returned NaN at x = \[.*\(time t = 0\.\d+\)"):
        estimator(n_features=2).fit(cliff)
