"""Code as users have it: what it may do to its argument, what it lacks, what it is told."""

import types

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Gamma, MultivariateNormal, Normal, constraints

from skfokker import ParametricFokkerPlanck
from skfokker.bayes import (
    Blocks,
    ConstrainedPotential,
    NumpyLogDensity,
    Posterior,
    PyMCLogDensity,
    TorchLogDensity,
    UnboundedDensityError,
    as_log_density,
    laplace,
    sample_posterior,
)
from skfokker.potentials import (
    CallablePotential,
    NumpyPotential,
    Potential,
    Quadratic,
    check_potential,
)
from skfokker.potentials.checks import check_answers

MU = np.array([1.0, -2.0])


def points(n=5, d=2):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


# ------------------------------------------------------------------ writing into the argument


def shifts_in_place(x):
    x -= MU
    return 0.5 * (x**2).sum(1)


def doubles_in_place(x):
    x *= 2
    x -= 2 * MU
    return x / 2


BUFFER = np.empty(5)


def same_buffer_every_time(x):
    np.sum(0.5 * (x - MU) ** 2, axis=1, out=BUFFER[: len(x)])
    return BUFFER[: len(x)]


def torch_in_place(x):
    x -= torch.from_numpy(MU)
    return 0.5 * x.square_().sum(1)


def torch_row_in_place(x):
    x[:, 0] = x[:, 0] - 1.0
    x[:, 1] += 2.0
    return 0.5 * (x**2).sum(1)


class InPlace(Potential):
    n_features_in_ = 2

    def __call__(self, x):
        x -= torch.from_numpy(MU)
        return 0.5 * x.square().sum(1)

    def value_and_grad(self, x):
        x -= torch.from_numpy(MU)
        return 0.5 * x.square().sum(1), x


@pytest.mark.parametrize(
    "potential",
    [
        NumpyPotential(shifts_in_place, doubles_in_place, 2),
        NumpyPotential(same_buffer_every_time, doubles_in_place, 2),
        NumpyPotential(shifts_in_place, "differences", 2),
        NumpyLogDensity(lambda x: -shifts_in_place(x), lambda x: -doubles_in_place(x), 2),
        NumpyLogDensity(
            lambda x: -float(shifts_in_place(x[None])[0]),
            lambda x: -doubles_in_place(x[None])[0],
            2,
            batched=False,
        ),
        NumpyLogDensity(lambda x: (-shifts_in_place(x), -x), None, 2),
        CallablePotential(torch_in_place, 2),
        CallablePotential(torch_row_in_place, 2),
        TorchLogDensity(lambda x: -torch_in_place(x), 2),
        InPlace(),
    ],
)
def test_what_is_written_into_is_a_copy(potential):
    x, before = points(), points()
    target = Quadratic(MU)
    with torch.no_grad():
        first = potential(x)
        value, gradient = potential.value_and_grad(x)
        potential(x + 1)  # a buffer used again must not change what was said before
    assert torch.equal(x, before)
    torch.testing.assert_close(value, target(x))
    torch.testing.assert_close(first, value)
    torch.testing.assert_close(gradient, target.value_and_grad(x)[1], rtol=1e-6, atol=1e-8)
    y = x.clone().requires_grad_()
    torch.testing.assert_close(
        torch.autograd.grad(potential(y).sum(), y)[0], gradient, rtol=1e-6, atol=1e-8
    )
    assert check_potential(potential) is potential


# ------------------------------------------------------------------ code that differentiates


class Forces(Potential):
    """Differentiates by itself, one of several ways."""

    n_features_in_ = 2

    def __init__(self, way):
        self.way = way

    def __call__(self, x):
        return 0.25 * (x**4).sum(1)

    def value_and_grad(self, x):
        if self.way == "marks the points":
            x.requires_grad_()
        elif self.way == "of a leaf":
            x = x.detach().requires_grad_()
        energy = self(x)
        if self.way == "backward":
            energy.sum().backward()
            return energy, x.grad
        gradient = torch.autograd.grad(energy.sum(), x, create_graph=self.way == "with a graph")[0]
        return energy, gradient


