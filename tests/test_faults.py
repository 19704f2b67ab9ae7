"""What happens to long fits: kills, full disks, damaged files, potentials that fail half-way."""

import errno
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
import torch
from stand_in import RungeKutta, conditional

from skfokker import ParametricFokkerPlanck, safe_format
from skfokker.checkpoint import Checkpoints
from skfokker.corrector import ParticleCorrector
from skfokker.flows import AffineFlow
from skfokker.potentials import PotentialError, Quadratic
from skfokker.schemes import ScoreDualNested
from skfokker.schemes.score_duals import _March

pytest.importorskip("safetensors")

FLOW = AffineFlow()


def well(x):
    """Not quadratic, and not a sum over coordinates."""
    return 0.25 * (x**4).sum(1) - x[:, 0] * x[:, 1]


class Trouble:
    """A potential that does something at its n-th call during a fit."""

    n_features_in_ = 2

    def __init__(self, call, what):
        self.left, self.what = call, what

    def __call__(self, x):
        self.left -= 1
        return self.what(x) if self.left == 0 else well(x)


def raise_error(x):
    raise RuntimeError("the licence server is gone")


def press_ctrl_c(x):
    raise KeyboardInterrupt


def count_calls(**fit):
    trouble = Trouble(10**9, None)
    model = estimator().fit(trouble, **fit)
    return model, 10**9 - trouble.left


def estimator(**params):
    settings = {"flow": FLOW, "scheme": None, "random_state": 0, "tol": 10.0, "t_final": 0.2}
    return ParametricFokkerPlanck(**settings | {"n_features": 2} | params)


