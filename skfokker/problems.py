"""Problems that others have published or whose solution is known, under one roof.

>>> from skfokker import problems
>>> problem = problems.load("quadratic-2d-iso")
>>> mean, covariance = problem.moments(0.1)
>>> mean.round(3).tolist()
[0.989, 0.989]
"""

from __future__ import annotations

import difflib
import zlib

import numpy as np
from sklearn.datasets import make_spd_matrix

from . import general_problems  # noqa: F401  (its problems are registered at import)
from .potentials import (
    CallablePotential,
    CoupledQuartic,
    DoubleWell,
    EightModes,
    Funnel,
    GaussianMixture,
    GinzburgLandauChain,
    ManyWell,
    Mustache,
    Quadratic,
    Rings,
    Rosenbrock,
    Rotated,
    StyblinskiTang,
    ThreeHoles,
    WellsAndSprings,
    Zero,
)
from .problem_kinds import (
    REGISTRY,
    ExpectationProblem,
    GaussianProblem,
    LogNormalProblem,
    PlanarProblem,
    PorousProblem,
    Problem,
    ProductProblem,
    SamplingTarget,
    SeparableProblem,
    SeparableTarget,
    random_rotation,
    register,
)

__all__ = [
    "ExpectationProblem",
    "GaussianProblem",
    "LogNormalProblem",
    "PlanarProblem",
    "PorousProblem",
    "Problem",
    "ProductProblem",
    "SamplingTarget",
    "SeparableProblem",
    "SeparableTarget",
    "load",
    "names",
    "random_rotation",
]


def names() -> list[str]:
    """Names that :func:`load` knows, sorted."""
    return sorted(REGISTRY)


def load(name: str, **parameters) -> Problem:
    """Return the problem of that name.

    Parameters
    ----------
    name : str
        One of :func:`names`.
    **parameters
        ``d`` and ``k`` (the number of the random target) for ou-benchmark, ou-spectrum and
        nine-gaussians; ``d`` for styblinski-tang, rosenbrock, heat, double-well, ginzburg-landau
        and rings; ``beta`` for styblinski-tang and double-well.

    Raises
    ------
    ValueError
        Where there is no such problem.
    """
    if name not in REGISTRY:
        close = difflib.get_close_matches(str(name), REGISTRY, n=1)
        hint = f"did you mean {close[0]!r}?" if close else "problems.names() lists them"
        raise ValueError(f"there is no problem named {name!r}; {hint}")
    return REGISTRY[name](**parameters)


@register("quadratic-2d-iso")
def _quadratic_iso(name):
    """Section 6.1.1 of the paper."""
    times = (0.05, 0.1, 0.15, 0.2, 0.35, 0.7)
    return GaussianProblem(name, Quadratic([3.0, 3.0], 0.25), 1.0, 0.7, times)


@register("quadratic-2d-aniso")
def _quadratic_aniso(name):
    """Section 6.1.1 of the paper."""
    times = (0.1, 0.2, 0.4, 0.7, 1.4)
    return GaussianProblem(name, Quadratic([3.0, 3.0], [1.0, 0.25]), 1.0, 1.4, times)


@register("quadratic-10d")
def _quadratic_10d(name):
    """Section 6.1.2 of the paper.

    Sigma = diag(Sigma_A, I, Sigma_B, I, Sigma_C), blocks of two: Sigma_A = [[5, -3], [-3, 5]] / 8,
    Sigma_B = diag(1, 1/4), Sigma_C = I/4; mu = (1, 1, 0, 0, 1, 2, 0, 0, 2, 3). The numbers are
    those of the authors' program (github.com/LSLSliushu/Parametric-Fokker-Planck-Equation,
    Quadratic_Function_high_dimension.py, which states Sigma^-1). The exact solution follows
    from them; the one printed in the paper is wrong in the block Sigma_A, where the mean is
    (1 - e^{-4t}) (1, 1).
    """
    covariance = np.diag([0.0, 0.0, 1, 1, 1, 0.25, 1, 1, 0.25, 0.25])
    covariance[:2, :2] = np.array([[5, -3], [-3, 5]]) / 8
    mean = [1.0, 1, 0, 0, 1, 2, 0, 0, 2, 3]
    return GaussianProblem(name, Quadratic(mean, covariance), 1.0, 2.0, (0.1, 0.2, 0.5, 1.0, 2.0))


_TANG_TIMES = (0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 3.0)


def _styblinski_tang(name, d, beta=1.0):
    """Section 6.2.1 of the paper (beta = 1, d = 30), and the study of beta in its section 6."""
    return SeparableProblem(
        name,
        StyblinskiTang(d),
        beta,
        3.0,
        _TANG_TIMES,
        langevin_steps=2000,
        parts=(StyblinskiTang(1),),
        which=(0,) * d,
    )


for _d in (1, 10, 30, 100):
    register(f"styblinski-tang-{_d}d", d=_d)(_styblinski_tang)
    for _beta in (0.1, 10):
        register(f"styblinski-tang-{_d}d-beta{_beta}", d=_d, beta=float(_beta))(_styblinski_tang)