@pytest.mark.parametrize(
    "way", ["plain", "marks the points", "of a leaf", "backward", "with a graph"]
)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_potentials_that_call_autograd(way, mode):
    with mode():
        x = points()
        value, gradient = Forces(way).value_and_grad(x)
        assert not x.requires_grad and not value.requires_grad and not gradient.requires_grad
        torch.testing.assert_close(gradient, x**3)
        torch.testing.assert_close(value, 0.25 * (x**4).sum(1))


def squared_slope(x):
    """|grad f|^2 / 2 for f = |x|^2 / 2, which is f itself."""
    (slope,) = torch.autograd.grad(0.5 * x.square().sum(), x, create_graph=True)
    return 0.5 * slope.square().sum(1)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize(
    "potential",
    [
        CallablePotential(squared_slope, 2),
        TorchLogDensity(lambda x: -squared_slope(x), 2),
        ConstrainedPotential(lambda p: -squared_slope(p["x"]), Blocks({"x": (2,)})),
    ],
)
def test_values_that_call_autograd(potential, mode):
    with mode():
        x = points()
        torch.testing.assert_close(potential(x), Quadratic([0.0, 0.0])(x))
        torch.testing.assert_close(potential.value_and_grad(x)[1], x)


def test_a_force_field_is_solved():
    model = ParametricFokkerPlanck(random_state=0).fit(Forces("plain"), t_final=0.05)
    assert model.posterior(200).log_p.shape == (200,)


# ------------------------------------------------------------------ rows that know each other


def network(*layers):
    torch.manual_seed(0)  # of the test, not of the package
    return nn.Sequential(nn.Linear(2, 16), *layers, nn.Tanh(), nn.Linear(16, 1)).double()


def bowl(x):
    return 0.5 * (x - 3).square().sum(1)


TRAINING = network(nn.BatchNorm1d(16))


@pytest.mark.parametrize(
    "energy",
    [
        lambda x: bowl(x) + TRAINING(x)[:, 0],
        lambda x: bowl(x) - bowl(x).min(),
        lambda x: bowl(x) - bowl(x).mean(),
        lambda x: bowl(x - x.mean(0)),
        lambda x: bowl(x) / bowl(x).std(),
        lambda x: -torch.softmax(-bowl(x), 0).log(),
        lambda x: bowl(x) + torch.linspace(0, 1, len(x)),
        lambda x: bowl(x.float() - x.float().mean(0)),
    ],
)
def test_rows_that_depend_on_each_other_are_named(energy):
    model = ParametricFokkerPlanck(n_features=2, random_state=0)
    with pytest.raises(ValueError, match=r"other points of the call.*rows.*\.eval\(\)"):
        model.fit(energy, t_final=0.1)
    with pytest.raises(ValueError, match="other points of the call"):
        sample_posterior(lambda x: -energy(x), 2, random_state=0)


@pytest.mark.parametrize(
    "energy",
    [
        lambda x: bowl(x) + network(nn.BatchNorm1d(16)).eval()(x)[:, 0],
        lambda x: bowl(x) + network(nn.LayerNorm(16))(x)[:, 0],
        lambda x: bowl(x.float()),
        lambda x: 1e9 + bowl(x),
        lambda x: torch.where(x[:, 0] > 0, bowl(x), torch.nan),
    ],
)
def test_rows_of_their_own_pass(energy):
    check_answers(CallablePotential(energy, 2))


def test_dropout_is_named():
    module = network(nn.Dropout())
    with pytest.raises(ValueError, match=r"not deterministic.*module\.eval\(\)"):
        check_answers(CallablePotential(lambda x: module(x)[:, 0], 2))


# ------------------------------------------------------------------ float32 among float64

MATRIX = torch.tensor([[2.0, 0.5], [0.5, 1.0]])


@pytest.mark.parametrize(
    "energy",
    [
        lambda x: 0.5 * ((x @ MATRIX) * x).sum(1),
        lambda x: torch.einsum("ni,ij,nj->n", x, MATRIX, x),
        lambda x: nn.Linear(2, 1)(x)[:, 0],
        lambda x: torch.linalg.solve(MATRIX, x.T).square().sum(0),
    ],
)
def test_float32_constants_are_named(energy):
    for ask in (
        lambda: check_potential(energy, 2),
        lambda: TorchLogDensity(energy, 2)(points()),
        lambda: ConstrainedPotential(lambda p: energy(p["x"]), Blocks({"x": (2,)}))(points()),
    ):
        with pytest.raises(TypeError, match=r"float64: tensor\.double\(\), module\.double\(\)"):
            ask()


