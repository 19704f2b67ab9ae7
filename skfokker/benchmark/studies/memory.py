"""Peak memory of fits, draws and densities: the largest resident set, each in a fresh process."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ... import ParametricFokkerPlanck, problems
from ...equation import FokkerPlanck
from ...schemes import LeastSquaresNested
from ..tables import FAIL, PASS, Table, number
from .common import StudyOptions, triangular

_GIB = 2**30


@dataclass(frozen=True)
class MemoryCase:
    """What a fresh process does.

    Attributes
    ----------
    title : str
    work : callable
        Takes ``large`` (False for a size that only shows that it works) and a seed; returns the
        array that is its output, if any.
    limit : float
        GiB allowed beyond imports and output.
    """

    title: str
    work: Callable[[bool, int], np.ndarray | None]
    limit: float = 4.0


def _fit(name: str, d: int, t_final: float) -> Callable:
    def work(large, seed):
        problem = problems.load(name, d=d if large else 2)
        model = ParametricFokkerPlanck(beta=problem.beta, random_state=seed, tol=1e9)
        model.fit(problem.potential, t_final=t_final)

    return work


def _first_step(d: int, **settings) -> Callable:
    """Of the march of a coupled Rosenbrock potential with triangular maps."""

    def work(large, seed):
        problem = problems.load("rosenbrock-10d", d=d if large else 3)
        generator = torch.Generator().manual_seed(seed)
        equation = FokkerPlanck(problem.potential, problem.beta, problem.d)
        flow = triangular(problem.d)
        theta = flow.init(problem.d, generator)
        scheme = LeastSquaresNested(**settings)
        list(islice(scheme.steps(equation, flow, theta, 0.0, 1.0, generator), 2))

    return work


def _law(d: int, seed: int) -> ParametricFokkerPlanck:
    problem = problems.load("styblinski-tang-30d", d=d)
    model = ParametricFokkerPlanck(random_state=seed, tol=1e9)
    return model.fit(problem.potential, t_final=0.01)


def _draws(n: int, d: int) -> Callable:
    return lambda large, seed: _law(d, seed).sample(n if large else 1000, random_state=seed)


def _densities(n: int, d: int) -> Callable:
    def work(large, seed):
        n_here = n if large else 1000
        x = np.random.default_rng(seed).standard_normal((n_here, d))
        return _law(d, seed).log_density(x)

    return work


#: By the name that the fresh process is given.
CASES = {
    "separable-30": MemoryCase(
        "fit, Styblinski-Tang d = 30", _fit("styblinski-tang-30d", 30, 0.02)
    ),
    "separable-100": MemoryCase(
        "fit, Styblinski-Tang d = 100", _fit("styblinski-tang-30d", 100, 0.02)
    ),
    "coupled-10": MemoryCase("fit, Rosenbrock d = 10", _fit("rosenbrock-10d", 10, 0.01)),
    "coupled-100": MemoryCase(
        "first step, Rosenbrock d = 100, max_memory=0.25",
        _first_step(100, feature_iterations=1, n_samples=256, max_memory=0.25),
    ),
    "draws-1": MemoryCase("10**7 draws, d = 1", _draws(10**7, 1), 1.0),
    "draws-30": MemoryCase("10**6 draws, d = 30", _draws(10**6, 30), 1.0),
    "densities-1": MemoryCase("10**7 log densities, d = 1", _densities(10**7, 1), 1.0),
}


def memory(options: StudyOptions) -> list[Table]:
    """One row a case: gibibytes beyond those of the imports and of the output."""
    table = Table(
        "Peak memory",
        ["what", "peak, GiB", "imports, GiB", "output, GiB", "beyond both, GiB", "allowed, GiB",
         "", "seconds"],
        [],
    )  # fmt: skip
    for name in list(CASES)[-1:] if options.quick else CASES:
        case = CASES[name]
        options.say(case.title)
        found = measured(name, not options.quick, options.seed)
        beyond = found["peak"] - found["imports"] - found["output"]
        mark = PASS if beyond <= case.limit else FAIL
        sizes = (found["peak"], found["imports"], found["output"], beyond, case.limit)
        table.rows.append(
            [case.title, *(f"{size:.2f}" for size in sizes), mark, number(found["s"], "seconds")]
        )
    table.notes.append(
        "Largest resident set of a fresh process, PyTorch and its libraries among the imports. "
        "The horizons are short: only the stored trajectory grows with them, by "
        "two rows of parameters a step."
    )
    return [table]


def measured(name: str, large: bool, seed: int) -> dict[str, float]:
    """What a fresh process said of a case: sizes in GiB, and seconds."""
    code = f"from {__name__} import report; report({name!r}, {large!r}, {seed!r})"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"the process that measured {name!r} ended with: {run.stderr[-2000:]}")
    return json.loads(run.stdout.splitlines()[-1])


def report(name: str, large: bool, seed: int) -> None:
    """Do a case and print its sizes, in the fresh process."""
    warnings.simplefilter("ignore")
    torch.ones(2, 2).double().cholesky_inverse()  # libraries that are loaded at first use
    imports, start = peak_memory(), time.perf_counter()
    output = CASES[name].work(large, seed)
    sizes = {"imports": imports, "peak": peak_memory()}
    sizes["output"] = 0.0 if output is None else output.nbytes / _GIB
    print(json.dumps(sizes | {"s": time.perf_counter() - start}))


def peak_memory() -> float:
    """Largest resident set of this process so far, GiB."""
    status = Path("/proc/self/status")
    if status.exists():  # where rusage would start from the peak of the parent process
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 2**10 / _GIB
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _GIB
