"""
Many fits at once
=================

Fits over diffusion coefficients, potentials and seeds through joblib: on the cores of this machine
(loky), or on the workers of dask or ray where they are installed. A fit gives the same bits
wherever it is run::

    python examples/sweep.py                    # in turn, and by every backend found
    python examples/sweep.py loky dask          # by these
"""

import importlib.util
import sys
import time
import warnings
from contextlib import contextmanager
from itertools import product

import joblib
import numpy as np
import torch

from skfokker import ParametricFokkerPlanck
from skfokker.potentials import Quadratic
from skfokker.schemes import LeastSquaresNested

N_JOBS = 2


def tilted(x):
    """A function of a module can be sent to other processes; a lambda only by loky."""
    return 0.25 * (x**4).sum(1) - 0.5 * x.square().sum(1) + 0.3 * x[:, 0]


POTENTIALS = {"quadratic": Quadratic([1.0, 2.0]), "tilted": tilted}
SWEEP = list(product(POTENTIALS, (0.5, 1.0), (0, 1)))


def fit(name, beta, seed):
    """One fit, by whichever worker: its certificate and the log density at some points."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # a core a fit
    potential = POTENTIALS[name]
    d = None if hasattr(potential, "n_features_in_") else 1
    scheme = LeastSquaresNested(max_step=0.02)
    model = ParametricFokkerPlanck(
        scheme=scheme, beta=beta, n_features=d, random_state=seed, tol=1.0
    )
    model.fit(potential, t_final=0.1)
    x = np.linspace(-1, 1, 20 * model.n_features_in_).reshape(20, -1)
    return model.certificate_.kl(), model.log_density(x)


@contextmanager
def backend(name):
    """The joblib backend of that name, with what it needs around it."""
    if name == "dask":
        from dask.distributed import Client

        with Client(n_workers=N_JOBS, threads_per_worker=1, dashboard_address=None):
            with joblib.parallel_config("dask"):
                yield
    elif name == "ray":
        import ray
        from ray.util.joblib import register_ray

        ray.init(num_cpus=N_JOBS, include_dashboard=False, log_to_driver=False)
        register_ray()
        with joblib.parallel_config("ray", n_jobs=N_JOBS):
            yield
        ray.shutdown()
    else:
        with joblib.parallel_config(name, n_jobs=N_JOBS):
            yield


def main(names):
    """All fits in turn, then by each backend, compared."""
    needs = {"dask": "dask[distributed]", "ray": "ray"}
    missing = [n for n in names if n in needs and importlib.util.find_spec(n) is None]
    if missing:
        sys.exit(f"the backends {missing} need packages: pip install "
                 + " ".join(f"'{needs[n]}'" for n in missing))  # fmt: skip
    before = time.perf_counter()
    reference = [fit(*settings) for settings in SWEEP]
    print(f"{'backend':12}{'jobs':>5}{'fits':>6}{'seconds':>9}  largest difference")
    print(f"{'in turn':12}{1:>5}{len(SWEEP):>6}{time.perf_counter() - before:>9.1f}")
    for name in names:
        with backend(name):
            before = time.perf_counter()
            results = joblib.Parallel()(joblib.delayed(fit)(*settings) for settings in SWEEP)
            seconds = time.perf_counter() - before
        pairs = zip(results, reference, strict=True)
        worst = max(np.abs(ours[1] - theirs[1]).max() for ours, theirs in pairs)
        print(f"{name:12}{N_JOBS:>5}{len(SWEEP):>6}{seconds:>9.1f}  {worst:.1e}", flush=True)
    print(f"\n{'potential':12}{'beta':>6}{'seed':>6}  certified KL")
    for (name, beta, seed), (kl, _) in zip(SWEEP, reference, strict=True):
        print(f"{name:12}{beta:>6}{seed:>6}  {kl:.1e}")


if __name__ == "__main__":
    installed = [name for name in ("dask", "ray") if importlib.util.find_spec(name)]
    main(sys.argv[1:] or ["loky", *installed])