@register("rosenbrock-2d", d=2)
@register("rosenbrock-10d", d=10)
@register("rosenbrock-30d", d=30, weak_order=2)
@register("rosenbrock-100d", d=100, weak_order=2)
def _rosenbrock(name, d, weak_order=1):
    """Section 6.2.2 of the paper (d = 10); coordinate k + 1 follows the square of coordinate k."""
    times, steps = (0.1, 0.5, 1.0), 2000 if weak_order == 1 else 1000
    potential = Rosenbrock(d)
    return Problem(name, potential, 1.0, 1.0, times, langevin_steps=steps, weak_order=weak_order)


@register("ou-benchmark")
def _ou_benchmark(name, d=2, k=0):
    """Mokrov et al., "Large-Scale Wasserstein Gradient Flows" (2021): target k of fifteen."""
    random = np.random.RandomState(zlib.crc32(f"abacaba@{d}@{k}numpy".encode()))
    covariance = make_spd_matrix(d, random_state=random)
    return GaussianProblem(
        f"{name}-{d}d-{k}", Quadratic(random.randn(d), covariance), 1.0, 0.9, (0.5, 0.9)
    )


@register("ou-spectrum")
def _ou_spectrum(name, d=2, k=0):
    """Variational Wasserstein gradient flow: mean N(0, I), eigenvalues uniform in [0.5, 1]."""
    random = np.random.RandomState(zlib.crc32(f"ou-spectrum@{d}@{k}".encode()))
    basis, _ = np.linalg.qr(random.randn(d, d))
    covariance = (basis * random.uniform(0.5, 1.0, d)) @ basis.T
    return GaussianProblem(
        f"{name}-{d}d-{k}", Quadratic(random.randn(d), covariance), 1.0, 0.9, (0.5, 0.9)
    )


@register("nine-gaussians")
def _nine_gaussians(name, d=2, k=0):
    """Mokrov et al.: nine unit Gaussians, centres uniform in [-5, 5]^d, rho_0 = N(0, 16 I).

    The seeds of the published targets are not known; these are our own.
    """
    random = np.random.RandomState(zlib.crc32(f"nine-gaussians@{d}@{k}".encode()))
    return Problem(
        f"{name}-{d}d-{k}",
        GaussianMixture(random.uniform(-5, 5, (9, d))),
        1.0,
        4.0,
        (0.5, 1.0, 2.0, 4.0),
        initial_covariance=16 * np.eye(d),
        langevin_steps=1000,
    )


@register("heat-8d", d=8)
def _heat(name, d):
    """V = 0: exactly N(0, (1 + 2t) I)."""
    return GaussianProblem(name, Zero(d), 1.0, 5.0, (0.5, 1.0, 2.0, 5.0))


@register("double-well-1d", d=1)
@register("double-well-2d", d=2)
def _double_well(name, d, beta=0.5):
    """Two wells at -1 and 1 behind a barrier of two beta."""
    parts = (DoubleWell(1), Quadratic([0.0]))[: min(d, 2)]
    return SeparableProblem(
        name,
        DoubleWell(d),
        beta,
        2.0,
        (0.1, 0.5, 1.0, 2.0),
        parts=parts,
        which=(0,) + (1,) * (d - 1),
    )


#: N(0, I) has 1e-6 of its mass beyond, and V is far too high there for more to follow. Errors of
#: log rho are below tol, so that the grids are within 5e-5 nats of the law. Six seconds.
_SQUARE = {"domain": [[-5.0, 5.0], [-5.0, 5.0]], "tol": 1e-2, "n_nodes": 32, "max_nodes": 256}


@register("quartic-2d")
def _quartic(name):
    """x_1^4 + x_2^4 + x_1 x_2: the smallest potential whose coordinates interact.

    Steep (the start reaches slopes of several hundred) and over soon: t to 0.2. At t = 0.02 the
    tails are what the slopes have left of them; a grid twice as fine (a minute) resolves them.
    """
    times = (0.02, 0.1, 0.2)
    potential = CoupledQuartic()
    grid = _SQUARE | {"tol": 3e-3, "max_nodes": 512}
    return PlanarProblem(name, potential, 1.0, 0.2, times, langevin_steps=2000, grid=grid)


@register("ginzburg-landau-16d", d=16)
@register("ginzburg-landau-64d", d=64)
def _ginzburg_landau(name, d):
    """An open chain of double wells, 1.5 (x_i^2 - 1)^2 and springs (x_i - x_{i+1})^2 / 2, beta 1.

    The barrier of a site, 1 / (4 width) = 1.5 beta, makes two modes of every site (the density
    of a site at equilibrium is three times higher at its modes than between them) and is crossed
    within the horizon. Two neighbours in opposite wells cost 2 stiffness = 2 beta: enough to
    interact (by transfer matrices, neighbours correlate by 0.56 at equilibrium, over 1.7 sites),
    not enough to align the chain (a quarter of all neighbours stand in opposite wells). A larger
    stiffness or a lower beta leaves two modes in all, a smaller one leaves a product.
    """
    potential = GinzburgLandauChain(d, width=1 / 6, stiffness=1.0)
    times = (0.1, 0.5, 1.0)
    return Problem(name, potential, 1.0, 1.0, times, langevin_steps=1000, weak_order=2)


