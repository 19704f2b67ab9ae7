"""Many fits through joblib; slow potentials, counted and interrupted."""

import signal
import threading
import time

import joblib
import numpy as np
import pytest
import torch

from skfokker import ParametricFokkerPlanck
from skfokker.flows import AffineFlow
from skfokker.schemes import LeastSquaresNested


def bowl(x):
    return x.square().sum(1)


def small_fit(potential, seed):
    model = ParametricFokkerPlanck(
        AffineFlow(), LeastSquaresNested(max_step=0.05), n_features=1, random_state=seed, tol=1.0
    )
    return model.fit(potential, t_final=0.1)


def test_fits_on_two_workers_give_the_bits_of_one():
    """Of a function of a module, and of a lambda, which loky can send too."""
    potentials = (bowl, lambda x: 2 * x.square().sum(1))
    tasks = [joblib.delayed(densities)(potential, 0) for potential in potentials]
    found = joblib.Parallel(n_jobs=2, backend="loky")(tasks)
    for result, (function, arguments, _) in zip(found, tasks, strict=True):
        np.testing.assert_array_equal(result, function(*arguments))


def densities(potential, seed):
    torch.set_num_threads(1)
    x = np.linspace(-1, 1, 5)[:, None]
    return small_fit(potential, seed).log_density(x)


@pytest.fixture
def sigint():
    """SIGINT raises KeyboardInterrupt, also in a process that was started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("sigint")
def test_ctrl_c_while_the_potential_sleeps():
    """The steps made so far are kept, and the signal is not lost in the user's code."""
    calls = 0

    def slow(x):
        nonlocal calls
        calls += 1
        if calls == 166:  # in the march, after the looks at V
            main = threading.main_thread().ident
            threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGINT]).start()
            time.sleep(30)
        return bowl(x)

    begun = time.monotonic()
    model = ParametricFokkerPlanck(AffineFlow(), n_features=1, random_state=0, tol=1.0)
    with pytest.warns(UserWarning, match="Interrupted at t"):
        model.fit(slow, t_final=0.1)
    assert time.monotonic() - begun < 20
    assert model.interrupted_ and 0 < model.t_final_ < 0.1
