"""Laws of potentials: gradients, dimensions, cloning, and what a wrong one is told."""

import pickle
import re

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skfokker.potentials import (
    CallablePotential,
    CheckedPotential,
    CoupledQuartic,
    DistributionPotential,
    DoubleWell,
    EightModes,
    Funnel,
    GaussianMixture,
    GinzburgLandauChain,
    ManyWell,
    Mustache,
    NumpyPotential,
    Potential,
    PotentialError,
    Quadratic,
    Rings,
    Rosenbrock,
    Rotated,
    StyblinskiTang,
    ThreeHoles,
    WellsAndSprings,
    Zero,
    check_potential,
)


def quartic(x):
    return x.pow(4).sum(1)


def numpy_quartic(x):
    return (x**4).sum(1)


def numpy_quartic_gradient(x):
    return 4 * x**3


NORMAL = torch.distributions.MultivariateNormal(
    torch.tensor([1.0, -1.0]), torch.tensor([[2.0, 0.3], [0.3, 1.0]])
)
POTENTIALS = [
    Zero(3),
    Quadratic([1.0, 2.0], [[2.0, 0.3], [0.3, 1.0]]),
    Quadratic(np.array([1.0, 2.0]), [1.0, 0.25]),
    Quadratic(torch.tensor([3.0]), 0.25),
    StyblinskiTang(1),
    StyblinskiTang(5),
    Rosenbrock(2),
    Rosenbrock(6),
    DoubleWell(),
    DoubleWell(3, height=2.0, width=1.5),
    GaussianMixture([[0.0, 1.0], [2.0, 3.0]]),
    GaussianMixture([[0.0], [2.0]], [1.0, 0.5], [0.3, 0.9]),
    GaussianMixture(np.eye(2), [[[2.0, 0.5], [0.5, 1.0]], np.eye(2)], [1, 2]),
    EightModes(),
    Funnel(4),
    ManyWell(6),
    Mustache(),
    CoupledQuartic(coupling=0.5),
    GinzburgLandauChain(5, width=0.3, stiffness=2.0),
    Rings(6, height=1.5),
    ThreeHoles(),
    WellsAndSprings([2.0, 1.0], [1.0, 1.5], [0.2, 1.0, 8.0]),
    Rotated(Rings(2), [[0.6, -0.8], [0.8, 0.6]]),
    CallablePotential(quartic, 3),
    NumpyPotential(numpy_quartic, numpy_quartic_gradient, 3),
    DistributionPotential(NORMAL, beta=0.5),
    DistributionPotential(torch.distributions.Gamma(3.0, 2.0)),
]


def shown(potential):
    """Without addresses: processes that share the tests have to agree on their names."""
    return re.sub(r" at 0x\w+", "", repr(potential))


@pytest.mark.parametrize("potential", POTENTIALS, ids=shown)
class TestLaws:
    def points(self, potential, n=7, dtype=torch.float64):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(n, potential.n_features_in_, dtype=torch.float64, generator=generator)
        return x.abs().to(dtype) + 0.1 if "Gamma" in repr(potential) else x.to(dtype)

    def test_gradient_is_the_one_of_autograd(self, potential):
        x = self.points(potential)
        with torch.no_grad():
            value, gradient = potential.value_and_grad(x)
        value_by_autograd, gradient_by_autograd = Potential.value_and_grad(potential, x)
        torch.testing.assert_close(value, value_by_autograd)
        torch.testing.assert_close(gradient, gradient_by_autograd)
        assert value.shape == (7,) and gradient.shape == x.shape

    def test_gradient_is_the_slope(self, potential):
        x, h = self.points(potential), 1e-5
        _, gradient = potential.value_and_grad(x)
        for k in range(x.shape[1]):
            step = torch.zeros_like(x)
            step[:, k] = h
            slope = (potential(x + step) - potential(x - step)) / (2 * h)
            torch.testing.assert_close(gradient[:, k], slope, rtol=1e-6, atol=1e-6)

    def test_float32_stays_float32(self, potential):
        x = self.points(potential, dtype=torch.float32)
        value, gradient = potential.value_and_grad(x)
        assert value.dtype == gradient.dtype == potential(x).dtype == torch.float32
        torch.testing.assert_close(
            value.double(), potential(self.points(potential)), rtol=1e-3, atol=1e-3
        )

    def test_works_in_inference_mode(self, potential):
        with torch.inference_mode():
            x = self.points(potential)
            assert potential.value_and_grad(x)[1].shape == x.shape

    def test_clone_pickle_and_check(self, potential):
        x = self.points(potential)
        potential(x)
        for copy in (clone(potential), pickle.loads(pickle.dumps(potential))):
            torch.testing.assert_close(copy(x), potential(x))
        assert "_cache" not in pickle.loads(pickle.dumps(potential)).__dict__
        assert check_potential(potential) is potential


