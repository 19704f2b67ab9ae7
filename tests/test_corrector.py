"""The particle corrector: better where the march is worse, and the march itself elsewhere."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skfokker import ParametricFokkerPlanck
from skfokker.corrector import ParticleCorrector
from skfokker.equation import FokkerPlanck
from skfokker.flows import AffineFlow
from skfokker.potentials import Potential, Quadratic
from skfokker.reference.ornstein_uhlenbeck import kl_gaussians, ornstein_uhlenbeck
from skfokker.trajectory import Trajectory

MEAN, COVARIANCE = [2.0, -1.0], [1.0, 0.25]
SMALL = ParticleCorrector(n_particles=8000, n_times=3, n_steps=200)


def fitted(corrector=None, **parameters):
    model = ParametricFokkerPlanck(corrector=corrector, random_state=0, **parameters)
    return model.fit(Quadratic(MEAN, COVARIANCE), t_final=0.6)


@pytest.fixture(scope="module")
def exact():
    return fitted()


def damaged_march(exact) -> Trajectory:
    """A march whose mean drifts away in proportion to t."""
    march = exact._trajectory()
    drift = march.flow.with_affine(
        torch.zeros_like(march.flow.init(2)), torch.tensor([0.5, -0.3]).double(), torch.eye(2)
    ) - march.flow.with_affine(torch.zeros_like(march.flow.init(2)), torch.zeros(2), torch.eye(2))
    drift = drift.numpy()
    thetas = march.thetas + march.times[:, None] * drift
    return Trajectory(march.times, thetas, march.velocities + drift, march.flow, 2)


def kl_to_truth(march: Trajectory, t: float) -> float:
    """KL(fit | exact) of two Gaussians."""
    affine = march.law(t)
    mean, covariance = ornstein_uhlenbeck(Quadratic(MEAN, COVARIANCE), t)
    origin = torch.zeros(1, 2, dtype=torch.float64)
    at = affine.push(torch.cat([origin, torch.eye(2, dtype=torch.float64)]))
    scale = (at[1:] - at[0]).T
    return kl_gaussians(mean, covariance, at[0].numpy(), (scale @ scale.T).numpy())


def test_a_march_gone_astray_is_brought_back(exact):
    march = damaged_march(exact)
    equation = FokkerPlanck(Quadratic(MEAN, COVARIANCE), 1.0, 2)
    polished, report = SMALL.correct(march, equation, None, torch.Generator().manual_seed(1))
    assert report.accepted.all() and len(report.times) == 3 and report.times[-1] == 0.6
    assert (report.nll_after < report.nll_before - report.gain_error).all()
    assert np.allclose(report.gain, report.nll_before - report.nll_after)
    for t in report.times:
        # four parameters on 6000 particles: chi-squared / (2 n), its 99.9 % quantile
        assert kl_to_truth(polished, t) < 18.5 / 12_000 < 0.2 * kl_to_truth(march, t)
    assert np.array_equal(polished.thetas[0], march.thetas[0])
    # between the polished times too, and theta' is the derivative of theta
    assert kl_to_truth(polished, 0.5) < 0.1 * kl_to_truth(march, 0.5)
    t, h = 0.37, 1e-5
    difference = (polished.at(t + h)[0] - polished.at(t - h)[0]) / (2 * h)
    assert np.allclose(polished.at(t)[1], difference, atol=1e-6)


def test_what_lies_before_the_start_stays_as_it_is(exact):
    march = damaged_march(exact)
    equation = FokkerPlanck(Quadratic(MEAN, COVARIANCE), 1.0, 2)
    start = float(march.times[len(march.times) // 2])
    polished, report = SMALL.correct(
        march, equation, None, torch.Generator().manual_seed(1), t_start=start
    )
    before = march.times <= start
    assert report.accepted.any() and (report.times > start).all()
    assert np.array_equal(polished.thetas[before], march.thetas[before])
    assert np.array_equal(polished.velocities[before], march.velocities[before])
    assert not np.array_equal(polished.thetas[-1], march.thetas[-1])


def test_a_rejected_correction_leaves_the_march(exact):
    # trained on a handful of particles no fit can be better than the exact march
    corrector = ParticleCorrector(n_particles=1000, held_out=0.98, n_steps=400, n_times=2)
    model = fitted(corrector)
    assert not model.correction_.accepted.any()
    assert (model.correction_.gain < 0).all()
    assert np.array_equal(model.thetas_, exact.thetas_)
    assert model.certificate_.kl() == exact.certificate_.kl()
    assert "march kept" in str(model.correction_)


def test_certificate_is_that_of_the_polished_march(exact):
    """A simulation of too few steps pulls the march off, and the certificate says so."""
    with pytest.warns(ConvergenceWarning, match="by particles moved the certified error"):
        biased = fitted(ParticleCorrector(n_particles=4000, n_steps=6, n_times=1), tol=1e-3)
    assert biased.correction_.accepted.all()
    error = kl_to_truth(biased._trajectory(), 0.6)
    assert 1e-4 < error <= biased.certificate_.kl()
    assert exact.certificate_.kl() < 1e-8


def test_steps_follow_the_curvature(exact):
    counts = []
    for variance in (1.0, 0.01):
        potential = Quadratic([0.0, 0.0], [1.0, variance])
        corrector = ParticleCorrector(n_particles=200, n_times=1, max_iter=1)
        model = ParametricFokkerPlanck(corrector=corrector, random_state=0)
        counts.append(model.fit(potential, t_final=0.5).correction_.n_steps)
    assert counts == pytest.approx([100, 0.5 * 100 / 0.02], rel=1e-3)


class Refusing(Potential):
    """A harmonic V that can be evaluated for the march, but not for as many particles."""

    n_features_in_ = 2

    def __call__(self, x):
        if len(x) == 7777:
            raise RuntimeError("too many points")
        return 0.5 * x.square().sum(1)


def test_the_march_outlives_its_corrector():
    model = ParametricFokkerPlanck(
        corrector=ParticleCorrector(n_particles=7777, n_steps=5), random_state=0, tol=1.0
    )
    with pytest.warns(UserWarning, match="was not corrected.*RuntimeError: too many points"):
        model.fit(Refusing(), t_final=0.1)
    assert model.correction_ is None and model.t_final_ == 0.1 and model.certificate_ is not None
    with pytest.warns(UserWarning, match="n_times"):
        fitted(ParticleCorrector(n_times=0))


def test_as_a_component(tmp_path):
    pytest.importorskip("safetensors")
    model = fitted(ParticleCorrector(n_particles=400, n_times=1, n_steps=50), flow=AffineFlow())
    model.save(tmp_path / "model.skf")
    for copy in (pickle.loads(pickle.dumps(model)), model.load(tmp_path / "model.skf")):
        assert np.array_equal(copy.thetas_, model.thetas_)
        assert copy.corrector.get_params() == model.corrector.get_params()
    assert copy.correction_ is None
    assert clone(model).get_params()["corrector__n_times"] == 1
    again = clone(model).fit(Quadratic(MEAN, COVARIANCE), t_final=0.6)
    assert np.array_equal(again.thetas_, model.thetas_)
    with pytest.raises(ValueError, match="corrector"):
        fitted("particles")
