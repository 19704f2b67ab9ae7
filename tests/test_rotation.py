"""Coordinates in which a potential falls into blocks, and marches that are made in them."""

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch

from skfokker import Equation, ParametricFokkerPlanck, problems
from skfokker.bayes import Preconditioned
from skfokker.dynamics.reading import read_equation
from skfokker.flows import AffineFlow, ConditionalFlow, Frame
from skfokker.flows.frame import split_frame
from skfokker.initial import Gaussian
from skfokker.potentials import (
    CallablePotential,
    GaussianMixture,
    GinzburgLandauChain,
    Potential,
    Quadratic,
    Rings,
    Rosenbrock,
    Rotated,
    WellsAndSprings,
)
from skfokker.rotation import find_rotation, joint_blocks
from skfokker.start import Start
from skfokker.structure import probe

CPU = torch.device("cpu")


def rotation_of(d, seed):
    return np.linalg.qr(np.random.RandomState(seed).randn(d, d))[0]


def blocks_of(matrices, sizes):
    """Random symmetric matrices (k, d, d) made of blocks."""
    k, d = len(matrices), sum(sizes)
    out, i = np.zeros((k, d, d)), 0
    for size in sizes:
        part = np.array([r.randn(size, size) for r in matrices])
        out[:, i : i + size, i : i + size] = part + part.transpose(0, 2, 1)
        i += size
    return out


class Shells(Potential):
    """Spherical shells (|z_k|^2 - 1)^2 (of one coordinate: double wells), one a block."""

    def __init__(self, sizes):
        self.sizes = sizes

    @property
    def n_features_in_(self):
        return sum(self.sizes)

    def __call__(self, x):
        return sum((part.square().sum(1) - 1).square() for part in x.split(list(self.sizes), 1))


def sizes_found(potential, initial=None, flow_free=True, horizon=0.5):
    start = Start.of(initial, potential, 1.0, 0, CPU, rotate=flow_free, horizon=horizon)
    if start.frame is None:
        return None, start
    words = start.reason.rpartition(" of ")[2].split(", ")
    return [int(word) for word in words], start


# ------------------------------------------------------------------------ joint blocks


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("noise", [0.0, 5e-7])
def test_blocks_of_matrices_are_found(seed, noise):
    random = np.random.RandomState(seed)
    sizes = sorted(random.randint(1, 6, random.randint(2, 6)), reverse=True)
    sizes += [1] * random.randint(3)
    matrices = blocks_of([np.random.RandomState(100 * seed + k) for k in range(10)], sizes)
    turn = rotation_of(sum(sizes), seed)
    seen = turn @ matrices @ turn.T
    seen += noise * np.abs(seen).max((1, 2), keepdims=True) * random.randn(*seen.shape)
    basis, blocks = joint_blocks(seen)
    assert [len(block) for block in blocks] == sizes
    np.testing.assert_allclose(basis.T @ basis, np.eye(len(basis)), atol=1e-12)


def test_a_hundred_coordinates():
    sizes = [20, 10, 5, 5] + [2] * 20 + [1] * 20
    matrices = blocks_of([np.random.RandomState(k) for k in range(12)], sizes)
    turn = rotation_of(100, 0)
    assert [len(block) for block in joint_blocks(turn @ matrices @ turn.T)[1]] == sizes


def test_eigenvalues_that_coincide_do_not_join_blocks():
    """Scalars on three dimensions, and two matrices that no combination tells apart."""
    matrices = np.zeros((4, 7, 7))
    matrices[:, 4:, 4:] = np.eye(3)
    matrices[:, :2, :2] = np.array(
        [[[1, 0], [0, 2]], [[1, 1], [1, 2]], [[0, 1], [1, 0]], np.eye(2)]
    )
    matrices[:, 2:4, 2:4] = matrices[::-1, :2, :2]
    turn = rotation_of(7, 3)
    assert [len(block) for block in joint_blocks(turn @ matrices @ turn.T)[1]] == [2, 2, 1, 1, 1]


