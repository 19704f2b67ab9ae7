"""The density in a plane of two coordinates: heat map and contours."""

from __future__ import annotations

import numpy as np

from . import _densities
from ._style import (
    VERMILLION,
    as_times,
    axes_row,
    check_coordinates,
    coordinate_label,
    feature_names,
)


class PlaneDensityDisplay:
    """Heat map and contours of the density in a plane, one panel a time.

    Parameters
    ----------
    times : ndarray (k,)
    pair : (int, int)
        Coordinates along x and y.
    x, y : ndarray (n,)
        Grid.
    densities : ndarray (k, n, n)
        Rows along y.
    references : ndarray (k, n, n) or None
    kind : {"marginal", "conditional"}
        What was computed; conditional densities are normalised on the grid.
    names : sequence of str, optional
    reference_name : str

    Attributes
    ----------
    axes_ : ndarray of Axes (one a time)
    figure_ : Figure
    """

    def __init__(
        self,
        times,
        pair,
        x,
        y,
        densities,
        references=None,
        kind="marginal",
        names=None,
        reference_name="reference",
    ):
        self.times, self.pair, self.x, self.y = times, pair, x, y
        self.densities, self.references, self.kind = densities, references, kind
        self.names, self.reference_name = names, reference_name

    @classmethod
    def from_estimator(
        cls,
        fit,
        times=None,
        *,
        coordinates=(0, 1),
        kind="marginal",
        at=None,
        extent=None,
        n_grid=121,
        reference=None,
        reference_name="reference",
        ax=None,
        colorbar=None,
    ):
        """Compute the densities of a fit and draw them.

        Parameters
        ----------
        fit : ParametricFokkerPlanck
        times : float or array-like (k,), optional
            Three that show the motion where not given.
        coordinates : (int, int)
            Along x and along y, from 0.
        kind : {"marginal", "conditional"}
            The law of the two coordinates (by samples where the flow gives no closed form), or
            the joint density on the plane through ``at``, normalised on the plane.
        at : array-like (d,), optional
            The other coordinates of a conditional density; the mean where not given.
        extent : (x_low, x_high, y_low, y_high), optional
        n_grid : int
            Points a side.
        reference : object, optional
            As in `MarginalDensityDisplay`; its contours are dashed. For marginals only.
        reference_name : str
        ax : Axes or array of Axes, optional
        colorbar : bool, optional
            By default where the display makes its own figure.
        """
        if kind not in ("marginal", "conditional"):
            raise ValueError(f'kind must be "marginal" or "conditional", got {kind!r}.')
        if fit.n_features_in_ < 2:
            raise ValueError("A plane needs two coordinates; use MarginalDensityDisplay.")
        times = as_times(fit, times, 3)
        pair = check_coordinates(coordinates, fit.n_features_in_, 2)
        if extent is None:
            extent = [b for i in pair for b in _densities.span(fit, times, i)]
        x, y = np.linspace(*extent[:2], n_grid), np.linspace(*extent[2:], n_grid)
        cell = (x[1] - x[0]) * (y[1] - y[0])
        densities = []
        for t in times:
            if kind == "marginal":
                densities.append(_densities.plane(fit, float(t), pair, x, y))
            else:
                centre = _densities.points_of(fit, float(t), 2**12).mean(0) if at is None else at
                density = _densities.conditional(fit, float(t), pair, x, y, centre)
                densities.append(density / (density.sum() * cell))
        references = None
        if reference is not None and kind == "marginal":
            references = np.stack(
                [_densities.reference_plane(reference, float(t), pair, x, y) for t in times]
            )
        return cls(
            times,
            pair,
            x,
            y,
            np.stack(densities),
            references,
            kind,
            feature_names(fit),
            reference_name,
        ).plot(ax, colorbar=colorbar)

    def plot(self, ax=None, *, colorbar=None):
        """Draw; ``ax`` is None, one Axes, or one a time. All panels share the colour scale."""
        self.axes_ = axes_row(ax, len(self.times), size=(3.5, 3.3), sharex=True, sharey=True)
        self.figure_ = self.axes_[0].figure
        top = self.densities.max()
        for k, axis in enumerate(self.axes_):
            density = self.densities[k]
            mesh = axis.pcolormesh(
                self.x, self.y, density, shading="gouraud", cmap="viridis", vmin=0, vmax=top,
                rasterized=True,
            )  # fmt: skip
            levels = mass_levels(density)
            axis.contour(self.x, self.y, density, levels, colors="white", linewidths=0.8)
            if self.references is not None:
                axis.contour(
                    self.x,
                    self.y,
                    self.references[k],
                    mass_levels(self.references[k]),
                    colors=VERMILLION,
                    linewidths=1.2,
                    linestyles="dashed",
                )
            axis.set(
                title=f"$t$ = {self.times[k]:.3g}",
                xlabel=coordinate_label(self.names, self.pair[0]),
            )
        self.axes_[0].set_ylabel(coordinate_label(self.names, self.pair[1]))
        if self.references is not None:
            handles = [
                self.axes_[0].plot([], [], color="white", lw=1, label="fit")[0],
                self.axes_[0].plot([], [], "--", color=VERMILLION, label=self.reference_name)[0],
            ]
            self.axes_[0].legend(
                handles=handles, fontsize="small", loc="lower right", facecolor="#440154",
                labelcolor="white", framealpha=0.8,
            )  # fmt: skip
        if ax is None if colorbar is None else colorbar:
            symbols = ", ".join(coordinate_label(self.names, i) for i in self.pair)
            what = "density" if self.kind == "marginal" else "conditional density"
            self.figure_.colorbar(mesh, ax=list(self.axes_), label=f"{what} of ({symbols})")
        return self


def mass_levels(density: np.ndarray, masses=(0.9, 0.5, 0.1)) -> np.ndarray:
    """Levels whose super-level sets hold the given fractions of the mass, ascending."""
    ordered = np.sort(density.ravel())[::-1]
    total = np.cumsum(ordered)
    index = np.searchsorted(total, np.array(masses) * total[-1])
    return np.unique(ordered[np.minimum(index, len(ordered) - 1)])