@pytest.mark.parametrize(
    "potential",
    [
        Quadratic([1.0, 0.0], [[2.0, 0.3], [0.3, 1.0]]),
        GaussianMixture([[0.0, 1.0], [2.0, 3.0]], [1.0, 0.5], [3, 1]),
        EightModes(0.05),
        Mustache(0.5),
        Funnel(2, scale=0.5),
        ManyWell(2),
        Rings(2, height=1.5),
        Rotated(Funnel(2, scale=0.5), [[0.6, -0.8], [0.8, 0.6]]),
    ],
    ids=repr,
)
def test_log_normalizer_is_the_integral(potential):
    side = torch.linspace(-9, 9, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    if isinstance(potential, Mustache):  # a map of unit Jacobian that straightens it
        grid[:, 1] += (grid[:, 0].square() - 1).square()
    total = torch.exp(-potential(grid)).sum() * (side[1] - side[0]) ** 2
    assert float(total.log()) == pytest.approx(potential.log_normalizer, abs=1e-5)


def test_many_well_matches_the_published_numbers():
    potential = ManyWell(32)
    assert potential.log_normalizer == pytest.approx(164.69568, abs=1e-5)
    assert potential.right_probability == pytest.approx(0.84431, abs=1e-5)


@pytest.mark.parametrize(
    "potential",
    [GaussianMixture([[0.0, 1.0], [2.0, 3.0]], [1.0, 0.5], [3, 1]), Mustache(), Funnel(3, 1.0)],
    ids=repr,
)
def test_samples_obey_steins_identity(potential):
    # E[d_i V] = 0 and E[x_i d_i V] = 1 under exp(-V)
    x = potential.sample(40_000, seed=1)
    _, gradient = potential.value_and_grad(x)
    for moment, wanted in ((gradient, 0.0), (x * gradient, 1.0)):
        error = moment.std(0) / len(x) ** 0.5
        assert ((moment.mean(0) - wanted).abs() < 5 * error).all()
    assert torch.equal(x, potential.sample(40_000, seed=1))


def test_many_well_samples():
    x = ManyWell(4).sample(40_000, seed=0)
    assert float((x[:, ::2] > 0).double().mean()) == pytest.approx(0.84431, abs=0.01)
    assert float(x[:, 1::2].var()) == pytest.approx(1.0, abs=0.03)


def test_assigning_a_hyper_parameter_counts():
    potential, x = Quadratic([0.0]), torch.ones(1, 1, dtype=torch.float64)
    assert potential(x).item() == 0.5
    potential.set_params(covariance=0.25)
    assert potential(x).item() == 2.0
    potential.mean = [1.0]
    assert potential(x).item() == 0.0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Quadratic([0.0, 0.0], [1.0, 2.0, 3.0]), "covariance must be a number"),
        (lambda: Quadratic([0.0, 0.0], -1.0), "positive definite"),
        (lambda: Quadratic([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (lambda: Quadratic([[0.0, 0.0]]), "mean must have shape"),
        (lambda: Quadratic([np.nan]), "mean must be finite"),
        (lambda: GaussianMixture([0.0, 1.0]), "means must have shape"),
        (lambda: GaussianMixture([[0.0]], weights=[-1.0]), "weights must be"),
        (lambda: GaussianMixture([[0.0]], covariances=[1.0, 2.0]), "covariances must be"),
        (lambda: StyblinskiTang(0), "d must be an integer"),
        (lambda: Rosenbrock(1), "at least 2"),
        (lambda: GinzburgLandauChain(1), "at least 2"),
        (lambda: Rings(3), "must be even"),
        (lambda: WellsAndSprings([1.0], [1.0, 2.0]), "one entry a well"),
        (lambda: Rotated(Rings(2), [[1.0, 1.0], [0.0, 1.0]]), "orthogonal"),
        (lambda: ManyWell(3), "even"),
        (lambda: DistributionPotential(torch.distributions.Normal(torch.zeros(2), 1.0)), "Indep"),
    ],
)
def test_bad_hyper_parameters(build, message):
    with pytest.raises(ValueError, match=message):
        potential = build()
        potential(torch.zeros(3, potential.n_features_in_, dtype=torch.float64))


class TestDistributionPotential:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_is_minus_beta_log_prob(self, dtype):
        x = torch.randn(5, 2, dtype=dtype)
        value = DistributionPotential(NORMAL, 0.5)(x)
        expected = -0.5 * NORMAL.log_prob(x.float()).to(dtype)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)

    def test_outside_the_support_it_is_infinite(self):
        potential = DistributionPotential(torch.distributions.Gamma(3.0, 2.0))
        value, gradient = potential.value_and_grad(torch.tensor([[-1.0], [1.0]]).double())
        assert value[0] == torch.inf and torch.isfinite(value[1])
        assert gradient[0] == 0 and torch.isfinite(gradient).all()

    def test_composed_distributions_convert(self):
        base = torch.distributions.Independent(
            torch.distributions.Normal(torch.zeros(3), torch.ones(3)), 1
        )
        shifted = torch.distributions.TransformedDistribution(
            base, torch.distributions.AffineTransform(torch.ones(3), 2 * torch.ones(3), 1)
        )
        x = torch.randn(4, 3, dtype=torch.float64)
        value = check_potential(shifted)(x)
        assert value.dtype == torch.float64
        quadratic = Quadratic([1.0] * 3, 4.0)
        torch.testing.assert_close(value, quadratic(x) + quadratic.log_normalizer)

    def test_a_mixture(self):
        mixture = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(torch.ones(2)),
            torch.distributions.MultivariateNormal(torch.tensor([[0.0], [2.0]]), torch.eye(1)),
        )
        x = torch.randn(4, 1, dtype=torch.float64)
        torch.testing.assert_close(
            check_potential(mixture)(x), GaussianMixture([[0.0], [2.0]])(x), rtol=1e-6, atol=1e-6
        )


