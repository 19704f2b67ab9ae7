"""What a fit leaves alone, and where it may run: globals, threads, forks, workers, clones."""

import copy
import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sklearn.base import clone
from stand_in import RungeKutta
from torch.distributions import (
    AffineTransform,
    Categorical,
    Dirichlet,
    Distribution,
    Gamma,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
    Normal,
    StudentT,
    TransformedDistribution,
)

from skfokker import Gaussian, ParametricFokkerPlanck
from skfokker.bayes import PosteriorSampler, TorchLogDensity, sample_posterior
from skfokker.flows import AffineFlow
from skfokker.initial import initial_draws
from skfokker.potentials import DistributionPotential, GaussianMixture, Quadratic
from skfokker.seeded import Seeded

TWO = MixtureSameFamily(
    Categorical(torch.ones(2)),
    MultivariateNormal(torch.tensor([[0.0, 0.0], [1.0, 1.0]]), 0.3 * torch.eye(2)),
)


def gamma_and_normal(x):
    # not even defined for x < 0, which torch says by an exception
    return Gamma(3.0, torch.tensor(1.0).double()).log_prob(x[:, 0].exp()) + x[:, 0] - x[:, 1] ** 4


def fit_march(_):
    model = ParametricFokkerPlanck(AffineFlow(), initial=TWO, random_state=0, tol=10.0)
    model.fit(Quadratic([1.0, 0.0]), t_final=0.02)
    return model.thetas_, model.posterior(200).log_p


def evaluate_outside(_):
    x = torch.tensor([[-1.0], [1.0], [2.0]], dtype=torch.float64)
    potential = TorchLogDensity(lambda x: Gamma(2.0, 1.0).log_prob(x[:, 0]), 1)
    return np.array([potential(x + 0.01 * k).nan_to_num(7.0).numpy() for k in range(200)])


def draw(seed):
    return initial_draws(TWO, 2, 1000, torch.Generator().manual_seed(3))[0].numpy()


def global_state():
    return (
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        Distribution._validate_args,
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        np.geterr(),
    )


@pytest.mark.parametrize(
    "work",
    [
        lambda: fit_march(0),
        lambda: sample_posterior(gamma_and_normal, 2, random_state=0, tolerance=0.1, n_draws=100),
        lambda: evaluate_outside(0),
    ],
    ids=["march", "posterior", "outside"],
)
def test_no_global_is_touched(work):
    before = global_state()
    work()
    assert global_state() == before


def test_no_global_is_touched_while_code_of_users_runs():
    before, seen = global_state(), []

    def log_density(x):
        seen.append((torch.get_rng_state().tolist(), Distribution._validate_args))
        return -0.5 * x.square().sum(1)

    sample_posterior(log_density, 2, random_state=0, tolerance=0.1, n_draws=100)
    assert seen and all(state == (before[0], before[3]) for state in seen)


@pytest.mark.parametrize(
    "work", [pytest.param(fit_march, marks=pytest.mark.slow), evaluate_outside, draw]
)
def test_eight_threads_give_the_bits_of_one(work):
    alone = work(0)
    with ThreadPoolExecutor(8) as pool:
        for result in pool.map(work, range(8)):
            for a, b in zip(alone, result, strict=True):
                np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "law",
    [
        Normal(0.0, 1.0),
        Gamma(2.0, torch.ones(3)),
        StudentT(3.0),
        Dirichlet(torch.ones(3)),
        TWO,
        TransformedDistribution(Normal(0.0, 1.0), AffineTransform(1.0, 2.0)),
    ],
    ids=str,
)
def test_seeded_draws_are_those_of_manual_seed(law):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        expected = law.sample((20,))
    before = torch.get_rng_state()
    with Seeded(7):
        assert torch.equal(law.sample((20,)), expected)
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------ processes


