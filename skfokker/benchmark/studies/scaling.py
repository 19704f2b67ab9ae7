"""What a data-parallel march computes and sends a step, and what that means for many cores."""

from __future__ import annotations

import math
import time
import warnings
from itertools import islice

import torch
import torch.distributed as dist

from ... import problems
from ...equation import FokkerPlanck
from ...flows import choose_flow
from ...parallel import data_parallel
from ...schemes import LeastSquaresNested
from ...structure import probe
from ..tables import Table, number
from .common import StudyOptions, triangular

_CORES = (2, 8, 64, 1000)
_N_STEPS = 3


def scaling(
    options: StudyOptions, latency: float = 20e-6, bandwidth: float = 1e9, n_samples: int = 4096
) -> list[Table]:
    """Seconds and bytes of a step measured in one process, and projected.

    Parameters
    ----------
    options : StudyOptions
    latency : float
        Seconds that a message takes to the next process, assumed.
    bandwidth : float
        Bytes a second of a link, assumed.
    n_samples : int
        Points of the expectation.
    """
    table = Table(
        "A data-parallel step, and its projection",
        ["problem", "points", "parameters", "seconds a step", "of these shared",
         "messages a step", "KiB a step", *(f"speed-up, {p} cores" for p in _CORES)],
        [],
    )  # fmt: skip
    names = {"rosenbrock-10d": 10, "styblinski-tang-30d": 30}
    if options.quick:
        names, n_samples = {"styblinski-tang-30d": 2}, 512
    for name, d in names.items():
        problem = problems.load(name, d=d)
        whole, messages, numbers, m = _measured(problem, n_samples, options.seed)
        half = _measured(problem, n_samples // 2, options.seed)[0]
        shared = min(max(2 * (whole - half), 0.0), whole)  # seconds that go with the points
        options.say(f"{problem.name}: {whole:.3g} s a step, {messages:.0f} messages")
        projections = [
            projected(whole, shared, messages, 8 * numbers, p, latency, bandwidth) for p in _CORES
        ]
        table.rows.append(
            [problem.name, str(n_samples), str(m), number(whole, "seconds"),
             f"{100 * shared / whole:.0f} %", f"{messages:.0f}", f"{numbers * 8 / 1024:.0f}",
             *(f"{whole / seconds:.3g}" for seconds in projections)]
        )  # fmt: skip
    table.notes.append(
        f"Seconds on p cores: (step - shared) + shared / p + messages * 2 log2(p) * "
        f"{latency:g} s + 2 (p - 1) / p * bytes / {bandwidth:g} B/s. 'Shared' is what goes with "
        "the number of points (twice the difference to half as many points), the rest is linear "
        "algebra that every process repeats; latency and bandwidth are assumptions."
    )
    return [table]


def projected(
    step: float, shared: float, messages: float, n_bytes: float, p: int, latency: float,
    bandwidth: float,
) -> float:  # fmt: skip
    """Seconds a step on p cores, sums by reduction and broadcast along a tree and a ring."""
    talk = messages * 2 * math.log2(p) * latency + 2 * (p - 1) / p * n_bytes / bandwidth
    return step - shared + shared / p + talk


def _measured(problem, n_samples, seed):
    """Seconds, messages and numbers sent a step after the first one, and the parameters."""
    zero, one = torch.zeros(problem.d).double(), torch.eye(problem.d).double()
    structure = probe(problem.potential, zero, one)
    equation = FokkerPlanck(problem.potential, problem.beta, problem.d, structure.separable)
    flow = choose_flow(structure)[0] if structure.separable else triangular(problem.d)
    generator = torch.Generator().manual_seed(seed)
    scheme = LeastSquaresNested(n_samples=n_samples, feature_iterations=3, max_step=1e-4)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        with warnings.catch_warnings(), data_parallel() as processes:
            warnings.simplefilter("ignore")
            theta = flow.init(problem.d, generator)
            steps = scheme.steps(equation, flow, theta, 0.0, 1.0, generator)
            list(islice(steps, 2))
            before = time.perf_counter(), processes.messages, processes.numbers
            list(islice(steps, _N_STEPS))
            after = time.perf_counter(), processes.messages, processes.numbers
    finally:
        dist.destroy_process_group()
    a_step = [(end - start) / _N_STEPS for start, end in zip(before, after, strict=True)]
    return *a_step, len(theta)
