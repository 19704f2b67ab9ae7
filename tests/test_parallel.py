"""One fit on two processes: the bits of one, and no process left waiting."""

import json
import os
import socket
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch

from skfokker import ParametricFokkerPlanck
from skfokker.equation import FokkerPlanck
from skfokker.flows import AffineFlow, Composition, ElementwiseFlow, Inverse, TriangularFlow
from skfokker.parallel import ALONE, data_parallel
from skfokker.potentials import Quadratic, StyblinskiTang
from skfokker.schemes import normal_equations
from skfokker.schemes.normal_equations import InnerProblem, in_pairs
from skfokker.schemes.points import sobol_normal

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="torch.distributed with gloo is not there",
)

PREAMBLE = """
    import json, os, signal, sys, warnings
    import numpy as np, torch
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    from skfokker import ParametricFokkerPlanck
    from skfokker.flows import AffineFlow, Composition, Inverse, TriangularFlow
    from skfokker.parallel import data_parallel
    from skfokker.potentials import Quadratic
    from skfokker.schemes import LeastSquaresNested

    torch.distributed.init_process_group("gloo")
    rank = int(os.environ["RANK"])

    def coupled(x):
        return 0.5 * x.square().sum(1) + 0.2 * torch.cos(x[:, 0] * x[:, 1])

    def flow():
        layers = [Inverse(TriangularFlow(6)), Inverse(TriangularFlow(6, reverse=True))]
        return Composition([*layers, AffineFlow()])
"""