@register("rings-10d", d=10)
@register("rings-10d-rotated", d=10, rotated=True)
def _rings(name, d, rotated=False):
    """Every pair of coordinates on its own ring (|pair|^2 - 1)^2, also behind a fixed rotation.

    P. Mandal and A. Apte, "Learning zeros of Fokker-Planck operators" (2023), have the ring in 2
    to 10 dimensions, at rest. One pair solved on a grid gives the law of all.
    """
    times, steps = (0.1, 0.5, 1.0), 2000
    pair = PlanarProblem(
        "ring", Rings(2), 1.0, times[-1], times, langevin_steps=steps, grid=_SQUARE
    )
    rotation = random_rotation(d, "rings") if rotated else None
    return ProductProblem(
        name,
        Rotated(Rings(d), rotation) if rotated else Rings(d),
        1.0,
        times[-1],
        times,
        langevin_steps=steps,
        parts=(pair,),
        which=(0,) * (d // 2),
        blocks=tuple((i, i + 1) for i in range(0, d, 2)),
        rotation=rotation,
    )


@register("rotated-wells-9d")
def _rotated_wells(name):
    """Two double wells and seven springs of stiffness 0.2 to 8, behind a fixed rotation.

    No coordinate shows a well by itself, and the springs range from slower than the horizon to
    as stiff as the wells. Barriers are 2 and 1 beta, the wells 2 and 3 apart.
    """
    stiffness = np.geomspace(0.2, 8.0, 7)
    rotation = random_rotation(9, name)
    t_final, times = 2.0, (0.1, 0.5, 1.0, 2.0)
    wells = [
        SeparableProblem("well", well, 1.0, t_final, times, parts=(well,), which=(0,))
        for well in (DoubleWell(1, 2.0, 1.0), DoubleWell(1, 1.0, 1.5))
    ]
    springs = GaussianProblem("springs", Quadratic(np.zeros(7), 1 / stiffness), 1.0, t_final, times)
    return ProductProblem(
        name,
        Rotated(WellsAndSprings([2.0, 1.0], [1.0, 1.5], stiffness), rotation),
        1.0,
        t_final,
        times,
        langevin_steps=4000,
        parts=(*wells, springs),
        which=(0, 1, 2),
        blocks=((0,), (1,), tuple(range(2, 9))),
        rotation=rotation,
    )


@register("three-holes")
def _three_holes(name):
    """Metzner, Schuette and Vanden-Eijnden (2006): two deep wells, a shallow one, a bent valley.

    At beta = 0.6 particles still change wells within the horizon.
    """
    times = (0.1, 0.5, 1.0, 5.0)
    return PlanarProblem(
        name, ThreeHoles(), 0.6, times[-1], times, langevin_steps=10_000, grid=_SQUARE
    )


@register("funnel-10")
def _funnel(name):
    return SamplingTarget(name, Funnel(10), 1.0, 5.0, (1.0, 5.0), langevin_steps=5000)


@register("gaussian-grid-25")
def _gaussian_grid(name):
    """Variance 0.3, centres {-10, -5, 0, 5, 10}^2; started from a Gaussian of equal spread."""
    side = np.arange(-10.0, 11.0, 5.0)
    centres = np.stack(np.meshgrid(side, side, indexing="ij"), -1).reshape(-1, 2)
    return SamplingTarget(
        name,
        GaussianMixture(centres, 0.3),
        1.0,
        5.0,
        (1.0, 5.0),
        initial_covariance=50.3 * np.eye(2),
        langevin_steps=2000,
    )


def _well(x):
    square = x[:, 0].square()
    return (square - 6) * square - 0.5 * x[:, 0]


@register("many-well-32", d=32)
def _many_well(name, d):
    return SeparableTarget(
        name,
        ManyWell(d),
        1.0,
        5.0,
        (1.0, 5.0),
        langevin_steps=5000,
        parts=(CallablePotential(_well, 1), Quadratic([0.0])),
        which=(0, 1) * (d // 2),
    )


@register("mustache")
def _mustache(name):
    times = (1.0, 5.0)
    return SamplingTarget(name, Mustache(), 1.0, 5.0, times, langevin_steps=20_000, tamed=True)


@register("eight-modes", variance=0.01)
@register("eight-modes-peaky", variance=0.005)
def _eight_modes(name, variance):
    """Circle of radius 1 about (-1, 0)."""
    return SamplingTarget(name, EightModes(variance), 1.0, 5.0, (1.0, 5.0), langevin_steps=20_000)
