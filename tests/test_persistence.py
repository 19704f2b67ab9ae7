"""A fitted model on disk: the same bits, small files, versions, what cannot be pickled."""

import copy
import importlib.util
import json
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from stand_in import RungeKutta, conditional

import skfokker
from skfokker import ParametricFokkerPlanck, persistence, safe_format
from skfokker.flows import AffineFlow, Composition, ConditionalFlow, ElementwiseFlow
from skfokker.potentials import Quadratic

X = np.random.default_rng(0).normal(size=(7, 2))


def estimator(**params):
    return ParametricFokkerPlanck(**{"scheme": RungeKutta(4), "random_state": 0} | params)


@pytest.fixture(scope="module")
def fitted():
    flow = Composition([ElementwiseFlow(8), AffineFlow()])
    return estimator(flow=flow, t_final=0.2).fit(Quadratic([1.0, 0.0]))


def assert_same_bits(model, other):
    np.testing.assert_array_equal(model.sample(5, 0.13), other.sample(5, 0.13))
    for method in ("log_density", "grad_log_density", "velocity", "transform"):
        np.testing.assert_array_equal(
            getattr(model, method)(X, 0.07), getattr(other, method)(X, 0.07)
        )


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_keeps_every_bit(fitted, protocol):
    assert_same_bits(fitted, pickle.loads(pickle.dumps(fitted, protocol)))


@pytest.mark.parametrize(
    ("dump", "load"),
    [({}, {}), ({"compress": 3}, {}), ({}, {"mmap_mode": "r"})],
    ids=["plain", "compressed", "memory-mapped"],
)
def test_joblib_keeps_every_bit(fitted, tmp_path, dump, load):
    path = tmp_path / "model.joblib"
    joblib.dump(fitted, path, **dump)
    loaded = joblib.load(path, **load)
    assert_same_bits(fitted, loaded)
    if load:
        assert isinstance(loaded.thetas_, np.memmap)
    points = torch.randn(4, 2, dtype=torch.float64)
    np.testing.assert_array_equal(
        loaded.potential_.value_and_grad(points)[1], fitted.potential_.value_and_grad(points)[1]
    )


def test_a_fresh_interpreter_reads_it(fitted, tmp_path):
    path, points = tmp_path / "model.joblib", tmp_path / "points.npy"
    model = copy.deepcopy(fitted).set_params(scheme=None)
    model.scheme_ = model.plan_ = None  # the stand-in lives in the tests
    joblib.dump(model, path)
    np.save(points, X)
    code = (
        "import joblib, numpy, sys\n"
        f"model, x = joblib.load({str(path)!r}), numpy.load({str(points)!r})\n"
        "out = numpy.concatenate([model.sample(5, 0.1).ravel(), model.log_density(x, 0.1)])\n"
        "sys.stdout.write(out.tobytes().hex())\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = np.concatenate([fitted.sample(5, 0.1).ravel(), fitted.log_density(X, 0.1)])
    assert run.stdout == expected.tobytes().hex()


def test_the_state_is_numpy_and_specs(fitted):
    def tensors(value, seen):
        if id(value) in seen:
            return
        seen.add(id(value))
        assert not isinstance(value, torch.Tensor | torch.nn.Module)
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list | tuple):
            for item in value:
                tensors(item, seen)
        elif hasattr(value, "__dict__"):
            tensors(getattr(value, "__getstate__", lambda: vars(value))(), seen)  # of 3.11 on

    tensors(fitted.__getstate__(), set())
    numbers = fitted.times_.size + fitted.thetas_.size + fitted.velocities_.size
    assert len(pickle.dumps(fitted)) < 8 * numbers + 6000


def test_pickling_does_not_change_the_live_object(fitted):
    before = joblib.hash(vars(fitted)), list(vars(fitted))
    pickle.dumps(fitted)
    assert (joblib.hash(vars(fitted)), list(vars(fitted))) == before


def test_versions_are_stamped(fitted):
    state = fitted.__getstate__()
    assert state["_skfokker_version"] == skfokker.__version__
    assert state["_skfokker_state"] == persistence.STATE_VERSION
    assert not any(
        name.startswith("_skfokker") for name in vars(pickle.loads(pickle.dumps(fitted)))
    )


