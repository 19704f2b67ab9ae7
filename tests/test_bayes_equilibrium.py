"""initial="laplace" and t_final="equilibrium": starts that fit, marches without a horizon."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from torch.distributions import MultivariateNormal

from skfokker import Gaussian, ParametricFokkerPlanck, rest
from skfokker.bayes import FreeEnergyDescent
from skfokker.flows import (
    AffineFlow,
    AutogradLinearization,
    Composition,
    ElementwiseFlow,
    Inverse,
    TriangularFlow,
)
from skfokker.flows.frame import Frame
from skfokker.potentials import Quadratic
from skfokker.rest import dissipated

SCALES = np.array([0.001, 15.0, 0.3])
CORRELATION = np.array([[1.0, 0.6, -0.3], [0.6, 1.0, 0.0], [-0.3, 0.0, 1.0]])
COVARIANCE = CORRELATION * np.outer(SCALES, SCALES)
MEAN = np.array([50.0, -50.0, 50.0])


@pytest.fixture(scope="module")
def at_rest():
    model = ParametricFokkerPlanck(initial="laplace", t_final="equilibrium", random_state=0)
    return model.fit(Quadratic(MEAN, COVARIANCE))


def exact(x):
    law = MultivariateNormal(torch.from_numpy(MEAN), torch.from_numpy(COVARIANCE))
    return law.log_prob(torch.from_numpy(x)).numpy()


def test_means_of_50_and_scales_from_a_thousandth_to_15(at_rest):
    x = at_rest.sample(20000)
    assert (np.abs(x.mean(0) - MEAN) < 0.03 * SCALES).all()
    np.testing.assert_allclose(np.corrcoef(x.T), CORRELATION, atol=0.03)
    np.testing.assert_allclose(x.std(0), SCALES, rtol=0.03)
    np.testing.assert_allclose(at_rest.log_density(x), exact(x), atol=1e-4)
    assert 0 < at_rest.t_final_ < 8 and at_rest.times_[-1] == at_rest.t_final_
    posterior = at_rest.posterior(1000)
    assert posterior.efficiency > 0.999


def test_skewed_law_far_from_the_origin():
    """exp(u - exp(u)), u = (x - 50) / scale: no curvature to follow from afar."""
    scale = 0.001

    def potential(x):
        u = (x[:, 0] - 50) / scale
        return u.exp() - u

    flow = Composition([Inverse(ElementwiseFlow(20)), AffineFlow(diagonal=True)])
    model = ParametricFokkerPlanck(flow, initial="laplace", n_features=1, random_state=0)
    model.fit(potential, t_final="equilibrium")
    law = model.posterior(4000)
    assert 1 < model.t_final_ < 64
    kl = np.log(scale) - law.elbo.value  # Z is the scale
    assert -4 * law.elbo.error < kl < model.tol
    u = (model.sample(20000) - 50) / scale
    assert u.mean() == pytest.approx(-np.euler_gamma, abs=0.1)


def test_criterion_is_the_fall_of_the_free_energy_over_the_last_half():
    start = Gaussian([3.0], [4.0])
    model = ParametricFokkerPlanck(initial=start, random_state=0, tol=1e-3)
    model.fit(Quadratic([0.0]), "equilibrium")
    half = model.t_final_ / 2
    assert model.t_final_ in (4.0, 8.0, 16.0)  # doublings of the largest variance
    assert dissipated(model.history_, half) < 1e-3
    assert dissipated(model.history_, half / 2) > 1e-3
    # against the free energy itself, in closed form along this march
    kl = [
        0.5 * (9 * np.exp(-2 * t) + v - 1 - np.log(v))
        for t, v in ((t, 1 + 3 * np.exp(-2 * t)) for t in (half / 2, 2 * half))
    ]
    assert dissipated(model.history_, half / 2) == pytest.approx(kl[0] - kl[1], rel=1e-3)
    same = ParametricFokkerPlanck(initial=start, random_state=0).fit(
        Quadratic([0.0]), model.t_final_
    )
    np.testing.assert_allclose(model.sample(10), same.sample(10), atol=1e-6)


def test_a_march_that_does_not_rest_says_so(monkeypatch):
    monkeypatch.setattr(rest, "LEGS", 3)
    flat = ParametricFokkerPlanck(n_features=1, random_state=0, tol=1e-4)
    with pytest.warns(ConvergenceWarning, match="not at equilibrium.*initial='laplace'"):
        flat.fit(lambda x: 1e-3 * x[:, 0].square(), t_final="equilibrium")
    assert flat.t_final_ == 4 and flat.certificate_.kl() < 1e-4


def test_laplace_start_at_another_temperature_and_a_numeric_horizon():
    target = Quadratic(MEAN, np.diag(SCALES**2))
    model = ParametricFokkerPlanck(beta=2.0, initial="laplace", random_state=0)
    model.fit(target, 1e-6)  # no preconditioning: the equation itself
    assert not any(isinstance(layer, Frame) for layer in getattr(model.flow_, "layers", []))
    np.testing.assert_allclose(model.sample(20000).std(0), SCALES * 2**0.5, rtol=0.03)


def test_draws_clone_pickle_and_warm_start(at_rest, tmp_path):
    draws = np.random.default_rng(0).normal(50, 0.01, size=(200, 2))
    model = ParametricFokkerPlanck(initial="laplace", t_final="equilibrium", random_state=0)
    again = clone(model).fit(draws)
    np.testing.assert_allclose(again.sample(4000).mean(0), draws.mean(0), atol=0.001)
    np.testing.assert_allclose(again.sample(4000).std(0), draws.std(0), rtol=0.06)
    assert again.get_params()["initial"] == "laplace"
    x = at_rest.sample(5)
    copy = pickle.loads(pickle.dumps(at_rest))
    np.testing.assert_array_equal(copy.log_density(x), at_rest.log_density(x))
    at_rest.save(tmp_path / "model.safetensors")
    read = ParametricFokkerPlanck.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(read.log_density(x), at_rest.log_density(x))
    copy.set_params(warm_start=True).fit(Quadratic(MEAN, COVARIANCE), 2 * at_rest.t_final_)
    assert copy.t_final_ == 2 * at_rest.t_final_
    np.testing.assert_allclose(copy.log_density(x), exact(x), atol=1e-4)
    assert copy.fit(Quadratic(MEAN, COVARIANCE)).t_final_ == 2 * at_rest.t_final_  # at rest


def test_resumed_march_to_equilibrium_has_the_same_bits(tmp_path):
    def model():
        return ParametricFokkerPlanck(
            initial=Gaussian([3.0], [4.0]), t_final="equilibrium", random_state=0
        )

    class Stop(Exception):
        pass

    calls = {"left": 300}

    class Tired(Quadratic):
        def value_and_grad(self, x):
            calls["left"] -= 1
            if calls["left"] < 0:
                raise Stop
            return super().value_and_grad(x)

    file = tmp_path / "march.safetensors"
    whole = model().fit(Quadratic([0.0]), checkpoint=tmp_path / "other.safetensors")
    with pytest.raises(Stop), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model().fit(Tired([0.0]), checkpoint=file)
    resumed = model().fit(Quadratic([0.0]), resume=file)
    assert resumed.t_final_ == whole.t_final_
    np.testing.assert_array_equal(resumed.sample(10), whole.sample(10))


def test_a_scheme_that_goes_straight_to_rest_makes_one_leg():
    model = ParametricFokkerPlanck(
        AffineFlow(), FreeEnergyDescent(), initial="laplace", random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        model.fit(Quadratic(MEAN, COVARIANCE), t_final="equilibrium")
    assert len(model.times_) == 2 and model.history_[-1]["at_rest"]
    np.testing.assert_allclose(model.sample(20000).std(0), SCALES, rtol=0.03)


@pytest.mark.parametrize("settings", [{"initial": "laplce"}, {"t_final": "rest"}])
def test_misspelt_words_are_refused(settings):
    with pytest.raises(ValueError, match=f"'{next(iter(settings))}'.*must be"):
        ParametricFokkerPlanck(**settings).fit(Quadratic([0.0]))


def test_frame_is_a_flow():
    rng = np.random.default_rng(0)
    frame = Frame(MEAN, np.linalg.cholesky(COVARIANCE + np.eye(3)))
    x, empty = torch.from_numpy(rng.normal(size=(4, 3))), torch.zeros(0, dtype=torch.float64)
    y, log_det = frame.forward(empty, x)
    back, minus = frame.inverse(empty, y)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(minus, -log_det)
    ours, v = frame.linearize(empty, x), torch.from_numpy(rng.normal(size=(4, 3)))
    theirs = AutogradLinearization(frame, empty, x)
    torch.testing.assert_close(ours.log_det, theirs._by_x()[0].det().log())
    for name in ("solve", "solve_transposed", "push_score"):
        torch.testing.assert_close(getattr(ours, name)(v), getattr(theirs, name)(v))
    torch.testing.assert_close(ours.solve_transposed(v[:, None])[:, 0], theirs.solve_transposed(v))
    torch.testing.assert_close(ours.vjp(v)[1], theirs.vjp(v)[1])
    torch.testing.assert_close(ours.jvp(empty, v), theirs.jvp(empty, v))
    torch.testing.assert_close(ours.jacobian()[1], theirs._by_x()[0])


@pytest.mark.parametrize("reverse", [False, True])
def test_first_transposed_solve_substitutes_and_the_next_agree(reverse):
    flow, generator = TriangularFlow(20, reverse=reverse), torch.Generator().manual_seed(0)
    theta = flow.init(9, generator)
    theta += 0.1 * torch.randn(len(theta), generator=generator, dtype=torch.float64)
    x, v = torch.randn(2, 50, 9, generator=generator, dtype=torch.float64)
    at = flow.linearize(theta, x)
    first = at.solve_transposed(v)
    assert "by_y" not in vars(at)  # a descent asks once: no Jacobian is formed
    torch.testing.assert_close(at.vjp(first)[1], v, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(at.solve_transposed(v), first, rtol=1e-11, atol=1e-11)
