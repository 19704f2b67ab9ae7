"""One fit on two processes: the bits of one, and no process left waiting."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import on_ranks
import pytest
import torch

from skfokker import ParametricFokkerPlanck
from skfokker.equation import FokkerPlanck
from skfokker.flows import AffineFlow, Composition, ElementwiseFlow, Inverse, TriangularFlow
from skfokker.parallel import ALONE, data_parallel
from skfokker.potentials import Quadratic, StyblinskiTang
from skfokker.schemes import LeastSquaresNested, normal_equations
from skfokker.schemes.normal_equations import InnerProblem, in_pairs
from skfokker.schemes.points import sobol_normal

pytestmark = pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="torch.distributed with gloo is not there",
)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(size, folder):
    """Processes, as torchrun would start them; each writes its results to a file RANK."""
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    environment |= {"WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, on_ranks.__file__, str(folder / str(rank))],
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
        return [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Of two processes: their results, messages sent, and what they printed of failures."""
    folder = tmp_path_factory.mktemp("ranks")
    said = finish(start(2, folder))
    try:
        stored = [json.loads((folder / rank).read_text()) for rank in "01"]
    except OSError:
        pytest.fail(f"a process left no results: {said}")
    return stored, [output for output, _ in said]


@pytest.fixture(scope="module")
def one():
    """The results of a single process."""
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        return on_ranks.fits()[0]
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quadratic", "direct", "cg", "separable", "scores", "quadrature"])
def test_two_processes_give_the_result_of_one(one, two, name):
    (first, messages), (second, _) = two[0]
    assert first[name] == second[name]  # the same bits
    assert messages > 100
    for key, value in one[name].items():
        np.testing.assert_allclose(first[name][key], value, rtol=0, atol=1e-8)


@pytest.mark.slow
def test_without_a_seed_the_processes_agree_on_one(two):
    (first, _), (second, _) = two[0]
    assert first["unseeded"] == second["unseeded"]


@pytest.mark.slow
def test_a_plain_fit_gives_the_same(two):
    scheme = LeastSquaresNested(max_step=0.01)
    model = ParametricFokkerPlanck(scheme=scheme, random_state=0, t_final=0.02, tol=1e3).fit(
        Quadratic([1.0, 2.0], [[1.0, 0.5], [0.5, 2.0]])
    )
    points = np.random.default_rng(0).standard_normal((50, 2))
    np.testing.assert_allclose(
        model.log_density(points), two[0][0][0]["quadratic"]["density"], atol=1e-6
    )


@pytest.fixture(scope="module")
def endings(two):
    """What each of two processes said of failures on the second, how far it got, and when."""
    return [
        {what: rest for what, *rest in map(json.loads, output.splitlines())} for output in two[1]
    ]


@pytest.mark.slow
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
    said, reached, seconds = zip(*(ending[what] for ending in endings), strict=True)
    assert theirs in said[0] and own in said[1]
    assert reached[0] == reached[1] < 1  # the same steps are kept on all
    assert (reached[0] > 0) == (what != "differs")
    assert max(seconds) < 30  # none had to wait for the end of its patience


@pytest.mark.slow
def test_a_process_that_dies_leaves_none_waiting(endings):
    said, _, seconds = endings[0]["dies"]
    assert "RankError: rank 0 of 2 lost the other processes: one" in said and seconds < 30
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
