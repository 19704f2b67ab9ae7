"""Numbers as they come: float32, scalars of every library, weights of any scale, far tails."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from skfokker import GaussianDensity, ParametricFokkerPlanck, TransportedNormal
from skfokker.bayes import posterior_flow
from skfokker.bayes.separable import separable_flow
from skfokker.flows import (
    AffineFlow,
    Composition,
    ElementwiseFlow,
    Frame,
    Inverse,
    MixtureFlow,
    PlanarFlow,
    ScaleFlow,
    TriangularFlow,
)
from skfokker.flows.conditional_choice import choose_conditional
from skfokker.initial import initial_draws
from skfokker.potentials import DoubleWell, Quadratic
from skfokker.validation import as_horizon, as_times


@pytest.fixture(scope="module")
def model():
    return ParametricFokkerPlanck(random_state=0).fit(Quadratic([1.0]), t_final=0.3)


# ------------------------------------------------------------------ times


@pytest.mark.parametrize(
    "end",
    [
        0.1 * 3,
        np.float32(0.3),
        float(np.float32(0.3)),
        np.array(0.3, dtype=np.float32),
        [np.float32(0.3)],
        torch.tensor(0.3),
        torch.tensor(0.3, requires_grad=True),
        torch.tensor([0.3]),
        torch.linspace(0, 0.3, 4)[-1],
        np.linspace(0, 0.3, 4, dtype=np.float32)[-1],
        np.float16(0.3),
        np.nextafter(0.3, 1),
        Fraction(3, 10),
        Decimal("0.3"),
    ],
    ids=repr,
)
def test_the_last_time_in_every_type(model, end):
    assert float(model.log_density([[1.0]], t=end)[0]) == model.log_density([[1.0]])[0]
    assert model.at(np.ravel(end)[0] if isinstance(end, list) else end).theta is not None


@pytest.mark.parametrize("zero", [0, -0.0, np.int64(0), torch.tensor(0), np.float32(-1e-9), False])
def test_the_first_time_in_every_type(model, zero):
    assert model.log_density([[0.0]], t=zero)[0] == pytest.approx(-0.5 * np.log(2 * np.pi))


def test_times_in_rows(model):
    times = torch.linspace(0, 0.3, 4)
    paths = model.paths(5, times)
    assert paths.shape == (4, 5, 1)
    np.testing.assert_allclose(paths, model.paths(5, times.double().numpy()), atol=1e-7)
    rows = model.log_density(np.zeros((4, 1)), t=times)
    np.testing.assert_allclose(rows, model.log_density(np.zeros((4, 1)), t=times.tolist()))


@pytest.mark.parametrize("t", [0.3001, np.float32(0.30001), -1e-4, np.nan, np.inf, torch.tensor(1)])
def test_times_outside_are_still_outside(model, t):
    with pytest.raises(ValueError, match="outside the fitted span"):
        model.log_density([[0.0]], t=t)


@pytest.mark.parametrize("t", ["later", 1j, None, object()])
def test_what_is_no_time(t):
    if t is None:
        assert as_times(t, 0.3) == 0.3
        return
    with pytest.raises(TypeError, match="t must be a time"):
        as_times(t, 0.3)


@pytest.mark.parametrize(
    "horizon",
    [
        2,
        2.0,
        np.int64(2),
        np.float32(2),
        np.float16(2),
        torch.tensor(2),
        torch.tensor(2.0, dtype=torch.bfloat16),
        np.array(2.0),
        np.array([2.0]),
        torch.tensor([[2.0]]),
        [2],
        Fraction(2),
    ],
    ids=repr,
)
def test_horizons_of_every_type(horizon):
    for given in (
        as_horizon(horizon, None, 1.0),
        as_horizon(None, horizon, 1.0),
        as_horizon(np.zeros(5), horizon, 1.0),
    ):
        assert type(given) is float and given == 2.0


def test_labels_are_no_horizon():
    assert as_horizon(np.zeros(5), None, 1.0) == 1.0
    with pytest.raises(TypeError, match="given twice"):
        as_horizon([2.0], 3.0, 1.0)


@pytest.mark.parametrize("horizon", [1e-9, 1e-100, 1e-300])
@pytest.mark.parametrize("potential", [Quadratic([3.0]), DoubleWell(d=1)])
def test_horizons_far_below_the_time_scale(potential, horizon):
    fit = ParametricFokkerPlanck(random_state=0).fit(potential, t_final=horizon)
    assert fit.t_final_ == horizon
    x = np.array([[-1.0], [0.0], [0.7]])
    start = -0.5 * x[:, 0] ** 2 - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(fit.log_density(x), start, atol=1e-7)
    gradient = potential.value_and_grad(torch.from_numpy(x))[1].numpy()
    np.testing.assert_allclose(fit.velocity(x), x - gradient, atol=1e-2)
    assert 0 <= fit.certificate_.kl() < 1e-6


def test_a_horizon_of_no_length_is_named():
    with pytest.raises(ValueError, match="so short.*unit of time"):
        as_horizon(None, 5e-324, 1.0)


# ------------------------------------------------------------------ laws and data in float32


def test_laws_in_float32_as_a_start():
    def law(dtype):
        means = torch.tensor([[0.0, 0.0], [2.0, 1.0]], dtype=dtype)
        normals = MultivariateNormal(means, torch.eye(2, dtype=dtype))
        return MixtureSameFamily(Categorical(torch.ones(2, dtype=dtype)), normals)

    draws = initial_draws(law(torch.float32), 2, 50, torch.Generator().manual_seed(0))[0]
    assert draws.dtype == torch.float64
    fits = [
        ParametricFokkerPlanck(flow=AffineFlow(), initial=law(dtype), random_state=0, tol=10.0).fit(
            Quadratic([0.0, 0.0]), t_final=0.1
        )
        for dtype in (torch.float32, torch.float64)
    ]
    mean = fits[0].sample(20_000).mean(0)
    np.testing.assert_allclose(mean, np.exp(-0.1) * np.array([1.0, 0.5]), atol=0.05)
    assert fits[0].initial_error_ == pytest.approx(fits[1].initial_error_, abs=0.05)


@pytest.mark.parametrize(
    "convert",
    [
        lambda X: X.astype(np.float32),
        lambda X: torch.from_numpy(X).float(),
        lambda X: torch.from_numpy(X).float().requires_grad_(),
        lambda X: X.astype(np.float32).tolist(),
    ],
)
def test_data_in_float32(convert):
    X = np.random.default_rng(0).normal(size=(300, 2))
    fits = [
        ParametricFokkerPlanck(random_state=0).fit(data, t_final=0.1) for data in (X, convert(X))
    ]
    np.testing.assert_allclose(fits[0].thetas_, fits[1].thetas_, atol=1e-5)


def test_data_in_bfloat16():
    X = torch.randn(300, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    fit = ParametricFokkerPlanck(random_state=0).fit(X, t_final=0.1)
    assert fit.thetas_.dtype == np.float64


# ------------------------------------------------------------------ weights


@pytest.mark.parametrize("scale", [1.0, 1 / 4000, 1e-12, 1e-300, 1e6])
def test_equal_weights_are_no_weights_at_any_scale(scale):
    X = np.random.default_rng(0).normal(size=(4000, 2)) * [10.0, 0.1]
    plain = GaussianDensity().fit(X)
    weighed = GaussianDensity().fit(X, sample_weight=np.full(4000, scale))
    np.testing.assert_allclose(weighed.mean_, plain.mean_, atol=1e-10)
    np.testing.assert_allclose(
        np.diag(weighed.covariance_), np.diag(plain.covariance_), rtol=0.05, atol=0.05
    )


def test_weights_of_an_importance_sampler():
    rng = np.random.default_rng(0)
    X = 2 * rng.normal(size=(20_000, 2))
    log_weight = -0.5 * (X**2).sum(1) * (1 - 1 / 4)
    weight = np.exp(log_weight)
    found = [
        GaussianDensity().fit(X, sample_weight=w).covariance_
        for w in (weight, weight / weight.sum(), weight.astype(np.float32) / 7)
    ]
    for covariance in found:
        np.testing.assert_allclose(covariance, np.eye(2), atol=0.06)
    np.testing.assert_allclose(found[1], found[2], atol=1e-3)


def test_counts_are_still_counts():
    X = np.random.default_rng(0).normal(size=(12, 2)) * [10.0, 0.1]
    counts = np.array([3, 1, 0, 2] * 3)
    repeated = GaussianDensity().fit(np.repeat(X, counts, 0))
    np.testing.assert_allclose(
        GaussianDensity().fit(X, sample_weight=counts).covariance_, repeated.covariance_
    )


# ------------------------------------------------------------------ tails

FAMILIES = [
    AffineFlow(),
    AffineFlow(diagonal=True),
    ElementwiseFlow(),
    Inverse(ElementwiseFlow()),
    PlanarFlow(),
    TriangularFlow(),
    Inverse(TriangularFlow()),
    ScaleFlow(),
    Composition([ElementwiseFlow(), AffineFlow()]),
    MixtureFlow(2),
    MixtureFlow(5),
    Composition([MixtureFlow(3), Frame([1.0, -2.0], 0.3)]),
    choose_conditional(
        np.ones((2, 2), bool),
        torch.zeros(2).double(),
        torch.eye(2).double(),
        np.random.default_rng(0).normal(size=(5, 300, 2)),
    ),
    posterior_flow(2),
    separable_flow(),
]


@pytest.mark.parametrize("flow", FAMILIES, ids=lambda flow: str(flow)[:40])
@pytest.mark.parametrize("seed", range(3))
def test_far_tails_are_numbers_and_fall_outwards(flow, seed):
    generator = torch.Generator().manual_seed(seed)
    theta = flow.init(2, generator)
    noise = torch.randn(theta.shape, dtype=torch.float64, generator=generator)
    law = TransportedNormal(flow, theta + 0.1 * noise, 2)
    powers = torch.tensor([2, 4, 8, 16, 30, 60, 100, 140, 154, 160, 200], dtype=torch.float64)
    rays = torch.tensor([[1.0, 0.0], [0.0, -1.0], [1.0, 1.0], [-1.0, 0.3], [1e-3, 1.0]])
    for ray in rays.double():
        x = 10 ** powers[:, None] * ray
        log_density, score, z = law.log_prob(x), law.score(x), law.pull(x)
        for result in (log_density, score, z):
            assert not torch.isnan(result).any()
        assert torch.isfinite(z).all()
        assert (log_density[:-1] >= log_density[1:]).all() and log_density[0] < -50
        assert torch.isfinite(score[:8]).all()