def test_a_newer_state_is_warned_about(fitted, monkeypatch):
    monkeypatch.setattr(persistence, "STATE_VERSION", 99)
    newer = pickle.dumps(fitted)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="state version 99.*newer"):
        assert_same_bits(fitted, pickle.loads(newer))


def test_an_older_state_is_migrated(fitted, monkeypatch):
    def rename(state):
        state["thetas_"] = state.pop("parameters_")
        return state

    state = fitted.__getstate__()
    state["parameters_"] = state.pop("thetas_")
    state["_skfokker_state"] = 0
    monkeypatch.setitem(persistence.MIGRATIONS, 0, rename)
    loaded = ParametricFokkerPlanck.__new__(ParametricFokkerPlanck)
    loaded.__setstate__(state)
    assert_same_bits(fitted, loaded)


def local_potential():
    def bowl(x):
        return (x**2).sum(1)

    return bowl


@pytest.mark.parametrize("make", [lambda: lambda x: (x**2).sum(1), local_potential])
def test_a_potential_that_cannot_be_pickled_is_left_out(make, tmp_path):
    model = estimator(n_features=2, t_final=0.2).fit(make())
    with pytest.warns(UserWarning, match="(lambda|bowl).*cannot be pickled.*left out"):
        joblib.dump(model, tmp_path / "model.joblib")
    assert model.potential_(torch.ones(1, 2)) == 2  # the live one keeps it
    loaded = joblib.load(tmp_path / "model.joblib")
    assert_same_bits(model, loaded)
    with pytest.raises(AttributeError, match="potential_ is missing.*(lambda|bowl).*fit again"):
        loaded.potential_  # noqa: B018
    with warnings.catch_warnings():  # once left out, saving again has nothing to say
        warnings.simplefilter("error")
        again = pickle.loads(pickle.dumps(loaded))
    again.set_params(warm_start=True).fit(make(), 0.4)
    assert again.t_final_ == 0.4 and again.potential_(torch.ones(1, 2)) == 2


def test_copies_within_the_process_leave_nothing_out():
    model = estimator(n_features=2, t_final=0.2).fit(lambda x: (x**2).sum(1))
    for other in (copy.copy(model), copy.deepcopy(model)):
        assert_same_bits(model, other)
        assert other.potential_(torch.ones(1, 2)) == 2
    assert copy.deepcopy(model).thetas_ is not model.thetas_


def test_unfitted_models_and_missing_attributes():
    model = pickle.loads(pickle.dumps(estimator()))
    assert not hasattr(model, "potential_") and not hasattr(model, "thetas_")
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        model.nonsense  # noqa: B018


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_here(fitted):
    model = copy.deepcopy(fitted).set_params(device="cuda")
    loaded = pickle.loads(pickle.dumps(model))
    with pytest.warns(UserWarning, match="device='cuda' is not available.*CPU"):
        draws = loaded.sample(5, 0.1)
    np.testing.assert_array_equal(draws, fitted.sample(5, 0.1))
    assert loaded.device == "cuda"


# -------------------------------------------------------------------- the safe format


def test_safetensors_keep_every_bit(tmp_path):
    pytest.importorskip("safetensors")
    flow = Composition([ElementwiseFlow(8), AffineFlow()])
    start = ([0.0, 1.0], np.array([[1.0, 0.2], [0.2, 1.0]]))
    model = ParametricFokkerPlanck(flow, initial=start, t_final=0.01, random_state=3)
    model.fit(Quadratic(np.array([1.0, 0.0]), 0.5)).save(tmp_path / "model.safetensors")
    loaded = ParametricFokkerPlanck.load(tmp_path / "model.safetensors")
    assert_bits = np.testing.assert_array_equal
    assert_bits(model.sample(5, 0.003), loaded.sample(5, 0.003))
    assert_bits(model.log_density(X, 0.007), loaded.log_density(X, 0.007))
    points = torch.randn(3, 2, dtype=torch.float64)
    assert torch.equal(model.potential_(points), loaded.potential_(points))
    assert loaded.history_ == model.history_ and str(loaded) == str(model)
    assert str(loaded.flow_) == str(model.flow_)
    loaded.set_params(warm_start=True).fit(loaded.potential_, 0.02)
    assert loaded.t_final_ == 0.02


