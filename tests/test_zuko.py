"""Families of zuko as maps: the laws of a map, the density of zuko, marches and likelihood."""

import importlib
import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone

from skfokker import ParametricFokkerPlanck, initial
from skfokker.corrector import ParticleCorrector
from skfokker.distribution import TransportedNormal
from skfokker.equation import FokkerPlanck
from skfokker.flows import AffineFlow, Composition, ZukoFlow
from skfokker.potentials import Quadratic
from skfokker.schemes import AdamNested, LeastSquaresNested
from skfokker.trajectory import Trajectory


def small(name="NSF"):
    options = {"bins": 4} if name == "NSF" else None
    return ZukoFlow(name, transforms=2, hidden_features=(4,), options=options)


@pytest.fixture
def zuko():
    return pytest.importorskip("zuko")


def some_theta(flow, d=2, spread=0.3):
    generator = torch.Generator().manual_seed(3)
    theta = flow.init(d, generator)
    return theta + spread * torch.randn(len(theta), dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("name", ["NSF", "MAF", "NICE"])
def test_laws_of_a_map(zuko, name):
    flow = small(name)
    theta = some_theta(flow)
    assert theta.dtype == torch.float64 and len(theta) == flow.n_parameters(2)
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y, log_det = flow.forward(theta, x)
    back, inverse_log_det = flow.inverse(theta, y)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=0, atol=1e-12)
    by_theta, by_x = flow.linearize(theta, x).jacobian()
    torch.testing.assert_close(torch.linalg.slogdet(by_x)[1], log_det)
    direction, h = some_theta(flow) - theta.flip(0), 1e-6
    ahead, behind = (flow.forward(theta + s * h * direction, x)[0] for s in (1, -1))
    torch.testing.assert_close(by_theta @ direction, (ahead - behind) / (2 * h), atol=1e-7, rtol=0)


def test_density_is_that_of_zuko(zuko):
    def build(d):
        return zuko.flows.MAF(d, transforms=2, hidden_features=(8,))

    module = build(2).double()
    theta = torch.nn.utils.parameters_to_vector(module.parameters()).detach()
    x = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = TransportedNormal(ZukoFlow(build), theta, 2).log_prob(x)
    torch.testing.assert_close(ours, module().log_prob(x).detach())


def test_copies_and_files(zuko, tmp_path):
    pytest.importorskip("safetensors")
    flow = small()
    theta = some_theta(flow)
    x = torch.ones(3, 2, dtype=torch.float64)
    for copy in (clone(flow), pickle.loads(pickle.dumps(flow))):
        assert torch.equal(copy.forward(theta, x)[0], flow.forward(theta, x)[0])
    scheme = LeastSquaresNested(n_samples=64, max_step=0.05, tolerance=1e-2)
    model = ParametricFokkerPlanck(small("MAF"), scheme, random_state=0, tol=10.0)
    model.fit(Quadratic([0.5, 0.0]), t_final=0.1)
    model.save(tmp_path / "model.skf")
    again = ParametricFokkerPlanck.load(tmp_path / "model.skf")
    assert np.array_equal(again.sample(10, random_state=1), model.sample(10, random_state=1))
    # the mean of the exact law is 0.5 (1 - exp(-0.1))
    assert model.initial_error_ == 0
    assert model.sample(4000, random_state=1)[:, 0].mean() == pytest.approx(0.0476, abs=0.03)
    assert model.certificate_.kl() < 1e-3


def test_a_start_that_is_no_identity_has_an_error(zuko, monkeypatch):
    assert small("MAF").starts_at_identity(2) and small("NSF").starts_at_identity(2)
    assert not small("NICE").starts_at_identity(2)
    assert not Composition([small("NICE"), AffineFlow()]).starts_at_identity(2)
    monkeypatch.setattr(initial, "N_DRAWS", 512)
    generator, cpu = torch.Generator().manual_seed(0), torch.device("cpu")
    flow = Composition([small("NICE"), AffineFlow()])
    theta, error = initial.initial_parameters(([1.0, 0.0], 2.0), flow, 2, generator, cpu)
    assert 0 < error < 0.2
    mean = TransportedNormal(flow, theta, 2).sample((2000,)).mean(0)
    assert mean.tolist() == pytest.approx([1.0, 0.0], abs=0.2)
    exact = Composition([small("MAF"), AffineFlow()])
    assert initial.initial_parameters(([1.0, 0.0], 2.0), exact, 2, generator, cpu)[1] == 0


def test_algorithm_1(zuko):
    scheme = AdamNested(
        0.05, n_outer=10, n_inner=5, n_first=5, n_samples_outer=128, n_samples_inner=128
    )
    model = ParametricFokkerPlanck(small("MAF"), scheme, random_state=0)
    model.fit(Quadratic([2.0, 0.0]), t_final=0.1)
    energy = [record["free_energy"] for record in model.history_]
    assert model.initial_error_ == 0 and energy[-1] < energy[0]
    assert np.isfinite(model.log_density(np.zeros((1, 2)))).all()


def test_corrector(zuko):
    """A march that stands still at N(0, I) is brought to the law of the particles."""
    flow, d = small(), 2
    theta = flow.init(d).numpy()
    nothing = np.zeros_like(theta)
    march = Trajectory(
        np.array([0.0, 1.0]), np.stack([theta] * 2), np.stack([nothing] * 2), flow, d
    )
    equation = FokkerPlanck(Quadratic([1.5, 0.0]), 1.0, d)
    corrector = ParticleCorrector(n_particles=1000, n_times=1, n_steps=100, max_iter=30)
    polished, report = corrector.correct(march, equation, None, torch.Generator().manual_seed(0))
    # KL(rho_1 | N(0, I)) is half the square of the mean of rho_1
    expected = 0.5 * (1.5 * (1 - np.exp(-1))) ** 2
    assert report.accepted.all()
    assert report.gain[0] == pytest.approx(expected, abs=4 * report.gain_error[0] + 0.05)
    assert not np.array_equal(polished.thetas[-1], theta)


@pytest.mark.parametrize(
    "flow, error, words",
    [
        (ZukoFlow("NFS"), ValueError, "'NFS' is no flow of zuko"),
        (ZukoFlow("NCSF"), ValueError, "whose base is the standard normal"),
    ],
)
def test_errors(zuko, flow, error, words):
    with pytest.raises(error, match=words):
        flow.init(2)


def test_families_inverted_numerically_say_so(zuko):
    flow = small("SOSPF")
    with pytest.raises(NotImplementedError, match="explicit inverse"):
        flow.linearize(some_theta(flow), torch.ones(2, 2, dtype=torch.float64)).jacobian()


def test_without_zuko_the_extra_is_named(monkeypatch):
    def no_zuko(name, *args, **kwargs):
        if name.startswith("zuko"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", no_zuko)
    with pytest.raises(ImportError, match=r"skfokker\[flows\]"):
        ZukoFlow().init(2)
