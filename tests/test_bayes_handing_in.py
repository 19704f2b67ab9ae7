"""Log densities of other packages, constraints, and what comes back."""

import pickle

import numpy as np
import pytest
import torch
from torch.distributions import Gamma, Normal, constraints

from skfokker.bayes import (
    Blocks,
    ConstrainedPotential,
    NumpyLogDensity,
    PosteriorSampler,
    as_log_density,
    jax_log_density,
    laplace_start,
    mcmc_start,
    posterior_of,
    sample_posterior,
)
from skfokker.potentials import Funnel, Quadratic

CASES = {
    "positive": (constraints.positive, ()),
    "interval": (constraints.interval(-2.0, 5.0), (3,)),
    "simplex": (constraints.simplex, (4,)),
    "real": (constraints.real, (2, 2)),
    "greater": (constraints.greater_than(1.0), (2,)),
    "correlation": (constraints.corr_cholesky, (3, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_jacobian_of_every_constraint(name):
    blocks = Blocks({name: CASES[name]})
    d = blocks.n_features
    u = torch.from_numpy(np.random.default_rng(0).normal(size=(3, d)))
    values, log_jacobian = blocks.constrain(u)
    assert values[name].shape == (3, *CASES[name][1])
    torch.testing.assert_close(blocks.free(values), u)
    free_entries = {
        "simplex": lambda y: y[..., :-1],
        "correlation": lambda y: torch.stack([y[..., 1, 0], y[..., 2, 0], y[..., 2, 1]], -1),
    }.get(name, lambda y: y)
    for row, expected in zip(u, log_jacobian, strict=True):

        def flat(row):
            return free_entries(blocks.constrain(row[None])[0][name]).reshape(-1)

        jacobian = torch.autograd.functional.jacobian(flat, row)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], expected)


def test_blocks_survive_pickling():
    blocks = pickle.loads(pickle.dumps(Blocks(CASES)))
    u = torch.from_numpy(np.random.default_rng(0).normal(size=(3, blocks.n_features)))
    torch.testing.assert_close(blocks.free(blocks.constrain(u)[0]), u)
    assert len(Blocks({"a": 3, "b": constraints.positive}).flat_names()) == 4


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"a": "positive"}, "must be a torch constraint"),
        ({"a": (constraints.integer_interval(0, 3), ())}, "no smooth bijection"),
        ({"a": (constraints.simplex, ())}, "does not fit the shape"),
        ({}, "must map names"),
    ],
)
def test_constraints_that_are_none(given, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Blocks(given)


def gamma_density(p):
    return Gamma(3.0, 2.0).log_prob(p["rate"]) + Normal(1.0, 0.5).log_prob(p["shift"]).sum(1)


@pytest.fixture(scope="module")
def gamma_posterior():
    named = {"rate": constraints.positive, "shift": (constraints.real, (2,))}
    return sample_posterior(gamma_density, constraints=named, random_state=0, n_draws=6000)


@pytest.mark.slow
def test_constrained_density_is_normalised_and_comes_back_by_name(gamma_posterior):
    draws = gamma_posterior.draws
    assert draws["rate"].shape == (6000,) and draws["shift"].shape == (6000, 2)
    assert (draws["rate"] > 0).all()
    # the Jacobian is there once: otherwise the evidence is not 1
    assert gamma_posterior.log_evidence.value == pytest.approx(0, abs=0.005)
    assert gamma_posterior.efficiency > 0.98
    assert gamma_posterior.mean()["rate"] == pytest.approx(1.5, abs=0.05)
    assert gamma_posterior.sd()["rate"] == pytest.approx(np.sqrt(3) / 2, rel=0.05)


@pytest.mark.slow
def test_starts_for_other_samplers(gamma_posterior):
    start = mcmc_start(gamma_posterior, 10)
    assert start["positions"].shape == (10, 3) and start["values"]["shift"].shape == (10, 2)
    assert len(np.unique(start["positions"], axis=0)) == 10
    np.linalg.cholesky(start["covariance"])


@pytest.mark.parametrize("package", ["arviz", "arviz_base"])
def test_arviz_gets_names_and_statistics(gamma_posterior, package, monkeypatch):
    import importlib
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip(package)
    from skfokker.bayes import export

    monkeypatch.setattr(export, "_arviz", lambda: importlib.import_module(module.__name__))
    data = gamma_posterior.to_arviz()
    assert data["posterior"]["shift"].shape == (1, 6000, 2)
    stats = data["sample_stats"]
    np.testing.assert_allclose(stats["log_p"].values[0], gamma_posterior.log_p)
    assert set(stats.data_vars) >= {"log_p", "log_q", "log_weight", "pareto_k"}
    assert gamma_posterior.to_arviz(resampled=True)["posterior"]["rate"].shape == (1, 6000)


def quadratic(x):
    return -0.5 * ((x - 3) ** 2).sum(-1)


def test_numpy_functions_batched_or_not():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(4, 2)))
    together = NumpyLogDensity(quadratic, lambda x: -(x - 3), 2)
    pairs = NumpyLogDensity(lambda x: (quadratic(x), -(x - 3)), None, 2, batched=False)
    single = NumpyLogDensity(quadratic, lambda x: -(x - 3), 2, batched=False)
    for potential in (together, pairs, single):
        value, gradient = potential.value_and_grad(x)
        torch.testing.assert_close(value, 0.5 * (x - 3).square().sum(1))
        torch.testing.assert_close(gradient, x - 3)
        torch.testing.assert_close(potential(x), value)
        y = x.clone().requires_grad_()
        torch.testing.assert_close(torch.autograd.grad(potential(y).sum(), y)[0], gradient)
    with pytest.raises(ValueError, match="batched=False"):
        NumpyLogDensity(lambda x: float(x.sum()), lambda x: x, 2)(x)