def test_the_safe_format_leaves_out_code(tmp_path):
    pytest.importorskip("safetensors")
    model = estimator(n_features=2, t_final=0.2).fit(lambda x: (x**2).sum(1))
    path = tmp_path / "model.safetensors"
    with pytest.warns(UserWarning, match=r"Left out.*scheme \(RungeKutta\).*potential_"):
        model.save(path)
    loaded = ParametricFokkerPlanck.load(path)
    np.testing.assert_array_equal(model.sample(5, 0.1), loaded.sample(5, 0.1))
    assert loaded.scheme is None
    with pytest.raises(AttributeError, match="potential_ is missing.*fit again"):
        loaded.potential_  # noqa: B018


def test_files_of_others_are_refused(tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    path = str(tmp_path / "other.safetensors")
    safetensors.save_file({"x": np.zeros(2)}, path)
    with pytest.raises(ValueError, match="not one of skfokker's"):
        ParametricFokkerPlanck.load(path)
    newer = {"format": "skfokker", "format_version": "99", "skfokker_version": "9.0"}
    safetensors.save_file({"x": np.zeros(2)}, path, metadata=newer)
    with pytest.raises(ValueError, match="skfokker 9.0 in format 99.*upgrade"):
        ParametricFokkerPlanck.load(path)


# -------------------------------------------------------------------- other ways


@pytest.mark.parametrize("version", range(1, persistence.STATE_VERSION + 1))
def test_files_of_every_released_state_version(version):
    """Written by ``tests/data/make_state_<version>.py``."""
    folder = Path(__file__).parent / "data"
    model = joblib.load(folder / f"state_{version}.joblib")
    expected = np.load(folder / f"state_{version}.npz")
    np.testing.assert_allclose(model.sample(4, 0.2), expected["samples"], rtol=1e-12)
    log_density = model.log_density([[0.0, 0.0], [1.0, -1.0]], 0.3)
    np.testing.assert_allclose(log_density, expected["log_density"], rtol=1e-12)
    assert model.certificate_.kl() < 1e-3


def test_skops_keeps_every_bit():
    skops = pytest.importorskip("skops.io")
    model = ParametricFokkerPlanck(random_state=0).fit(Quadratic([1.0, 0.0]), 0.1)
    data = skops.dumps(model)
    types = skops.get_untrusted_types(data=data)
    assert all(name.startswith("skfokker.") for name in types)
    loaded = skops.loads(data, trusted=types)
    np.testing.assert_array_equal(loaded.sample(5, 0.03), model.sample(5, 0.03))
    assert loaded.certificate_.kl() == model.certificate_.kl() and str(loaded) == str(model)


def test_the_map_as_a_torch_module(fitted, tmp_path):
    module, other = fitted.to_torch(0.13), fitted.to_torch(0.0)
    torch.save(module.state_dict(), tmp_path / "module.pt")
    other.load_state_dict(torch.load(tmp_path / "module.pt", weights_only=True))
    x = torch.tensor(X)
    np.testing.assert_array_equal(other.inverse(x)[0], fitted.transform(X, 0.13))
    np.testing.assert_array_equal(other(x)[0], fitted.inverse_transform(X, 0.13))
    np.testing.assert_array_equal(other.law().log_prob(x), fitted.log_density(X, 0.13))


def coupled(x):
    """Of three coordinates that interact."""
    return 0.5 * x.square().sum(1) + 0.5 * torch.cos(x[:, :-1] * x[:, 1:]).sum(1)


@pytest.mark.parametrize("flow", [None, "splines"])
def test_conditional_densities_keep_every_bit(flow, tmp_path):
    """Of the default where coordinates interact, functions included, in every way to keep it."""
    d = 3 if flow is None else 2
    flow = conditional(d, flow) if flow else None
    settings = {"n_features": d, "random_state": 0, "tol": 1e3, "t_final": 0.01}
    model = ParametricFokkerPlanck(flow, **settings).fit(coupled)
    assert isinstance(model.flow_, ConditionalFlow) and model.flow_.chosen
    joblib.dump(model, tmp_path / "model.joblib", compress=3)
    loaded = [pickle.loads(pickle.dumps(model)), joblib.load(tmp_path / "model.joblib")]
    loaded += [copy.deepcopy(model), copy.copy(model)]
    assert all(str(other.plan_) == str(model.plan_) for other in loaded)
    if importlib.util.find_spec("safetensors"):
        with pytest.warns(UserWarning, match="Left out.*potential_"):
            model.save(tmp_path / "model.safetensors")
        loaded.append(ParametricFokkerPlanck.load(tmp_path / "model.safetensors"))
        assert loaded[-1].plan_ is None
    x = np.random.default_rng(0).normal(size=(20, d))
    for other in loaded:
        np.testing.assert_array_equal(model.sample(5, 0.003), other.sample(5, 0.003))
        for method in ("log_density", "grad_log_density", "velocity", "transform"):
            answers = [getattr(m, method)(x, 0.007) for m in (model, other)]
            np.testing.assert_array_equal(*answers)
        assert safe_format.encode(other.flow_) == safe_format.encode(clone(model.flow_))


def hostile_files():
    """Metadata that a file of this package would never have, by what is changed."""
    flow = {"component": "ElementwiseFlow", "params": {"n_intervals": 10**9}}
    yield "params", {"beta": -1.0}
    yield "params", {"nonsense": 1}
    yield "params", {"flow": {"component": "os.system", "params": {"command": "true"}}}
    yield "params", {"flow": {"component": "Quadratic", "params": {"mean": 0.0}}}
    yield "params", {"initial": {"array": [[0]], "dtype": "V1000000000"}}
    yield "params", {"initial": {"array": [[0]], "dtype": "object"}}
    yield "params", []
    yield "fitted", {"flow_": flow}
    basis = ["polynomials", -1.0, 1.0, 10**9]
    params = {"own": [basis, basis], "features": [basis, basis], "groups": [[[[], [], 1]]] * 2}
    yield "fitted", {"flow_": {"component": "ConditionalFlow", "params": params}}
    yield "fitted", {"n_features_in_": 10**12}
    yield "fitted", {"n_features_in_": "2"}
    yield "fitted", {"t_final_": float("nan")}
    yield "fitted", {"history_": []}
    yield "fitted", {"sample": "code"}
    yield "fitted", {"potential_": {"component": "AffineFlow", "params": {}}}
    yield "fitted", {"interrupted_": "DEEP"}


@pytest.mark.parametrize(("part", "change"), list(hostile_files()))
def test_hostile_files_are_refused(tmp_path, part, change):
    safetensors = pytest.importorskip("safetensors.numpy")
    arrays = {
        name: np.zeros((2, AffineFlow().n_parameters(2))) for name in ("thetas_", "velocities_")
    }
    arrays["times_"] = np.array([0.0, 1.0])
    affine = {"component": "AffineFlow", "params": {"diagonal": False}}
    fitted = {"n_features_in_": 2, "t_final_": 1.0, "initial_error_": 0.0, "interrupted_": False}
    content = {"params": {}, "fitted": fitted | {"history_": 2 * [{"dict": {}}], "flow_": affine}}

    def write(path):
        text = json.dumps(content).replace('"DEEP"', 10_000 * "[" + 10_000 * "]")
        metadata = {"format": "skfokker", "format_version": "1", "skfokker_version": "1"}
        metadata |= {"content": text, "digest": safe_format._digest(text, arrays)}
        safetensors.save_file(arrays, path, metadata=metadata)

    write(tmp_path / "good")
    assert ParametricFokkerPlanck.load(tmp_path / "good").sample(3).shape == (3, 2)
    content[part] = content[part] | change if isinstance(change, dict) else change
    write(tmp_path / "bad")
    with pytest.raises(ValueError, match="bad is damaged, or was not written by skfokker"):
        ParametricFokkerPlanck.load(tmp_path / "bad")


def test_random_bytes_are_refused(tmp_path):
    pytest.importorskip("safetensors")
    rng, path = np.random.default_rng(0), tmp_path / "noise"
    for k in range(200):
        data = rng.bytes(int(rng.integers(0, 400)))
        path.write_bytes((len(data) // 2).to_bytes(8, "little") + data if k % 2 else data)
        with pytest.raises(ValueError, match="noise is damaged"):
            ParametricFokkerPlanck.load(path)
