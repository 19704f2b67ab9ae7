"""The displays show what the fit says; their curves are densities, their errors sentences."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from skfokker import ParametricFokkerPlanck, problems
from skfokker.flows import TriangularFlow
from skfokker.flows.planar import PlanarFlow
from skfokker.potentials import Quadratic
from skfokker.reference import FiniteVolumeSolution2D, kl_gaussians
from skfokker.schemes.adam_nested import AdamNested

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")

from matplotlib import pyplot as plt  # noqa: E402

from skfokker import plotting  # noqa: E402
from skfokker.plotting import _densities, _style  # noqa: E402


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def gaussian():
    problem = problems.load("quadratic-2d-aniso")
    return problem, ParametricFokkerPlanck(random_state=0).fit(problem.potential, 0.7)


@pytest.fixture(scope="module")
def separable():
    problem = problems.load("double-well-2d")
    fit = ParametricFokkerPlanck(beta=problem.beta, tol=1e-3, random_state=0)
    return problem, fit.fit(problem.potential, 0.3)


@pytest.fixture(scope="module")
def nested():
    scheme = AdamNested(
        n_outer=3,
        n_inner=4,
        n_first=None,
        n_samples_inner=50,
        n_samples_outer=60,
        keep_dual=True,
        keep_inner_losses=True,
    )
    fit = ParametricFokkerPlanck(PlanarFlow(4), scheme, random_state=0)
    return fit.fit(Quadratic([1.0, 1.0], 0.5), 0.02)


def _mass(axis_values, density):
    return np.trapezoid(density, axis_values)


@pytest.mark.parametrize("which", ["gaussian", "separable"])
def test_marginals_are_densities_and_meet_the_reference(which, request):
    problem, fit = request.getfixturevalue(which)
    display = plotting.MarginalDensityDisplay.from_estimator(
        fit, [0.0, 0.2], coordinates=[0, 1], reference=problem
    )
    assert len(display.axes_) == 2
    for x, density, exact in zip(display.grids, display.densities, display.references, strict=True):
        np.testing.assert_allclose([_mass(x, row) for row in density], 1, atol=2e-3)
        np.testing.assert_allclose(density, exact, atol=2e-3)
    assert display.axes_[1].get_xlabel() == "$x_2$"


def test_kernel_marginals_are_close_to_exact_ones():
    """A triangular map at its start is N(0, I) in three dimensions, known to the test alone."""
    fit = ParametricFokkerPlanck(TriangularFlow(8), random_state=0, tol=1e-2)
    fit.fit(Quadratic([0.0, 0.0, 0.0]), 0.01)
    x = np.linspace(-3, 3, 61)
    normal = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(_densities.marginal(fit, 0.0, 2, x), normal, atol=5e-3)
    plane = _densities.plane(fit, 0.0, (2, 0), x, x)
    np.testing.assert_allclose(plane, np.outer(normal, normal), atol=8e-3)


def test_plane_orientation_and_kinds(gaussian):
    problem, fit = gaussian
    display = plotting.PlaneDensityDisplay.from_estimator(
        fit, [0.7], reference=problem, coordinates=(1, 0), n_grid=81
    )
    np.testing.assert_allclose(display.densities, display.references, atol=1e-4)
    cell = (display.x[1] - display.x[0]) * (display.y[1] - display.y[0])
    mean, _ = problem.moments(0.7)
    assert (display.densities[0].sum(0) @ display.x) * cell == pytest.approx(mean[1], rel=1e-2)
    assert (display.densities[0].sum(1) @ display.y) * cell == pytest.approx(mean[0], rel=1e-2)
    cut = plotting.PlaneDensityDisplay.from_estimator(fit, 0.7, kind="conditional", n_grid=81)
    np.testing.assert_allclose(cut.densities[0], display.densities[0].T, atol=2e-3)
    with pytest.raises(ValueError, match='"marginal" or "conditional"'):
        plotting.PlaneDensityDisplay.from_estimator(fit, kind="joint")


def test_mass_levels_hold_their_mass():
    x = np.linspace(-6, 6, 301)
    density = np.exp(-0.5 * np.add.outer(x**2, x**2))
    levels = plotting.plane.mass_levels(density)
    np.testing.assert_allclose(levels, [0.1, 0.5, 0.9], rtol=2e-2)


def test_products_of_rings_are_not_shown_as_gaussians():
    """A ring has a dent in the middle, on its grid as in samples of the product."""
    coarse = {"domain": [[-4.5, 4.5], [-4.5, 4.5]], "n_nodes": 32, "max_nodes": 128, "tol": 0.1}
    rings = problems.load("rings-10d")
    ring = replace(rings.parts[0], grid=coarse)
    x = np.linspace(-2.5, 2.5, 61)
    for reference in (ring, replace(rings, parts=(ring,))):
        plane = _densities.reference_plane(reference, 1.0, (0, 1), x, x)
        assert plane.sum() * (x[1] - x[0]) ** 2 == pytest.approx(1.0, abs=0.02)
        assert plane[30, 30] < 0.7 * plane[30].max()
        line = _densities.reference_marginal(reference, 1.0, 0, x)
        np.testing.assert_allclose(line, plane.sum(0) * (x[1] - x[0]), atol=0.03)


def test_planes_of_every_reference(separable):
    problem, fit = separable
    x, y = np.linspace(-2, 2, 31), np.linspace(-3, 3, 41)
    exact = _densities.reference_plane(problem, 0.2, (0, 1), x, y)
    assert exact.shape == (41, 31)
    np.testing.assert_allclose(_densities.plane(fit, 0.2, (0, 1), x, y), exact, atol=1e-3)
    axes = np.linspace(-3, 3, 61), np.linspace(-5, 5, 61)
    nodes = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)
    values = np.stack([problem.log_density(nodes, 0.2).reshape(61, 61)] * 2)
    grid = FiniteVolumeSolution2D([0.1, 0.3], axes, values, np.zeros_like(values), 0.0, 0.0)
    for reference in (grid, lambda p, t: np.exp(problem.log_density(p, t))):
        got = _densities.reference_plane(reference, 0.2, (0, 1), x, y)
        np.testing.assert_allclose(got, exact, atol=2e-3)
    swapped = _densities.reference_plane(grid, 0.2, (1, 0), y, x)
    np.testing.assert_allclose(swapped, exact.T, atol=2e-3)
    marginal = _densities.reference_marginal(problem, 0.2, 0, x)
    got = _densities.reference_marginal(grid, 0.2, 0, x)
    np.testing.assert_allclose(got, marginal, atol=0.02)  # read linearly between nodes


def test_pairs_and_samples(separable):
    problem, fit = separable
    display = plotting.PairDensityDisplay.from_estimator(fit, reference=problem, n_grid=41)
    assert display.axes_.shape == (2, 2) and not display.axes_[0, 1].axison
    shown = plotting.SampleProjectionDisplay.from_estimator(
        fit, [0.0, 0.3], n_samples=100, reference=problem, reference_name="exact"
    )
    assert shown.samples.shape == shown.references.shape == (2, 100, 2)
    assert "exact" in shown.axes_[2].get_ylabel()


def test_paths_and_velocity_field(gaussian):
    _, fit = gaussian
    display = plotting.PathsDisplay.from_estimator(fit, field_time=0.2, n_paths=5)
    points, velocity = display.field
    np.testing.assert_allclose(velocity, fit.velocity(points, 0.2))
    assert display.paths.shape == (80, 5, 2)
    alone = plotting.PathsDisplay.from_estimator(fit, coordinates=1, n_paths=3)
    assert alone.ax_.get_xlabel() == "time $t$" and len(alone.ax_.lines) == 3
    with pytest.raises(ValueError, match="needs a plane"):
        plotting.PathsDisplay.from_estimator(fit, coordinates=1, field_time=0.1)


def test_free_energy_falls_to_equilibrium_below_its_rate(gaussian):
    problem, fit = gaussian
    display = plotting.FreeEnergyDisplay.from_estimator(fit, excess=True)
    excess = display.values - display.equilibrium
    mean, covariance = problem.moments(0.7)
    target = problem.potential.covariance * np.eye(2)
    assert excess[-1] == pytest.approx(
        kl_gaussians(mean, covariance, problem.potential.mean, target), rel=1e-3
    )
    assert display.rate == pytest.approx(1.0)
    assert (excess <= excess[0] * np.exp(-2 * display.times) * (1 + 1e-9)).all()


def test_certificate_lies_above_the_true_error(separable):
    problem, fit = separable
    display = plotting.CertificateDisplay.from_estimator(fit, reference=problem, times=[0.1, 0.3])
    assert (display.errors <= fit.certificate_.kl(display.error_times)).all()
    low, high = display.ax_.get_ylim()
    assert low < display.errors.min() and high > display.bound.max()


def test_moments_meet_the_exact_ones(gaussian):
    problem, fit = gaussian
    display = plotting.MomentsDisplay.from_estimator(
        fit, reference=problem, covariance_pairs=[(0, 1)]
    )
    np.testing.assert_allclose(display.means, display.reference_means, atol=1e-3)
    np.testing.assert_allclose(display.covariances, display.reference_covariances, atol=1e-3)


def test_inside_of_algorithm_1(nested):
    duals = plotting.DualPotentialDisplay.from_estimator(nested, n_grid=15)
    assert len(duals.axes_) == 3 and all(v.shape == (15, 15) for v in duals.values)
    assert all(np.isfinite(v).all() for v in duals.values)
    flat = plotting.DualPotentialDisplay.from_estimator(
        nested, times=0.01, kind="heatmap", n_grid=15
    )
    assert flat.axes_[0].get_title() == "step to $t$ = 0.01"
    losses = plotting.InnerLossDisplay.from_estimator(nested, times=[0.005, 0.02])
    assert [a.shape for a in losses.losses] == [(3, 4), (3, 4)]
    history = plotting.HistoryDisplay.from_estimator(nested)
    assert history.residual_name == "last inner loss"


def test_what_was_not_kept_is_said(gaussian):
    _, fit = gaussian
    with pytest.raises(ValueError, match="keep_dual=True"):
        plotting.DualPotentialDisplay.from_estimator(fit)
    with pytest.raises(ValueError, match="keep_inner_losses=True"):
        plotting.InnerLossDisplay.from_estimator(fit)
    with pytest.raises(ValueError, match="distinct indices from 0 to 1"):
        plotting.MarginalDensityDisplay.from_estimator(fit, coordinates=[2])


def test_pareto_k_falls_towards_equilibrium(gaussian):
    _, fit = gaussian
    display = plotting.ParetoKDisplay.from_estimator(fit, [0.0, 0.3, 0.7], n_samples=1000)
    assert (np.diff(display.k) < 0).all() and display.k[0] > 0.7


@pytest.mark.parametrize("which", ["gaussian", "separable"])
def test_overview(which, request):
    problem, fit = request.getfixturevalue(which)
    display = plotting.overview(fit, reference=problem)
    assert set(display.displays_) == {"marginal", "plane", "energy", "certificate", "history"}
    display.figure_.canvas.draw()


def test_overview_in_one_dimension_without_free_energy():
    fit = ParametricFokkerPlanck(random_state=0).fit(Quadratic([1.0]), 0.2)
    fit.history_ = [{k: v for k, v in r.items() if k in ("t", "h")} for r in fit.history_]
    display = plotting.overview(fit)
    assert set(display.displays_) == {"marginal", "plane", "certificate", "history"}


def test_animation(gaussian, tmp_path):
    _, fit = gaussian
    times = [0.0, 0.3, 0.7]
    plotting.animate(fit, times, n_grid=21, filename=tmp_path / "law.gif", dpi=40)
    assert (tmp_path / "law.gif").read_bytes()[:3] == b"GIF"
    plotting.animate(fit, times, n_grid=21, filename=tmp_path / "law.html")
    assert "<img" in (tmp_path / "law.html").read_text()
    with pytest.raises(ValueError, match=r"\.gif or \.html"):
        plotting.animate(fit, times, filename="law.mp4")


def test_given_axes_are_used_and_divided(gaussian):
    _, fit = gaussian
    _, axis = plt.subplots()
    assert plotting.CertificateDisplay.from_estimator(fit, ax=axis).ax_ is axis
    divided = plotting.MomentsDisplay.from_estimator(fit, ax=plt.subplots()[1])
    assert len(divided.axes_) == 2
    with pytest.raises(ValueError, match="one Axes or 2"):
        plotting.MomentsDisplay.from_estimator(fit, ax=plt.subplots(1, 3)[1])


def test_times_that_show_the_motion(gaussian):
    _, fit = gaussian
    times = _style.spread_times(fit, 5)
    assert times[0] == 0 and times[-1] == 0.7 and len(times) == 5
    assert times[1] < 0.7 / 4  # the law moves fastest at first


def test_matplotlib_is_imported_on_use_only():
    code = "import sys, skfokker, skfokker.plotting; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
