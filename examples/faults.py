"""
What a user sees when something goes wrong, and what is kept.

    python examples/faults.py

injects one fault after another into small fits and prints the message, how far the model is fitted
afterwards, and whether going on gives the bits of a fit that nothing happened to. About a minute.
"""

import errno
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from skfokker import ParametricFokkerPlanck
from skfokker.flows import AffineFlow

T_FINAL = 0.2


def well(x):
    return 0.25 * (x**4).sum(1) - x[:, 0] * x[:, 1]


class Trouble:
    """The well, but from its n-th call on something else."""

    def __init__(self, n, what):
        self.left, self.what = n, what

    def __call__(self, x):
        self.left -= 1
        return well(x) if self.left > 0 else self.what(x)


def gone(x):
    raise RuntimeError("the licence server is gone")


def ctrl_c(x):
    signal.raise_signal(signal.SIGINT)
    return well(x)


def estimator(**settings):
    return ParametricFokkerPlanck(
        AffineFlow(), n_features=2, random_state=0, tol=10.0, t_final=T_FINAL, **settings
    )


def seen(call):
    """The model, if any, and what was warned of or raised, in a line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model, error = call(), None
        except Exception as raised:
            model, error = None, raised
    messages = [f"{w.category.__name__}: {w.message}" for w in caught]
    if error is not None:
        messages.append(f"{type(error).__name__}: {error}")
    return model, " | ".join(messages).replace("\n", " ") or "nothing"


def report(fault, message, kept):
    print(f"\n{fault}\n    sees  {message[:400]}\n    kept  {kept}", flush=True)


def same_bits(a, b):
    same = all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("times_", "thetas_"))
    return "the same bits" if same and np.array_equal(a.sample(5), b.sample(5)) else "OTHER BITS"


def kill(path, call):
    """This script, as a process of its own that is killed in the middle of its fit."""

    def die(x):
        os.kill(os.getpid(), signal.SIGKILL)

    estimator().fit(Trouble(call, die), checkpoint=path)


def main():
    folder = Path(tempfile.mkdtemp())
    path = folder / "march.ckpt"
    calls = Trouble(10**9, None)
    whole = estimator().fit(calls, checkpoint=path)
    half = (10**9 - calls.left) // 2
    good = path.read_bytes()
    path.unlink()

    def resumed(so_far):
        after = same_bits(whole, estimator().fit(well, resume=path))
        path.unlink()
        return f"fitted to t = {so_far:.3g} of {T_FINAL}; resumed: {after}"

    run = subprocess.run(
        [sys.executable, __file__, "kill", str(path), str(half)], capture_output=True
    )
    assert run.returncode == -signal.SIGKILL
    so_far = ParametricFokkerPlanck.load(path).t_final_
    report("process killed in a step (SIGKILL)", "nothing", resumed(so_far))

    for fault, what in (("potential raises", gone), ("Ctrl-C", ctrl_c)):
        model = estimator()
        _, message = seen(lambda m=model, w=what: m.fit(Trouble(half, w), checkpoint=path))
        report(fault, message, resumed(model.t_final_))

    model = estimator(warm_start=True)
    _, message = seen(lambda: model.fit(Trouble(half, lambda x: well(x) * torch.nan)))
    so_far = model.t_final_
    model.fit(well)
    kept = f"fitted to t = {so_far:.3g}; warm_start went on to t = {model.t_final_:.3g}"
    report("potential turns NaN", message, kept)

    writes, real = [], os.fsync

    def full(handle):
        writes.append(handle)
        if len(writes) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle)

    with mock.patch("os.fsync", full):
        model, message = seen(lambda: estimator().fit(well, checkpoint=path))
    kept = f"the fit, {same_bits(whole, model)}"
    report("disk full after three checkpoints", message.split(" | ")[0], kept)

    for fault, data in (
        ("checkpoint cut off", good[:-1]),
        ("checkpoint with one bit changed", good[:-9] + bytes([good[-9] ^ 1]) + good[-8:]),
        ("random bytes", np.random.default_rng(0).bytes(4000)),
    ):
        path.write_bytes(data)
        _, message = seen(lambda: estimator().fit(well, resume=path))
        unchanged = path.read_bytes() == data
        report(fault, message.replace(str(folder) + os.sep, ""), f"the file: {unchanged}")
    path.write_bytes(good)
    _, message = seen(lambda: estimator(beta=0.5).fit(well, resume=path))
    unchanged = path.read_bytes() == good
    report("checkpoint of another fit", message.replace(str(folder) + os.sep, ""),
           f"the file: {unchanged}")  # fmt: skip

    for fault, potential in (
        ("random potential", lambda x: well(x) + torch.randn(len(x))),
        ("unbounded potential, -x^4", lambda x: -(x**4).sum(1)),
        ("wall", lambda x: torch.where(x[:, 0] > 1.5, torch.inf, x.square().sum(1))),
        ("wrong shape", lambda x: x),
        ("no gradient", lambda x: x.detach().square().sum(1)),
        ("cliff in a flat", lambda x: 1e3 * (x[:, 0] > 0).double() + 0 * x.sum(1)),
    ):
        model = ParametricFokkerPlanck(n_features=2, random_state=0, t_final=5.0)
        _, message = seen(lambda m=model, v=potential: m.fit(v))
        kept = f"fitted to t = {model.t_final_:.3g}" if hasattr(model, "t_final_") else "nothing"
        report(fault, message, kept)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["kill"]:
        kill(sys.argv[2], int(sys.argv[3]))
    else:
        main()