def general_blocks(seed, sizes, alike=False):
    """Matrices (8, d, d) that are not symmetric, made of blocks; the same ones, if alike."""
    random, out, i = np.random.RandomState(seed), np.zeros((8, sum(sizes), sum(sizes))), 0
    for size in sizes:
        part = np.random.RandomState(size).randn(8, size, size) if alike else None
        out[:, i : i + size, i : i + size] = random.randn(8, size, size) if part is None else part
        i += size
    return out


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("noise", [0.0, 5e-7])
@pytest.mark.parametrize("alike", [False, True])
def test_blocks_of_matrices_that_are_not_symmetric(seed, noise, alike):
    random = np.random.RandomState(seed)
    sizes = sorted(random.randint(1, 5, random.randint(2, 6)), reverse=True)
    turn = rotation_of(sum(sizes), seed)
    seen = turn @ general_blocks(seed, sizes, alike) @ turn.T
    seen += noise * np.abs(seen).max((1, 2), keepdims=True) * random.randn(*seen.shape)
    basis, blocks = joint_blocks(seen)
    assert [len(block) for block in blocks] == sizes
    np.testing.assert_allclose(basis.T @ basis, np.eye(len(basis)), atol=1e-12)


def test_planes_that_turn_alike_are_told_apart():
    """Quarter turns commute with complex numbers: no symmetric combination shows the planes."""
    quarter = np.array([[0.0, 1.0], [-1.0, 0.0]])
    turn = rotation_of(6, 0)
    seen = turn @ np.kron(np.eye(3), quarter)[None] @ turn.T * np.array([1.0, 0.3])[:, None, None]
    assert [len(block) for block in joint_blocks(seen)[1]] == [2, 2, 2]


# ------------------------------------------------------------------------ potentials


