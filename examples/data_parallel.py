"""
One fit on several processes
============================

Started plainly, this starts itself under ``torchrun`` with one process and with two, and compares
what they found and how long they took. Any other start under ``torchrun`` fits once::

    torchrun --nproc-per-node 4 examples/data_parallel.py result.npz

On GPUs: ``init_process_group("nccl")``, and ``device="cuda"`` for the estimator.
"""

import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

import skfokker.parallel
from skfokker import ParametricFokkerPlanck, problems
from skfokker.flows import AffineFlow, Composition, Inverse, TriangularFlow
from skfokker.schemes import LeastSquaresNested


def fit(path):
    """On every process: the same call, the same result; the first one writes it down."""
    torch.set_num_threads(1)  # a core a process
    torch.distributed.init_process_group("gloo")
    problem = problems.load("rosenbrock-10d", d=4)
    layers = [Inverse(TriangularFlow(8)), Inverse(TriangularFlow(8, reverse=True)), AffineFlow()]
    scheme = LeastSquaresNested(0.1, n_samples=4096, solver="direct", max_step=5e-4)
    model = ParametricFokkerPlanck(
        Composition(layers), scheme, beta=problem.beta, random_state=0, tol=1e9
    )
    # the same order of summation whatever the number of processes, up to eight
    with skfokker.parallel.data_parallel(n_shares=8) as processes:
        torch.distributed.barrier()
        before = time.perf_counter()
        model.fit(problem.potential, t_final=0.001)
        seconds = time.perf_counter() - before
        if processes.rank == 0:
            x = np.random.default_rng(0).standard_normal((1000, problem.d))
            np.savez(
                path, thetas=model.thetas_, log_density=model.log_density(x), seconds=seconds,
                sent=[processes.messages, processes.numbers], steps=len(model.times_) - 1,
            )  # fmt: skip
    torch.distributed.destroy_process_group()


def compare():
    """One process against two."""
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for size in (1, 2):
            path = Path(folder) / f"{size}.npz"
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command = [*torchrun, f"--nproc-per-node={size}", __file__, str(path)]
            subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
            with np.load(path) as stored:
                results.append(dict(stored))
    one, two = results
    print(f"{one['thetas'].shape[1]} parameters, {one['steps']} steps, {os.cpu_count()} cores")
    for size, result in enumerate(results, start=1):
        messages, numbers = result["sent"]
        print(f"{size} process(es): {result['seconds']:.1f} s, {messages} messages a process "
              f"of {8 * numbers / messages / 1024:.1f} KiB on average")  # fmt: skip
    print(f"speed-up: {one['seconds'] / two['seconds']:.2f}")
    for name in ("thetas", "log_density"):
        difference = np.abs(one[name] - two[name]).max()
        print(f"largest difference of {name}: {difference:.1e}")
        if difference > 1e-8:
            raise SystemExit("the processes disagree")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if "RANK" in os.environ:
        fit(sys.argv[1])
    else:
        compare()
