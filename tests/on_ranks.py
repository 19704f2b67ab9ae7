"""What every process of a data-parallel test does: fits that succeed, then fits that fail."""

import json
import os
import signal
import sys
import time
import warnings

import numpy as np
import torch
from stand_in import conditional

from skfokker import ParametricFokkerPlanck
from skfokker.flows import AffineFlow, Composition, ElementwiseFlow, Inverse, TriangularFlow
from skfokker.parallel import data_parallel
from skfokker.potentials import Quadratic
from skfokker.schemes import LeastSquaresNested, ScoreDualNested

FAILURES = ("raises", "nan", "differs", "interrupted", "dies")


def coupled(x):
    return 0.5 * x.square().sum(1) + 0.2 * torch.cos(x[:, 0] * x[:, 1])


def fits():
    """Small fits by every solver: their parameters, densities and certificates; messages sent."""
    triangular = [Inverse(TriangularFlow(4)), Inverse(TriangularFlow(4, reverse=True))]
    triangular = Composition([*triangular, AffineFlow()])
    separable = Inverse(ElementwiseFlow(8))
    tilted = Quadratic([1.0, 2.0], [[1.0, 0.5], [0.5, 2.0]])
    rough = {"n_samples": 128, "feature_iterations": 3}
    problems = {
        "quadratic": (tilted, None, {}, 0),
        "direct": (coupled, triangular, rough | {"tolerance": 0.1}, 0),
        "cg": (coupled, triangular, rough | {"solver": "cg"}, 0),
        "separable": (lambda x: (x**4).sum(1), separable, {"n_samples": 64}, 0),
        "scores": (coupled, conditional(3), ScoreDualNested(n_samples=128), 0),
        "quadrature": (coupled, conditional(2, "splines"), ScoreDualNested(), 0),
        "unseeded": (Quadratic([1.0, 2.0]), None, {}, None),  # the first process chooses
    }
    results = {}
    with data_parallel(n_shares=2) as processes:
        for name, (potential, flow, scheme, seed) in problems.items():
            if isinstance(scheme, dict):
                scheme = LeastSquaresNested(max_step=0.01, **scheme)
            d = 3 if name == "scores" else 2
            model = ParametricFokkerPlanck(
                scheme=scheme, flow=flow, tol=1e3, n_features=d if flow else None,
                random_state=seed, t_final=0.02,
            ).fit(potential)  # fmt: skip
            points = np.random.default_rng(0).standard_normal((50, d))
            results[name] = {
                "thetas": model.thetas_.tolist(),
                "density": model.log_density(points).tolist(),
                "certificate": model.certificate_.kl(),
                "history": model.history_[-1]["free_energy"],
            }
    return results, processes.messages


def failing(what, rank):
    """A potential in which something happens to the second process at its 60th call."""
    calls = 0

    def potential(x):
        nonlocal calls
        calls += 1
        if rank == 1 and calls == 196:
            if what == "raises":
                raise OSError("the licence server is gone")
            if what == "interrupted":
                os.kill(os.getpid(), signal.SIGINT)
            if what == "dies":
                os._exit(3)
        broken = what == "nan" and rank == 1 and calls >= 196
        return coupled(x) * (torch.nan if broken else 1 + rank * (what == "differs"))

    return potential


def failures(rank):
    """What was said, and how far the fit had got, printed as it happens."""
    for what in FAILURES:
        model = ParametricFokkerPlanck(AffineFlow(), n_features=2, random_state=0, tol=1e3)
        said, begun = "nothing", time.monotonic()
        with data_parallel(timeout=30):
            try:
                model.fit(failing(what, rank))
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
        reached, seconds = getattr(model, "t_final_", 0.0), time.monotonic() - begun
        print(json.dumps([what, said, reached, seconds]), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.distributed.init_process_group("gloo")
    results, messages = fits()
    with open(sys.argv[1], "w") as file:
        json.dump([results, messages], file)
    failures(int(os.environ["RANK"]))