class WithDimension:
    n_features_in_ = 2

    def __call__(self, x):
        return quartic(x)


class TestCheckPotential:
    def test_a_callable_needs_its_dimension(self):
        with pytest.raises(ValueError, match="n_features=d"):
            check_potential(quartic)
        assert check_potential(quartic, 4).n_features_in_ == 4
        assert check_potential(WithDimension()).n_features_in_ == 2

    def test_zero_gets_its_dimension_and_keeps_its_gradient(self):
        zero = Zero()
        assert not hasattr(zero, "n_features_in_")
        known = check_potential(zero, 3)
        assert known.n_features_in_ == 3 and not hasattr(zero, "n_features_in_")
        assert (known.value_and_grad(torch.ones(2, 3))[1] == 0).all()

    def test_a_distribution_uses_beta(self):
        assert check_potential(NORMAL, beta=0.25).beta == 0.25

    @pytest.mark.parametrize("bad", ["V", 3.0, None, np.zeros((3, 2))])
    def test_not_callable(self, bad):
        with pytest.raises(TypeError, match="potential must be a callable"):
            check_potential(bad, 2)

    def test_a_class_is_not_an_object(self):
        with pytest.raises(TypeError, match=r"potential=StyblinskiTang\(\.\.\.\)"):
            check_potential(StyblinskiTang, 2)

    def test_contradiction(self):
        with pytest.raises(ValueError, match="n_features=3 contradicts"):
            check_potential(Quadratic([0.0, 0.0]), 3)

    @pytest.mark.parametrize("bad", [0, -1, 2.5, True, "two"])
    def test_bad_dimension(self, bad):
        with pytest.raises(ValueError, match="n_features must be an integer"):
            check_potential(quartic, bad)

    @pytest.mark.parametrize("d", [1, 2, 3, 7])
    @pytest.mark.parametrize(
        ("function", "hint"),
        [
            (lambda x: x.square().sum(1, keepdim=True), r"\.squeeze\(1\)"),
            (lambda x: x.square().sum(), r"torch\.vmap"),
            (lambda x: x.square().sum(0), r"not \.sum\(0\)"),
            (lambda x: x.square().sum(1)[:-1], "shape"),
        ],
    )
    def test_wrong_shape(self, function, hint, d):
        with pytest.raises(ValueError, match=r"must return shape \(n,\).*" + hint):
            check_potential(function, d)

    @pytest.mark.parametrize(
        "function", [lambda x: x.sum(1).to(torch.complex128), lambda x: x.sum(1).long()]
    )
    def test_wrong_dtype(self, function):
        with pytest.raises(TypeError, match="real floating-point"):
            check_potential(function, 2)

    @pytest.mark.parametrize(
        "function",
        [
            lambda x: x.detach().sum(1),
            lambda x: torch.zeros(len(x)),
            lambda x: torch.zeros(len(x), requires_grad=True),
            lambda x: torch.from_numpy(numpy_quartic(x.detach().numpy())),
        ],
    )
    def test_detached(self, function):
        with pytest.raises(ValueError, match="NumpyPotential"), torch.no_grad():
            check_potential(function, 2)

    def test_numpy_output(self):
        with pytest.raises(TypeError, match="NumpyPotential"):
            check_potential(lambda x: numpy_quartic(x.detach().numpy()), 2)

    def test_exceptions_of_the_user_pass(self):
        def broken(x):
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            check_potential(broken, 2)

    @pytest.mark.parametrize("which", ["value", "gradient"])
    def test_numpy_shapes(self, which):
        functions = {"value": numpy_quartic, "gradient": numpy_quartic_gradient}
        functions[which] = lambda x: np.zeros((len(x), 9))
        with pytest.raises(ValueError, match=f"{which} must return an array of shape"):
            check_potential(NumpyPotential(**functions, n_features=2))