def assert_same(model, other):
    for name in ("times_", "thetas_", "velocities_"):
        np.testing.assert_array_equal(getattr(model, name), getattr(other, name))
    np.testing.assert_array_equal(model.sample(5, 0.07), other.sample(5, 0.07))
    assert model.certificate_.kl() == other.certificate_.kl()
    assert model.initial_error_ == other.initial_error_
    plain = [
        [{k: v for k, v in record.items() if k != "wall_time"} for record in m.history_]
        for m in (model, other)
    ]
    assert plain[0] == plain[1]
    assert not other.interrupted_


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A fit with checkpoints that nothing happened to, and its number of calls."""
    path = tmp_path_factory.mktemp("whole") / "march.ckpt"
    return count_calls(checkpoint=path)


# -------------------------------------------------------------------- resuming


@pytest.mark.parametrize("fraction", [0.3, 0.55])  # beyond that the march is certified
@pytest.mark.parametrize("what", [raise_error, press_ctrl_c], ids=["exception", "ctrl-c"])
def test_resuming_gives_the_same_bits(whole, tmp_path, fraction, what):
    path = tmp_path / "march.ckpt"
    model, trouble = estimator(), Trouble(int(fraction * whole[1]), what)
    if what is raise_error:
        with pytest.raises(RuntimeError, match="licence server"):
            model.fit(trouble, checkpoint=path)
    else:
        with pytest.warns(UserWarning, match=r"Interrupted at t = .* of 0\.2"):
            model.fit(trouble, checkpoint=path)
    assert model.interrupted_ and 0 < model.t_final_ < 0.2
    assert np.isfinite(model.log_density(np.zeros((1, 2)))).all()
    so_far = ParametricFokkerPlanck.load(path)
    assert so_far.interrupted_ and 0 < so_far.t_final_ <= model.t_final_
    np.testing.assert_array_equal(so_far.sample(3), model.sample(3, so_far.t_final_))
    assert_same(whole[0], estimator().fit(well, resume=path))
    assert list(tmp_path.iterdir()) == [path]


def test_resume_true_starts_where_there_is_nothing_yet(whole, tmp_path):
    path = tmp_path / "march.ckpt"
    with pytest.raises(RuntimeError):
        estimator().fit(Trouble(int(0.5 * whole[1]), raise_error), checkpoint=path, resume=True)
    assert_same(whole[0], estimator().fit(well, checkpoint=path, resume=True))
    with pytest.raises(ValueError, match="resume=True.*checkpoint is None"):
        estimator().fit(well, resume=True)


def test_resuming_a_continued_march_of_a_scheme_without_velocities(tmp_path):
    def settings(**params):
        scheme = RungeKutta(8, with_velocity=False)
        return estimator(flow=AffineFlow(), scheme=scheme, warm_start=True, **params)

    def early():
        return settings().fit(well, 0.1)

    whole = early().fit(well, 0.2, checkpoint=tmp_path / "a", checkpoint_interval=0.03)
    broken = early()
    with pytest.raises(RuntimeError):
        broken.fit(
            Trouble(196, raise_error),
            0.2,
            checkpoint=tmp_path / "b",
            checkpoint_interval=0.03,
        )
    assert 0.1 < ParametricFokkerPlanck.load(tmp_path / "b").t_final_ < 0.2
    assert_same(whole, settings().fit(well, resume=tmp_path / "b"))


@pytest.mark.slow
def test_refinements_are_resumed_too(tmp_path, monkeypatch):
    attempts, calls, begin = [], [], Checkpoints.begin

    def count(self, *args):
        attempts.append(args)
        calls.clear()
        begin(self, *args)

    def quartic(x):
        return 0.25 * (x**4).sum(1)

    def broken(x):
        calls.append(len(x))
        return raise_error(x) if len(attempts) == 2 and len(calls) > 250 else quartic(x)

    def fit(potential, **options):
        attempts.clear()
        model = ParametricFokkerPlanck(tol=1e-12, t_final=0.3, n_features=1, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return model.fit(potential, **options)

    monkeypatch.setattr(Checkpoints, "begin", count)
    whole = fit(quartic, checkpoint=tmp_path / "a")
    assert len(attempts) == 3
    first = fit(broken, checkpoint=tmp_path / "b")
    assert len(attempts) == 2 and not first.interrupted_  # the fit before is kept
    assert first.certificate_.kl() > whole.certificate_.kl() > 0
    assert_same(whole, fit(quartic, resume=tmp_path / "b"))


def test_a_certificate_that_cannot_be_computed_loses_no_march():
    whole, n_calls = count_calls()
    with pytest.warns(UserWarning, match="march is complete.*certificate_ is None.*licence"):
        model = estimator().fit(Trouble(n_calls - 5, raise_error))
    assert model.certificate_ is None and not model.interrupted_
    np.testing.assert_array_equal(model.thetas_, whole.thetas_)


@pytest.fixture(scope="module")
def cheap(tmp_path_factory):
    """A fit, and its checkpoint."""
    path = tmp_path_factory.mktemp("cheap") / "march.ckpt"
    return estimator(scheme=RungeKutta(20)).fit(well, checkpoint=path), path


@pytest.mark.parametrize(
    ("change", "potential", "message"),
    [
        ({"beta": 2.0}, well, "a fit with beta=1.0, but this estimator has beta=2.0"),
        ({"flow": AffineFlow(True)}, well, r"with flow=.*this estimator has flow=Aff.*al=True"),
        ({}, lambda x: (x**2).sum(1), "to another potential"),
        ({"n_features": 2}, Quadratic([0.0, 1.0]), "to another potential"),
    ],
)
def test_checkpoints_of_another_fit_are_refused(cheap, change, potential, message):
    with pytest.raises(ValueError, match=message):
        estimator(scheme=RungeKutta(20), **change).fit(potential, resume=cheap[1])


def test_what_is_no_checkpoint_of_this_fit_is_refused(cheap, tmp_path):
    model, checkpoint = cheap
    with pytest.raises(ValueError, match="on its way to t_final=0.2, not to 0.5"):
        estimator(scheme=RungeKutta(20)).fit(well, t_final=0.5, resume=checkpoint)
    with pytest.raises(FileNotFoundError):
        estimator().fit(well, resume=tmp_path / "nothing")
    path = tmp_path / "finished"
    with pytest.warns(UserWarning, match="Left out"):
        model.save(path)
    with pytest.raises(ValueError, match="a finished model, not a checkpoint"):
        estimator().fit(well, resume=path)


def test_bad_arguments(tmp_path):
    for interval in (0.0, -1.0, "often", float("nan")):
        with pytest.raises(ValueError, match="checkpoint_interval must be a positive model time"):
            estimator().fit(well, checkpoint=tmp_path / "a", checkpoint_interval=interval)
    with pytest.raises(FileNotFoundError, match="folder .* does not exist"):
        estimator().fit(well, checkpoint=tmp_path / "no" / "where")


# -------------------------------------------------------------------- kills

KILLED = """
    import os, signal, sys
    import torch
    torch.set_num_threads(1)
    from skfokker import ParametricFokkerPlanck, safe_format
    from skfokker.flows import AffineFlow

    where, path, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    count = 0

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def well(x):
        global count
        count += 1
        if where == "step" and count == n:
            die()
        return 0.25 * (x**4).sum(1) - x[:, 0] * x[:, 1]

    if where == "write":  # half of the file is on the disk when the process dies
        def fsync(handle, writes=[]):
            writes.append(handle)
            if len(writes) == n:
                os.ftruncate(handle, os.fstat(handle).st_size // 2)
                die()
        os.fsync = fsync

    flow = AffineFlow()
    model = ParametricFokkerPlanck(flow, n_features=2, random_state=0, tol=10.0, t_final=0.2)
    model.fit(well, checkpoint=path)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["step", "write"])