FIT = """
    results = {}

    def fit(name, potential, n_features=None, family=flow(), **scheme):
        model = ParametricFokkerPlanck(
            scheme=LeastSquaresNested(max_step=0.01, **scheme), n_features=n_features,
            flow=family if n_features else None, random_state=seed, t_final=0.02, tol=10.0,
        ).fit(potential)
        points = np.random.default_rng(0).standard_normal((50, 2))
        results[name] = {
            "thetas": model.thetas_.tolist(), "density": model.log_density(points).tolist(),
            "certificate": model.certificate_.kl(), "history": model.history_[-1]["free_energy"],
        }

    seed = 0
    with data_parallel(n_shares=2) as processes:
        fit("quadratic", Quadratic([1.0, 2.0], [[1.0, 0.5], [0.5, 2.0]]))
        fit("direct", coupled, 2, n_samples=128, tolerance=1e-2, feature_iterations=5)
        fit("cg", coupled, 2, solver="cg", n_samples=128, feature_iterations=5)
        fit("separable", lambda x: (x**4).sum(1), 2, family=None, n_samples=64)
        seed = None  # the first process then chooses
        fit("unseeded", Quadratic([1.0, 2.0]))
    with open(os.path.join(sys.argv[1], f"{processes.size}-{rank}.json"), "w") as file:
        json.dump(results, file)
    assert processes.messages > 100
    torch.distributed.destroy_process_group()
"""


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(script, size, *arguments):
    """Processes that run a script, as torchrun would start them."""
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment |= {"WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    code = textwrap.dedent(PREAMBLE) + textwrap.dedent(script)
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def finish(processes):
    """Output and errors of each; none may still be waiting after two minutes."""
    try:
        return [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    for size in (1, 2):
        processes = start(FIT, size, folder)
        said = finish(processes)
        assert [p.returncode for p in processes] == [0] * size, said
    return {path.stem: json.loads(path.read_text()) for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["quadratic", "direct", "cg", "separable"])
def test_two_processes_give_the_result_of_one(results, name):
    one, first, second = (results[key][name] for key in ("1-0", "2-0", "2-1"))
    assert first == second  # the same bits
    for key in one:
        np.testing.assert_allclose(first[key], one[key], rtol=0, atol=1e-8)


def test_without_a_seed_the_processes_agree_on_one(results):
    assert results["2-0"]["unseeded"] == results["2-1"]["unseeded"]


def test_a_plain_fit_gives_the_same(results):
    model = ParametricFokkerPlanck(random_state=0, t_final=0.02).fit(
        Quadratic([1.0, 2.0], [[1.0, 0.5], [0.5, 2.0]])
    )
    points = np.random.default_rng(0).standard_normal((50, 2))
    np.testing.assert_allclose(
        model.log_density(points), results["2-0"]["quadratic"]["density"], atol=1e-6
    )


FAILURES = """
    def failing(what):
        calls = 0

        def potential(x):
            nonlocal calls
            calls += 1
            if rank == 1 and calls == 60:
                if what == "raises":
                    raise OSError("the licence server is gone")
                if what == "interrupted":
                    os.kill(os.getpid(), signal.SIGINT)
                if what == "dies":
                    os._exit(3)
            broken = what == "nan" and rank == 1 and calls >= 60
            return coupled(x) * (torch.nan if broken else 1 + rank * (what == "differs"))

        return potential

    for what in ("raises", "nan", "differs", "interrupted", "dies"):
        model = ParametricFokkerPlanck(AffineFlow(), n_features=2, random_state=0, tol=10.0)
        said = "nothing"
        with data_parallel(timeout=30):
            try:
                model.fit(failing(what))
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
        print(json.dumps([what, said, getattr(model, "t_final_", 0.0)]), flush=True)
"""


@pytest.fixture(scope="module")
def endings():
    """What each of two processes said of five failures on the second, and how far it had got."""
    begun = time.monotonic()
    said = [
        {what: rest for what, *rest in map(json.loads, output.splitlines())}
        for output, _ in finish(start(FAILURES, 2))
    ]
    assert time.monotonic() - begun < 100  # none had to wait for the end of its patience
    return said


@pytest.mark.parametrize(
    ("what", "theirs", "own"),
    [
        ("raises", "RankError: on rank 1 of 2: OSError: the licence server", "OSError: the lic"),
        ("nan", "PotentialError: on rank 1 of 2: PotentialError: the pot", "PotentialError: the"),
        ("differs", "rank 1 differs from rank 0 in potential", "differs from rank 0 in potential"),
        ("interrupted", "nothing", "nothing"),
    ],
)
def test_a_failure_on_one_process_ends_all(endings, what, theirs, own):
    said, reached = zip(*(ending[what] for ending in endings), strict=True)
    assert theirs in said[0] and own in said[1]
    assert reached[0] == reached[1] < 1  # the same steps are kept on all
    assert (reached[0] > 0) == (what != "differs")


def test_a_process_that_dies_leaves_none_waiting(endings):
    assert "RankError: rank 0 of 2 lost the other processes: one" in endings[0]["dies"][0]
    assert "dies" not in endings[1]


def test_it_asks_for_processes_first():
    with pytest.raises(RuntimeError, match="init_process_group.*torchrun"):
        with data_parallel():
            pass


def test_sums_in_pairs():
    terms = [(torch.tensor(float(k)), torch.full((2,), k**2)) for k in range(7)]
    total = in_pairs(terms)
    assert total[0] == 21 and total[1].tolist() == [91, 91]
    assert ALONE.sum(*total)[0] == 21


@pytest.mark.parametrize(
    ("solver", "first"),
    [
        ("DirectSolver", [Inverse(TriangularFlow(6)), AffineFlow()]),
        ("ConjugateGradientSolver", [Inverse(TriangularFlow(6)), AffineFlow()]),
        ("AffineSolver", None),
        ("CoordinateSolver", [Inverse(ElementwiseFlow(8)), AffineFlow(diagonal=True)]),
    ],
)
def test_blocks_of_points_give_the_same(solver, first):
    """Derivatives computed anew for 40 points at a time, or held for all."""
    d, n = 3, 512
    flow = AffineFlow() if first is None else Composition(first)
    generator = torch.Generator().manual_seed(0)
    theta = flow.init(d, generator)
    theta = theta + 0.05 * torch.randn(len(theta), generator=generator, dtype=torch.float64)
    x, weights = sobol_normal(n, d, 1), torch.full((n,), 1 / n, dtype=torch.float64)
    equation = FokkerPlanck(StyblinskiTang(d), 1.0, d, separable=True)
    found = []
    for max_numbers in (2**27, 40 * (d + len(theta))):
        problem = InnerProblem(equation, flow, theta, x, weights, max_numbers=max_numbers)
        options = {"tolerance": 1e-10} if solver == "ConjugateGradientSolver" else {}
        solution = getattr(normal_equations, solver)(flow, d, 1e-6, **options).solve(problem)
        found.append((solution.residual, problem))
    (residual, whole), (by_block, blocks) = found
    torch.testing.assert_close(by_block, residual, rtol=0, atol=1e-6)
    assert len(blocks.linearization.rows) == 13 and blocks.linearization.kept is None
    assert blocks.spread() == pytest.approx(whole.spread(), rel=1e-12)