def test_stan_like_model_and_its_failures():
    class Model:
        def param_unc_num(self):
            return 2

        def log_density_gradient(self, u):
            if u[0] < 0:
                raise RuntimeError("Cholesky failed")
            return float(quadratic(u)), -(u - 3)

    potential = as_log_density(Model())
    value, _ = potential.value_and_grad(torch.tensor([[1.0, 1.0], [-1.0, 0.0]]).double())
    assert value[0] == 4 and value[1] == np.inf


def test_jax_function():
    jax = pytest.importorskip("jax")
    jax.config.update("jax_enable_x64", True)
    potential = jax_log_density(lambda x: -0.5 * ((x - 3) ** 2).sum(), 2)
    for n in (1, 5):
        x = torch.from_numpy(np.random.default_rng(0).normal(size=(n, 2)))
        value, gradient = potential.value_and_grad(x)
        torch.testing.assert_close(value, 0.5 * (x - 3).square().sum(1))
        torch.testing.assert_close(gradient, x - 3)


def test_what_is_no_log_density():
    with pytest.raises(TypeError, match="must be a callable"):
        as_log_density(3.0)
    with pytest.raises(ValueError, match="n_features=d, or constraints"):
        as_log_density(quadratic)
    with pytest.raises(ValueError, match="one log density a row"):
        as_log_density(lambda x: x.square(), 2)(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="did you mean 'flow'"):
        PosteriorSampler().set_params(flaw=None)
    with pytest.raises(ValueError, match="one number a point"):
        ConstrainedPotential(lambda p: p["a"], Blocks({"a": (constraints.real, (3,))}))(
            torch.zeros(2, 3)
        )
    assert as_log_density(Normal(0.0, 1.0)).n_features_in_ == 1
    assert as_log_density(Funnel(3)).n_features_in_ == 3


def test_a_half_space_is_a_wall_and_no_crash():
    """-inf outside the support, without constraints: the report counts what fell outside."""

    def log_density(x):
        return torch.where(x[:, 0] > 0, -0.5 * (x - 1.5).square().sum(1), -torch.inf)

    posterior = sample_posterior(log_density, 2, random_state=0)
    assert (posterior.x[np.isfinite(posterior.log_p), 0] > 0).all()
    mass = float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(1.5)))
    expected = np.log(2 * np.pi * mass)
    assert posterior.log_evidence.value == pytest.approx(expected, abs=0.1)


def test_the_law_of_an_estimator_as_a_posterior_at_another_temperature():
    from skfokker import ParametricFokkerPlanck

    target = Quadratic([50.0, 0.0], [0.01, 4.0])
    model = ParametricFokkerPlanck(
        beta=2.0, initial=laplace_start(target, 2.0), random_state=0
    ).fit(target, 0.1)
    posterior = posterior_of(model)
    expected = np.log(2 * np.pi) + np.log(2.0 * 0.1 * 2.0)  # covariance is beta times
    assert posterior.log_evidence.value == pytest.approx(expected, abs=1e-3)
    assert posterior.efficiency > 0.999
    np.testing.assert_allclose(posterior.sd()["x"], [0.1 * 2**0.5, 2 * 2**0.5], rtol=0.05)


@pytest.mark.slow
def test_pymc_model_keeps_names_and_transforms():
    pymc = pytest.importorskip("pymc")
    with pymc.Model() as model:
        rate = pymc.Gamma("rate", 3.0, 2.0)
        pymc.Normal("shift", 1.0, 0.5, shape=2)
        pymc.Deterministic("double", 2 * rate)
    potential = as_log_density(model)
    u = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 3)))
    value, gradient = potential.value_and_grad(u)
    draws, _ = potential.constrain(u)
    expected = Gamma(3.0, 2.0).log_prob(draws["rate"]) + draws["rate"].log()
    expected = expected + Normal(1.0, 0.5).log_prob(draws["shift"]).sum(1)
    torch.testing.assert_close(-value, expected)
    torch.testing.assert_close(draws["double"], 2 * draws["rate"])
    eps = 1e-6 * torch.eye(3).double()[0]
    slope = (potential(u + eps) - potential(u - eps)) / 2e-6
    torch.testing.assert_close(slope, gradient[:, 0], rtol=1e-5, atol=1e-6)