@pytest.mark.parametrize(
    "sizes", [(2, 1), (2, 2), (3, 2, 2, 1), (5, 3, 1, 1), (4, 4, 4), (7, 6, 2, 2, 2, 1)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_shells_behind_a_rotation_are_found(sizes, seed):
    d = sum(sizes)
    turned = Rotated(Shells(sizes), rotation_of(d, seed))
    found, start = sizes_found(turned)
    assert found == list(sizes)
    assert start.initial is None and not start.structure.quadratic
    z = torch.randn(5, d, dtype=torch.float64)
    mean, root = torch.zeros(d).double(), torch.from_numpy(start.frame.root)
    torch.testing.assert_close(start.potential(z), turned(mean + z @ root.T))


def test_springs_of_equal_stiffness_and_wells_become_one_coordinate_each():
    potential = Rotated(
        WellsAndSprings([2.0, 1.0], [1.0, 1.5], [1.0] * 4 + [3.0]), rotation_of(7, 1)
    )
    found, start = sizes_found(potential)
    assert found == [1] * 7 and start.structure.separable


def test_the_covariance_of_the_start_has_to_fall_into_the_blocks_too():
    turn = rotation_of(4, 0)
    potential = Rotated(Rings(4), turn)
    mean, inside = np.array([0.5, -0.2, 0.0, 1.0]), np.diag([1.0, 2.0, 0.5, 1.5])
    inside[0, 1] = inside[1, 0] = 0.7
    found, start = sizes_found(potential, Gaussian(mean, turn @ inside @ turn.T))
    assert found == [2, 2]
    at, covariance = start.initial.mean, start.initial.covariance
    np.testing.assert_array_equal(at, 0)
    back = start.frame.root @ covariance @ start.frame.root.T
    np.testing.assert_allclose(back, turn @ inside @ turn.T, atol=1e-7)
    inside[0, 2] = inside[2, 0] = 0.1
    assert sizes_found(potential, Gaussian(mean, turn @ inside @ turn.T))[0] is None


def coupled_far_out(x):
    """Two rings, and a ridge between them that only points beyond three deviations feel."""
    ridge = torch.nn.functional.softplus(20 * (x[:, 0] + x[:, 2] - 3.0)) / 20
    return Rings(4)(x) + ridge.pow(3)


@pytest.mark.parametrize(
    "potential",
    [
        Rosenbrock(5),
        GinzburgLandauChain(6),
        Rotated(Rosenbrock(5), rotation_of(5, 0)),
        Quadratic(np.zeros(4), np.diag([1.0, 2, 3, 4]) + 0.5),
        Rotated(Rings(2), rotation_of(2, 0)),
        Rings(6),
        Rotated(CallablePotential(coupled_far_out, 4), rotation_of(4, 2)),
        GaussianMixture(np.random.RandomState(0).uniform(-5, 5, (9, 5))),
    ],
    ids=["rosenbrock", "chain", "turned", "quadratic", "2-D", "blocks", "far out", "mixture"],
)
def test_nothing_is_found_where_there_is_nothing_to_gain(potential):
    assert sizes_found(potential)[0] is None


def test_pieces_that_look_alike_from_inside_are_not_blocks():
    """Every Hessian near the start is the same, but the wells are not a product."""
    centres = 12 * rotation_of(5, 0)[:3]
    potential = GaussianMixture(centres, 0.25)
    mean, eye = torch.zeros(5).double(), torch.eye(5).double()
    everything = np.ones((5, 5), dtype=bool)
    reached = torch.randn(32, 5, dtype=torch.float64)
    found = find_rotation(potential, mean, 3 * eye, everything, 3 * reached)
    if found is not None:  # two directions that all centres agree on
        inner = Preconditioned(potential, mean, found)
        assert probe(inner, mean, 3 * eye, tolerance=1e-5).interacts.sum(1).max() >= 3


def test_walls_and_draws_are_left_alone():
    turned = Rotated(Shells((2, 2)), rotation_of(4, 0))
    draws = np.random.RandomState(0).randn(500, 4)
    assert sizes_found(turned, draws)[0] is None

    class Walled(Rotated):
        has_walls = True

    assert sizes_found(Walled(turned.potential, turned.rotation))[0] is None
    assert sizes_found(turned, flow_free=False)[0] is None


# ------------------------------------------------------------------------ equations


def oscillators(x):
    """Pairs (q, v) of a spring that is not linear."""
    q, v = x.view(len(x), -1, 2).unbind(2)
    return torch.stack([v, q - 0.4 * v - 0.1 * q**3], 2).reshape(x.shape)


def unlike(x):
    """Blocks of three, two and one coordinates: a cycle, an oscillator, a double well."""
    a, b, c, q, v, w = x.unbind(1)
    cycle = [b - a**3, c - b, -a - c]
    return torch.stack([*cycle, v, -q - v - q**3, w - w**3], 1)


def springs_and_oscillators(x):
    """Two linear springs that are the same, and two oscillators that are."""
    q, v = x[:, :4].view(len(x), 2, 2).unbind(2)
    springs = torch.stack([v, -2 * q - v], 2).reshape(len(x), 4)
    return torch.cat([springs, oscillators(x[:, 4:])], 1)


def entangled(x):
    """No gradient, and nothing that could be split."""
    return x.roll(1, 1) - x - 0.1 * x**3 + torch.sin(x[:, :1] * x[:, 1:2])


def mixed(drift, noise, by, at=None, **options):
    """An equation of x = at + by z, where z has a drift and a D of its own, and the start."""
    matrix, back = (torch.from_numpy(a) for a in (by, np.linalg.inv(by)))
    at = torch.zeros(len(by)).double() if at is None else torch.from_numpy(at)

    def moved(x):
        return drift((x - at) @ back.T) @ matrix.T

    equation = Equation(drift=moved, diffusion=by @ np.diag(noise) @ by.T, **options)
    return equation, Gaussian(at.numpy(), by @ by.T)


def look(equation, initial=None, horizon=1.0, rotate=True, frame=None):
    given = read_equation(
        equation, n_features=None, beta=1.0, mean=None, horizon=horizon, device=CPU
    )[0]
    return Start.general(initial, given, CPU, horizon, rotate=rotate, frame=frame)


def sizes_of(start):
    return [int(word) for word in start.reason.rpartition(" of ")[2].split(", ")]


SKEWED = np.random.RandomState(0).randn(8, 8)


@pytest.mark.parametrize(
    ("drift", "noise", "by", "sizes"),
    [
        (oscillators, [0.0, 0.32] * 4, rotation_of(8, 0), [2, 2, 2, 2]),
        (oscillators, [0.0, 0.32] * 4, SKEWED, [2, 2, 2, 2]),
        (oscillators, [0.0, 0.1, 0.0, 0.4], rotation_of(4, 1), [2, 2]),
        (unlike, [0.1, 0.2, 0.3, 0.0, 0.5, 0.1], rotation_of(6, 2), [3, 2, 1]),
        (unlike, [0.3] * 6, SKEWED[:6, :6], [3, 2, 1]),
        (springs_and_oscillators, [0.0, 0.5] * 4, rotation_of(8, 3), [2, 2, 2, 2]),
    ],
    ids=["oscillators", "skewed", "two", "unlike", "unlike, skewed", "alike"],
)
def test_blocks_of_a_drift_that_is_no_gradient(drift, noise, by, sizes):
    at = np.linspace(-0.5, 0.5, len(by))
    equation, initial = mixed(drift, noise, by, at)
    start = look(equation, initial)
    assert sizes_of(start) == sizes and start.initial is None
    assert start.reason.startswith("frame: linear coordinates that split the equation into blocks")
    # directions without noise are coordinates of their own
    turned = start.potential.terms[1]
    assert turned.diagonal
    along = turned.along(torch.zeros(1, len(by)).double(), 0.0)[0].numpy()
    np.testing.assert_allclose(np.sort(along), np.sort(noise), atol=1e-7)
    assert (along == 0).sum() == noise.count(0.0)
    # and it is the same equation
    z, root = torch.randn(5, len(by)).double(), torch.from_numpy(start.frame.root)
    x = torch.from_numpy(start.frame.mean) + z @ root.T
    torch.testing.assert_close(start.potential.drift(z) @ root.T, equation.drift(x))
    again = look(equation, initial, frame=start.frame, rotate=False)
    assert again.initial is None and sizes_of(again) == sizes


def test_a_frame_of_a_diffusion_in_time():
    turn = rotation_of(4, 0)

    def diffusion(x, t):
        inside = torch.diag(torch.tensor([0.0, 1.0 + t, 0.0, 2.0 - t]).to(x))
        return torch.from_numpy(turn) @ inside @ torch.from_numpy(turn).T

    equation = Equation(drift=mixed(oscillators, [0.0] * 4, turn)[0].drift, diffusion=diffusion)
    equation.set_params(n_features=4)
    start = look(equation, Gaussian(0.0, 1.0))
    noise, z = start.potential.terms[1], torch.zeros(1, 4).double()
    assert sizes_of(start) == [2, 2] and noise.diagonal and not noise.steady
    np.testing.assert_allclose(np.sort(noise.along(z, 0.5)[0]), [0, 0, 1.5, 1.5], atol=1e-7)


@pytest.mark.parametrize(
    ("equation", "initial"),
    [
        (Equation(drift=oscillators, diffusion=[0.0, 0.32] * 4), Gaussian(0.0, 1.0)),
        mixed(entangled, [0.3] * 5, np.eye(5)),
        mixed(entangled, [0.3] * 5, rotation_of(5, 0)),
        mixed(lambda x: x @ torch.ones(4, 4).double().triu(), [0.5] * 4, rotation_of(4, 0)),
        (mixed(oscillators, [0.0, 0.32] * 2, rotation_of(4, 0))[0], Gaussian(0.0, [1.0, 2, 3, 4])),
        (mixed(oscillators, [0.0, 0.3, 0.0, 0.4], rotation_of(4, 0))[0], np.eye(4).repeat(9, 0)),
    ],
    ids=["blocks", "entangled", "turned", "linear", "start of its own", "draws"],
)
def test_no_frame_is_invented(equation, initial):
    start = look(equation, initial)
    assert start.frame is None and start.reason is None and start.initial is initial


@pytest.mark.slow
def test_a_march_of_oscillators_behind_a_rotation_is_the_march_without_it(tmp_path):
    by, mean = rotation_of(4, 0), np.array([0.0, 2.0, 1.0, 0.0])
    equation, _ = mixed(oscillators, [0.0, 0.32] * 2, by)
    flat = Equation(drift=oscillators, diffusion=[0.0, 0.32] * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = model(initial=(mean, 0.5)).fit(flat, 0.3)
        turned = model(initial=(by @ mean, 0.5), warm_start=True).fit(equation, 0.2)
        assert "linear coordinates that split the equation into blocks of 2, 2" in str(turned.plan_)
        frame = split_frame(turned.flow_)[1]
        turned.fit(equation, 0.3)
    np.testing.assert_array_equal(split_frame(turned.flow_)[1].root, frame.root)
    z = plain.sample(2000, random_state=1)
    for t in (0.0, 0.2, 0.3):
        gap = turned.log_density(z @ by.T, t) - plain.log_density(z, t)
        assert np.abs(gap).mean() < 0.03 and abs(gap.mean()) < 5e-3
    rates = plain.current(z[:200]), turned.current(z[:200] @ by.T) @ by
    scale = np.abs(rates[0]).mean()
    assert np.abs(rates[0] - rates[1]).mean() < 0.1 * scale


# ------------------------------------------------------------------------ frames


def test_frame_of_any_root():
    random = np.random.RandomState(0)
    x = torch.from_numpy(random.randn(6, 3))
    empty = torch.zeros(0, dtype=torch.float64)
    for root in (random.randn(3, 3), rotation_of(3, 1), np.triu(random.randn(3, 3))):
        frame = Frame(random.randn(3), root)
        y, log_det = frame.forward(empty, x)
        back, minus = frame.inverse(empty, y)
        torch.testing.assert_close(back, x)
        torch.testing.assert_close(minus, -log_det)
        assert float(log_det[0]) == pytest.approx(np.linalg.slogdet(root)[1])
        linear, v = frame.linearize(empty, x), torch.from_numpy(random.randn(6, 3))
        torch.testing.assert_close(linear.jvp(empty, linear.solve(v)), v)
        torch.testing.assert_close(linear.vjp(linear.solve_transposed(v))[1], v)
        both = torch.stack([v, -v], 1)
        torch.testing.assert_close(linear.solve_transposed(both)[:, 1], -linear.solve_transposed(v))
        potential = Preconditioned(Rosenbrock(3), frame.mean, root)
        torch.testing.assert_close(potential.to_u(potential.to_x(x)), x)
        torch.testing.assert_close(potential(x), Rosenbrock(3)(y) - log_det)


# ------------------------------------------------------------------------ fits

TURN = rotation_of(4, 5)
HORIZON = 0.02


def model(**parameters):
    return ParametricFokkerPlanck(random_state=0, **parameters)


@pytest.fixture(scope="module")
def turned():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model(warm_start=True).fit(Rotated(Rings(4), TURN), HORIZON)


@pytest.fixture(scope="module")
def plain():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model().fit(Rings(4), HORIZON)


@pytest.mark.slow
def test_a_march_behind_a_rotation_is_the_march_without_it(turned, plain):
    assert "blocks of 2, 2" in str(turned.plan_) and "frame" not in str(plain.plan_)
    inner, frame = split_frame(turned.flow_)
    assert isinstance(inner, ConditionalFlow) and isinstance(frame, Frame)
    z = plain.sample(500, random_state=1)
    x = z @ TURN.T
    for t in (0.0, 0.01, HORIZON):
        gap = np.abs(turned.log_density(x, t) - plain.log_density(z, t))
        assert gap.mean() < 1e-3 and gap.max() < 2e-2
    # the fields differ by what turns the law in itself, and move it alike
    z = plain.sample(20000, random_state=2)
    for weight in (np.ones((4, 1)), TURN[:, :1]):
        rates = [
            (points @ to * (field @ to)).mean()
            for points, field, to in (
                (z, plain.velocity(z), weight),
                (z @ TURN.T, turned.velocity(z @ TURN.T), TURN @ weight),
            )
        ]
        assert rates[0] == pytest.approx(rates[1], rel=0.1)
    z, x = z[:500], z[:500] @ TURN.T
    typical = np.linalg.norm(plain.grad_log_density(z), axis=1).mean()
    gap = turned.grad_log_density(x) - plain.grad_log_density(z) @ TURN.T
    assert np.linalg.norm(gap, axis=1).mean() < 0.02 * typical
    assert turned.certificate_.kl() == pytest.approx(plain.certificate_.kl(), rel=0.5)


@pytest.mark.slow
def test_everything_of_a_march_behind_a_rotation_is_in_x(turned):
    x = turned.sample(20, random_state=0)
    np.testing.assert_allclose(turned.inverse_transform(turned.transform(x)), x, atol=1e-6)
    law = turned.at()
    points = torch.from_numpy(x).requires_grad_()
    score = torch.autograd.grad(law.log_prob(points).sum(), points)[0].numpy()
    np.testing.assert_allclose(score, turned.grad_log_density(x), atol=1e-8)
    x0, x1, x2 = turned.paths(20, [0.01, 0.0101, 0.0102], random_state=0)
    np.testing.assert_allclose((x2 - x0) / 0.0002, turned.velocity(x1, 0.0101), rtol=0.1, atol=0.1)


@pytest.mark.slow
def test_save_load_and_pickle(turned, tmp_path):
    pytest.importorskip("safetensors")
    x = turned.sample(10, random_state=0)
    turned.save(tmp_path / "model.safetensors")
    read = ParametricFokkerPlanck.load(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(read.log_density(x), turned.log_density(x))
    same = pickle.loads(pickle.dumps(turned))
    np.testing.assert_array_equal(same.log_density(x), turned.log_density(x))


@pytest.mark.slow
def test_a_march_behind_a_rotation_is_resumed_with_the_same_bits_and_continued(tmp_path):
    pytest.importorskip("safetensors")
    turn = rotation_of(3, 0)
    inside = np.diag([1.0, 0.5, 2.0])
    settings = {"initial": Gaussian([0.3, 0.0, -0.2], turn @ inside @ turn.T)}
    wells = WellsAndSprings([1.0], [1.0], [1.0, 2.0])
    file = tmp_path / "march.safetensors"

    class Stop(Exception):
        pass

    class Tired(Rotated):
        left = 10**9

        def value_and_grad(self, x):
            Tired.left -= 1
            if Tired.left < 0:
                raise Stop
            return super().value_and_grad(x)

    whole = model(**settings).fit(
        Tired(wells, turn), 0.02, checkpoint=tmp_path / "other.safetensors"
    )
    assert "1, 1, 1" in str(whole.plan_)
    Tired.left = int(0.6 * (10**9 - Tired.left))
    with pytest.raises(Stop), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model(**settings).fit(Tired(wells, turn), 0.02, checkpoint=file)
    Tired.left = 10**9
    resumed = model(**settings).fit(Tired(wells, turn), 0.02, resume=file)
    np.testing.assert_array_equal(resumed.sample(10), whole.sample(10))
    assert "1, 1, 1" in str(resumed.plan_)
    x, before = whole.sample(10), whole.flow_
    further = copy.deepcopy(whole)
    further.set_params(warm_start=True).fit(Tired(wells, turn), 0.022)
    assert further.t_final_ == 0.022
    np.testing.assert_allclose(further.log_density(x, 0.01), whole.log_density(x, 0.01), atol=1e-9)
    np.testing.assert_array_equal(split_frame(further.flow_)[1].root, split_frame(before)[1].root)
    assert "1, 1, 1" in str(further.plan_)


@pytest.mark.slow
def test_wells_behind_a_rotation_have_their_exact_law():
    problem = problems.load("rotated-wells-9d")
    fit = model().fit(problem.potential, 0.1)
    x = fit.sample(500, random_state=0)
    np.testing.assert_allclose(fit.log_density(x), problem.log_density(x, 0.1), atol=5e-3)


def test_rotation_within_preconditioned_coordinates(monkeypatch):
    turn, mean = rotation_of(4, 3), np.array([1.0, 0.0, -1.0, 0.5])
    inside = np.diag([1.0, 2.0, 0.5, 0.2])
    inside[0, 1] = inside[1, 0] = 0.7
    covariance = turn @ inside @ turn.T
    monkeypatch.setattr("skfokker.bayes.laplace_start", lambda *_: Gaussian(mean, covariance))
    potential = Rotated(Rings(4), turn)
    start = Start.of("laplace", potential, 1.0, 0, CPU, precondition=True, rotate=True)
    assert start.reason == "frame: a rotation that splits V into blocks of 2, 2"
    assert start.initial is None
    np.testing.assert_allclose(start.frame.root @ start.frame.root.T, covariance, atol=1e-12)
    again = Start.of("laplace", potential, 1.0, 0, CPU, frame=start.frame)
    assert again.initial is None and again.reason == start.reason


def test_a_family_that_is_given_stays_in_the_coordinates_of_the_user():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = model(flow=AffineFlow()).fit(Rotated(Rings(4), TURN), 0.01)
    assert isinstance(fit.flow_, AffineFlow)


def test_points_in_messages_are_those_of_the_user():
    turn = rotation_of(4, 5)

    def walled(x):
        far = x.detach().norm(dim=1) > 4.7
        return Rotated(Rings(4), turn)(x) + torch.where(far, torch.nan, 0.0)

    with pytest.raises(ValueError, match="at x = ") as caught:
        model(n_features=4).fit(walled, 0.02)
    text = str(caught.value).partition("at x = [")[2].partition("]")[0]
    point = torch.tensor([[float(v) for v in text.split(", ")]]).double()
    assert torch.isnan(walled(1.001 * point)).all()