def test_float32_that_torch_promotes_is_accepted():
    shift = torch.tensor([1.0, -2.0])
    potential = check_potential(lambda x: (0.5 * (x - shift).square().sum(1)).float(), 2)
    value, gradient = potential.value_and_grad(points())
    assert value.dtype == gradient.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_proposal_laws_of_either_type(dtype):
    law = MultivariateNormal(torch.zeros(2, dtype=dtype), torch.eye(2, dtype=dtype))
    posterior = Posterior(lambda x: 0.5 * x.square().sum(1), law, 200, random_state=0)
    assert posterior.log_evidence.value == pytest.approx(np.log(2 * np.pi), abs=1e-5)


# ------------------------------------------------------------------ no gradient


def one_point(theta):
    return -0.5 * np.sum((theta - 1.0) ** 2)


def many_points(x):
    return -0.5 * ((x - 1.0) ** 2).sum(1)


@pytest.mark.parametrize(("function", "batched"), [(one_point, False), (many_points, True)])
@pytest.mark.parametrize("d", [2, 3])
def test_a_missing_gradient_is_named_or_taken_by_differences(function, batched, d):
    with pytest.raises(TypeError, match="no gradient.*gradient='differences'"):
        sample_posterior(NumpyLogDensity(function, n_features=d, batched=batched))
    potential = NumpyLogDensity(function, "differences", d, batched=batched)
    for x, rtol in ((points(5, d), 1e-6), (1e7 * points(5, d), 1e-4)):
        torch.testing.assert_close(potential.value_and_grad(x)[1], x - 1, rtol=rtol, atol=1e-6)
    found = laplace(potential, random_state=0)
    np.testing.assert_allclose(found.modes, np.ones((1, d)), atol=1e-5)


def test_differences_follow_the_units():
    potential = NumpyPotential(lambda x: 0.5 * ((x / 5e-8) ** 4).sum(1), "differences", 2, 5e-13)
    x = 5e-8 * points()
    torch.testing.assert_close(
        potential.value_and_grad(x)[1], 2 * (x / 5e-8) ** 3 / 5e-8, rtol=1e-5, atol=1.0
    )


@pytest.mark.parametrize("bad", [None, "difference", 3.0])
def test_what_is_no_gradient(bad):
    with pytest.raises(TypeError, match="gradient must be a callable or 'differences'"):
        check_potential(NumpyPotential(lambda x: x.sum(1), bad, 2))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (np.asarray(x) ** 2).sum(1),
        lambda x: torch.from_numpy((x.numpy() ** 2).sum(1)),
        lambda x: np.exp(x).sum(1),
    ],
)
def test_numpy_in_the_place_of_torch(function):
    with pytest.raises(TypeError, match="NumpyPotential.*'differences'"):
        check_potential(function, 2)


@pytest.mark.parametrize(
    ("potential", "hint"),
    [
        (NumpyPotential(lambda x: (x**2).sum(1, keepdims=True), lambda x: x, 2), r"\[:, 0\]"),
        (NumpyPotential(lambda x: (x**2).sum(), lambda x: x, 2), r"\.sum\(1\)"),
        (NumpyLogDensity(lambda x: (x**2).sum(1, keepdims=True), lambda x: x, 2), r"\[:, 0\]"),
        (TorchLogDensity(lambda x: x.square().sum(1, keepdim=True), 2), r"\.squeeze\(1\)"),
        (NumpyLogDensity(lambda x: x, lambda x: x, 2, batched=False), "one number for a point"),
    ],
)
def test_shapes_are_named(potential, hint):
    with pytest.raises(ValueError, match=hint):
        check_potential(potential)


class Answers(Potential):
    n_features_in_ = 2

    def __init__(self, answer):
        self.answer = answer

    def __call__(self, x):
        return x.square().sum(1)

    def value_and_grad(self, x):
        return self.answer(x)


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (lambda x: x.square().sum(1), "pair"),
        (lambda x: (x.square().sum(1, keepdim=True), 2 * x), "values as a torch tensor of shape"),
        (lambda x: (x.square().sum(1), 2 * x.float()), "gradients as.*float64.*float32"),
        (lambda x: (x.square().sum(1), (2 * x).detach().numpy()), "gradients as a torch tensor"),
    ],
)
def test_what_value_and_grad_returns_is_checked(answer, seen):
    with pytest.raises(TypeError, match="value_and_grad must return.*" + seen):
        check_potential(Answers(answer))