def run_script(text, *, threads):
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_after_threads_have_run_does_not_hang():
    done = run_script(
        """
        import multiprocessing
        import numpy as np
        import torch
        from skfokker import ParametricFokkerPlanck
        from skfokker.potentials import DoubleWell

        torch.set_num_threads(2)
        fit = ParametricFokkerPlanck(random_state=0).fit(DoubleWell(d=2), t_final=0.01)
        x = fit.sample(30_000)
        expected = fit.log_density(x)
        with multiprocessing.get_context("fork").Pool(2) as pool:
            parts = pool.map_async(fit.log_density, np.array_split(x, 4)).get(timeout=60)
        assert np.abs(np.concatenate(parts) - expected).max() < 1e-12
        assert torch.get_num_threads() == 2
        """,
        threads=2,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_workers_bring_functions_of_the_script_back():
    done = run_script(
        """
        import warnings
        from joblib import Parallel, delayed
        import torch
        from skfokker import ParametricFokkerPlanck

        def well(x):
            return 0.25 * (x**4).sum(1)

        def solve(potential):
            torch.set_num_threads(1)
            model = ParametricFokkerPlanck(n_features=1, random_state=0)
            return model.fit(potential, t_final=0.01)

        warnings.simplefilter("error")
        tasks = [delayed(solve)(potential) for potential in (well, lambda x: 2 * well(x))]
        for fit in Parallel(n_jobs=2)(tasks):
            assert fit.posterior(100).log_p.shape == (100,)
        """,
        threads=1,
    )
    assert done.returncode == 0, done.stderr


class Locked:
    """Cannot be pickled in any way."""

    n_features_in_ = 1

    def __call__(self, x):
        return 0.5 * x.square().sum(1)

    def __reduce__(self):
        raise TypeError("holds a lock")


def test_what_a_worker_cannot_send_back_is_named_by_the_receiver(monkeypatch):
    model = ParametricFokkerPlanck(random_state=0).fit(Locked(), t_final=0.01)
    monkeypatch.setattr(multiprocessing.current_process(), "_name", "ForkPoolWorker-1")
    with pytest.warns(UserWarning, match="left out"):
        sent = pickle.dumps(model)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="worker process.*potential_ = .*holds a lock"):
        received = pickle.loads(sent)
    assert received.sample(3).shape == (3, 1)
    assert "_dropped_in_worker" not in vars(received)


# ------------------------------------------------------------------ tensors of a graph


def in_a_graph(*values):
    return 2 * torch.tensor(values, requires_grad=True)


@pytest.mark.parametrize(
    "initial",
    [
        lambda m: MultivariateNormal(m, torch.eye(2)),
        lambda m: Independent(Normal(m, torch.ones(2)), 1),
        lambda m: (m, torch.eye(2)),
        lambda m: Gaussian(m, 1.0),
        lambda m: TransformedDistribution(
            MultivariateNormal(torch.zeros(2), torch.eye(2)), AffineTransform(m, 1.0, 1)
        ),
        lambda m: [m, m + 1],
    ],
)
@pytest.mark.parametrize("duplicate", [clone, copy.deepcopy])
def test_clones_of_what_holds_tensors_of_a_graph(initial, duplicate):
    mean = in_a_graph(0.5, 0.25)
    model = ParametricFokkerPlanck(
        AffineFlow(), RungeKutta(2), initial=initial(mean), random_state=0
    )
    new = duplicate(model)
    assert mean.requires_grad and new.initial is not model.initial
    if not isinstance(new.initial, list):
        fits = [
            m.set_params(tol=10.0).fit(Quadratic([0.0, 0.0]), t_final=0.1) for m in (model, new)
        ]
        np.testing.assert_array_equal(fits[0].thetas_, fits[1].thetas_)


def test_clones_of_components():
    mean = in_a_graph(0.5, 0.25)
    x = torch.randn(3, 2, dtype=torch.float64)
    for potential in (
        Quadratic(mean),
        GaussianMixture(mean[None]),
        DistributionPotential(MultivariateNormal(mean, torch.eye(2))),
    ):
        torch.testing.assert_close(clone(potential)(x), potential(x))
    clone(PosteriorSampler(start=(mean, 1.0)))
    assert mean.requires_grad and not mean.is_leaf