def test_a_killed_process_loses_nothing_before_its_last_checkpoint(whole, tmp_path, where):
    path = tmp_path / "march.ckpt"
    n = int(0.5 * whole[1]) if where == "step" else 4
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), where, path, str(n)], capture_output=True
    )
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    assert 0 < ParametricFokkerPlanck.load(path).t_final_ < 0.2
    assert_same(whole[0], estimator().fit(well, resume=path))


# -------------------------------------------------------------------- disks


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_does_not_stop_the_fit(whole, tmp_path, monkeypatch, call):
    path, real, writes = tmp_path / "march.ckpt", getattr(os, call), []

    def full(*args):
        writes.append(args)
        if len(writes) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    monkeypatch.setattr(os, call, full)
    with pytest.warns(RuntimeWarning, match=r"could not be written at t = .*No space left.*good"):
        model = estimator().fit(well, checkpoint=path)
    assert_same(whole[0], model)
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    assert_same(whole[0], estimator().fit(well, resume=path))


def test_saving_on_a_full_disk_keeps_the_file_there(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    model = estimator(scheme=RungeKutta(2)).fit(Quadratic([0.0, 1.0]))
    model.scheme = model.scheme_ = None
    model.save(path)
    before = path.read_bytes()

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        model.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


# -------------------------------------------------------------------- damaged and hostile files


@pytest.fixture(scope="module")
def checkpoint_bytes(tmp_path_factory):
    path = tmp_path_factory.mktemp("bytes") / "march.ckpt"
    model = estimator(flow=AffineFlow(), scheme=None).fit(Quadratic([1.0, 0.0]), checkpoint=path)
    assert model.t_final_ == 0.2
    return path.read_bytes()


def test_truncated_and_corrupted_checkpoints_are_refused(checkpoint_bytes, tmp_path):
    path, rng = tmp_path / "march.ckpt", np.random.default_rng(0)
    damaged = [checkpoint_bytes[:n] for n in (0, 1, 8, 100, len(checkpoint_bytes) - 1)]
    for position in rng.integers(0, len(checkpoint_bytes), 300):
        data = bytearray(checkpoint_bytes)
        data[position] ^= 1 << rng.integers(8)
        damaged.append(bytes(data))
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            ParametricFokkerPlanck.load(path)
        except ValueError as error:
            assert "march.ckpt" in str(error)
            refused += 1
    assert refused >= len(damaged) - 3  # a bit in the name of the version is no harm
    path.write_bytes(checkpoint_bytes[:-1])
    with pytest.raises(ValueError, match="is damaged, or was not written by skfokker"):
        estimator().fit(Quadratic([1.0, 0.0]), resume=path)


# -------------------------------------------------------------------- potentials that fail


def test_a_potential_that_turns_nan_leaves_the_model_where_it_was():
    class Decaying(Trouble):
        def __call__(self, x):
            self.left -= 1
            return well(x) if self.left > 0 else well(x) * torch.nan

    model = estimator()
    with pytest.raises(PotentialError, match=r"returned NaN at x = .*t = 0\.") as caught:
        model.fit(Decaying(166, None))
    assert model.interrupted_ and 0 < model.t_final_ < 0.2
    if sys.version_info >= (3, 11):
        assert "fitted up to there. Set warm_start=True" in caught.value.__notes__[0]
    model.set_params(warm_start=True).fit(well)
    assert model.t_final_ == 0.2 and not model.interrupted_
    np.testing.assert_allclose(
        model.log_density(np.zeros((1, 2))),
        estimator().fit(well).log_density(np.zeros((1, 2))),
        atol=2e-3,
    )


def test_a_failure_before_the_first_step_leaves_an_earlier_fit_alone(tmp_path):
    model = estimator(flow=AffineFlow(), scheme=RungeKutta(4)).fit(Quadratic([1.0, 0.0]))
    draws = model.sample(3)
    with pytest.raises(RuntimeError, match="licence server"):
        model.fit(Trouble(11, raise_error))
    np.testing.assert_array_equal(model.sample(3), draws)


def test_a_potential_that_is_not_deterministic_is_refused():
    def minibatch(x):
        return (x**2).sum(1) * torch.rand(())

    with pytest.raises(ValueError, match="not deterministic.*mini-batch.*dropout"):
        estimator().fit(minibatch)


def test_atomic_writes(tmp_path):
    path = tmp_path / "file"
    safe_format.replace_file(path, b"one")
    safe_format.replace_file(path, b"two")
    assert path.read_bytes() == b"two" and list(tmp_path.iterdir()) == [path]


# -------------------------------------------------------------------- marches by scores


@pytest.mark.parametrize(
    ("d", "kind"),
    [pytest.param(3, "polynomials", marks=pytest.mark.slow), (2, "splines")],
)
@pytest.mark.parametrize("what", [raise_error, press_ctrl_c], ids=["exception", "ctrl-c"])
def test_resuming_a_march_by_scores_gives_the_same_bits(tmp_path, monkeypatch, d, kind, what):
    """Points drawn anew in every step, or a quadrature that asks V before the march only."""

    def model():
        scheme = ScoreDualNested(n_samples=256, max_step=0.01)
        return estimator(flow=conditional(d, kind), scheme=scheme, n_features=d)

    often = {"checkpoint_interval": 0.07}
    whole = model().fit(well, checkpoint=tmp_path / "a", **often)
    path, calls = tmp_path / "b", []
    evaluate = _March.evaluate

    def troubled(self, theta, *rest, **options):
        calls.append(theta)
        return what(theta) if len(calls) == 40 else evaluate(self, theta, *rest, **options)

    monkeypatch.setattr(_March, "evaluate", troubled)
    if what is raise_error:
        with pytest.raises(RuntimeError, match="licence server"):
            model().fit(well, checkpoint=path, **often)
    else:
        with pytest.warns(UserWarning, match=r"Interrupted at t = .* of 0\.2"):
            model().fit(well, checkpoint=path, **often)
    assert 0 < ParametricFokkerPlanck.load(path).t_final_ < 0.2
    assert_same(whole, model().fit(well, resume=path))


@pytest.mark.slow
def test_a_march_is_resumed_with_the_functions_it_was_begun_with(tmp_path, monkeypatch):
    """Without a seed they would be chosen otherwise."""
    path, calls, evaluate = tmp_path / "march.ckpt", [], _March.evaluate

    def troubled(self, theta, *rest, **options):
        calls.append(theta)
        return press_ctrl_c(theta) if len(calls) == 40 else evaluate(self, theta, *rest, **options)

    model = estimator(flow=None, n_features=3, random_state=None, t_final=0.02)
    monkeypatch.setattr(_March, "evaluate", troubled)
    with pytest.warns(UserWarning, match="Interrupted"):
        model.fit(chain, checkpoint=path, checkpoint_interval=5e-3)
    k = len(ParametricFokkerPlanck.load(path).times_)
    resumed = estimator(flow=None, n_features=3, random_state=None, t_final=0.02)
    resumed.fit(chain, resume=path)
    assert str(resumed.flow_) == str(model.flow_) and resumed.t_final_ == 0.02
    assert "resumed" in str(resumed.plan_)
    np.testing.assert_array_equal(resumed.thetas_[:k], model.thetas_[:k])


def chain(x):
    """Coordinates that interact with their neighbours."""
    return 0.5 * x.square().sum(1) + 0.5 * torch.cos(x[:, :-1] * x[:, 1:]).sum(1)


def test_ctrl_c_returns_at_once_and_the_certificate_is_computed_on_demand(monkeypatch):
    from skfokker import solver as module

    n = count_calls()[1]
    asked = []
    compute = module.certify_with_opening

    def certify(*args, **known):
        asked.append(len(args[0].times))
        if len(asked) == 1:
            raise KeyboardInterrupt
        return compute(*args, **known)

    monkeypatch.setattr(module, "certify_with_opening", certify)
    model = estimator(initial=([1.0, 0.0], 0.5))
    with pytest.warns(UserWarning, match="Interrupted at t = "):
        model.fit(Trouble(n // 3, press_ctrl_c))
    assert model.interrupted_ and 0 < model.t_final_ < 0.2 and not asked
    copy = pickle.loads(pickle.dumps(model.set_params(flow=FLOW)))
    assert copy.certificate_ is None
    with pytest.raises(KeyboardInterrupt):  # the second one
        _ = model.certificate_
    assert 0 < model.certificate_.kl() < 1 and len(asked) == 2
    assert model.certificate_ is model.certificate_ and len(asked) == 2


def test_ctrl_c_at_the_certificate_keeps_the_whole_march(monkeypatch):
    from skfokker import solver as module

    compute, asked = module.certify_with_opening, []

    def certify(*args, **known):
        asked.append(1)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return compute(*args, **known)

    monkeypatch.setattr(module, "certify_with_opening", certify)
    model = estimator(corrector=ParticleCorrector(n_particles=100, n_steps=10))
    with pytest.warns(UserWarning, match="march is complete.*computed when it is asked for"):
        model.fit(well)
    assert model.t_final_ == 0.2 and not model.interrupted_ and model.correction_ is None
    assert model.certificate_.kl() > 0


LATENCY = """
import os, signal, sys, threading, time, warnings
warnings.simplefilter("ignore")
from skfokker import ParametricFokkerPlanck
from skfokker.potentials import Rosenbrock
model = ParametricFokkerPlanck(random_state=0)
pressed = []
def press():
    pressed.append(time.process_time())
    os.kill(os.getpid(), signal.SIGINT)
def watch():  # processor time, which other work on the machine does not pass
    start = time.process_time()
    while time.process_time() - start < float(sys.argv[1]):
        time.sleep(0.02)
    press()
threading.Thread(target=watch, daemon=True).start()
reached = 0.0
try:
    reached = model.fit(Rosenbrock(d=10), t_final=1.0).t_final_
except KeyboardInterrupt:
    pass
print(reached, time.process_time() - pressed[0])
"""


@pytest.mark.slow
def test_ctrl_c_in_every_stage_of_a_coupled_fit(capsys):
    """The first look, particles sent ahead, the march early and late, the certificate."""
    for after in (0.3, 1.0, 2.0, 5.0, 10.0, 15.0):
        run = subprocess.run(
            [sys.executable, "-c", LATENCY, str(after)], capture_output=True, text=True, timeout=600
        )
        if not run.stdout and "IndexError" in run.stderr:
            break  # the fit was done before
        reached, latency = map(float, run.stdout.split())
        with capsys.disabled():
            print(f"\n{after} s: t = {reached:.3g}, {latency:.2f} s", end="")
        assert latency < 2.0