class TestCheckedPotential:
    def test_passes_what_is_finite(self):
        checked, x = CheckedPotential(Quadratic([0.0, 0.0])), torch.randn(5, 2)
        assert checked.n_features_in_ == 2
        assert torch.equal(checked(x), checked.value_and_grad(x)[0])
        assert check_potential(checked) is checked

    @pytest.mark.parametrize("time", [None, 0.25])
    def test_names_the_point_and_the_time(self, time):
        checked = CheckedPotential(CallablePotential(lambda x: x[:, 0].log() + x[:, 1], 2))
        checked.time = time
        x = torch.tensor([[1.0, 2.0], [-1.5, 0.5]])
        with pytest.raises(PotentialError) as error:
            checked(x)
        assert "the potential returned NaN at x = [-1.5, 0.5]" in str(error.value)
        assert ("(time t = 0.25)" in str(error.value)) == (time is not None)
        with pytest.raises(PotentialError, match="potential returned"):
            checked.value_and_grad(x)

    def test_a_gradient_may_be_the_culprit(self):
        checked = CheckedPotential(CallablePotential(lambda x: x.abs().sqrt().sum(1), 1))
        assert checked(torch.zeros(1, 1)) == 0
        with pytest.raises(PotentialError, match="gradient of the potential returned"):
            checked.value_and_grad(torch.zeros(1, 1))

    def test_infinity_and_lost_points(self):
        checked = CheckedPotential(DistributionPotential(torch.distributions.Gamma(3.0, 2.0)))
        with pytest.raises(PotentialError, match=r"returned \+inf at x = \[-1\]"):
            checked(torch.tensor([[-1.0], [1.0]]))
        with pytest.raises(PotentialError, match="the march has diverged"):
            CheckedPotential(Quadratic([0.0]))(torch.tensor([[torch.nan]]))