# ------------------------------------------------------------------ the sign


@pytest.mark.parametrize(
    "energy",
    [
        lambda x: 0.5 * x.square().sum(1),
        lambda x: 0.25 * x.pow(4).sum(1),
        lambda x: torch.cosh(x).sum(1),
        lambda x: x.abs().sum(1),
        lambda x: 0.5 * x[:, 0].square() - 0.5 * x[:, 1].square(),
        lambda x: x[:, 0] - 0.5 * x[:, 1].square(),
        lambda x: torch.where(x.abs().amax(1) < 3, x.square().sum(1), torch.inf),
    ],
)
def test_an_energy_for_a_log_density_is_named(energy):
    with np.errstate(all="ignore"):
        for function in (energy, lambda x: 1e3 * energy(x)):
            with pytest.raises(UnboundedDensityError, match="sign wrong.*energy"):
                sample_posterior(function, 2, random_state=0)


@pytest.mark.parametrize(
    "log_density",
    [
        lambda x: -0.5 * ((x - 1e7) / 1e6).square().sum(1),
        lambda x: torch.distributions.StudentT(2.0).log_prob(x).sum(1),
        lambda x: -torch.logaddexp(x, -x).sum(1),
        # grows for ever along a line, and has an integral: the scale of a hierarchy
        lambda x: (
            Normal(x[:, :1], x[:, 1:].exp()).log_prob(torch.ones(1, 8).double() * x[:, :1]).sum(1)
            + Gamma(9.0, 1.0).log_prob(x[:, 1].exp())
            - 0.5 * x[:, 0].square()
        ),
    ],
)
def test_what_has_an_integral_is_searched(log_density):
    laplace(TorchLogDensity(log_density, 2), n_starts=3, random_state=0)


# ------------------------------------------------------------------ invalid torch distributions


def test_invalid_parameters_are_outside_the_support_of_this_thread_alone(monkeypatch):
    # packages switch the checks off on import, such as zuko
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", True)

    def log_density(x):
        return Gamma(2.0, 1.0).log_prob(x[:, 0]) + Normal(0.0, x[:, 0]).log_prob(x[:, 1])

    x = torch.tensor([[1.0, 0.5], [-1.0, 0.5]], dtype=torch.float64)
    for potential in (
        TorchLogDensity(log_density, 2),
        CallablePotential(lambda x: -log_density(x), 2),
        ConstrainedPotential(
            lambda p: log_density(torch.stack([p["a"], p["b"]], 1)), Blocks({"a": (), "b": ()})
        ),
    ):
        value = potential(x)
        torch.testing.assert_close(value[:1], -log_density(x[:1]))
        assert not torch.isfinite(value[1])
    assert torch.distributions.Distribution._validate_args
    with pytest.raises(ValueError, match="within the support"):
        log_density(x)


# ------------------------------------------------------------------ PyMC


def fake_model(**variables):
    """What is asked of a PyMC model before it is compiled."""
    values = [types.SimpleNamespace(name=name, dtype=a.dtype) for name, a in variables.items()]
    return types.SimpleNamespace(
        value_vars=values, initial_point=lambda: dict(variables), compile_dlogp=None
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (fake_model(p=np.array(0.5), z=np.array(1)), r"discrete variables \['z'\]"),
        (fake_model(z=np.array(True)), r"discrete variables \['z'\]"),
        (fake_model(), "without free variables"),
        (fake_model(p=np.array(0.5), b=np.empty((0, 3))), r"\['b'\] have no entries"),
    ],
)
def test_pymc_models_that_cannot_be_sampled(model, message):
    for build in (PyMCLogDensity, as_log_density, sample_posterior):
        with pytest.raises(ValueError, match=message):
            build(model)


def test_constraints_reach_code_that_writes():
    def log_density(p):
        p["scale"] -= 1.0
        return -0.5 * p["scale"].square()

    blocks = Blocks({"scale": constraints.positive})
    potential = ConstrainedPotential(log_density, blocks)
    u = points(5, 1)
    scale = u[:, 0].exp()
    torch.testing.assert_close(potential(u), 0.5 * (scale - 1).square() - u[:, 0])
