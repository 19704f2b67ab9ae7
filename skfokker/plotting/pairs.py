"""Every pair of some coordinates at one time: a corner of panels."""

from __future__ import annotations

import numpy as np

from . import _densities
from ._style import (
    BLUE,
    VERMILLION,
    check_coordinates,
    coordinate_label,
    feature_names,
    pyplot,
)
from .plane import mass_levels


class PairDensityDisplay:
    """Marginals of single coordinates on the diagonal, of pairs below it, at one time.

    Parameters
    ----------
    t : float
    coordinates : tuple of int
    grids : list of ndarray (n,)
    marginals, planes : dict
        ``marginals[i]`` (n,) and ``planes[i, j]`` (n, n), rows along j.
    reference_marginals, reference_planes : dict or None
    names : sequence of str, optional
    reference_name : str

    Attributes
    ----------
    axes_ : ndarray of Axes (k, k)
        Those above the diagonal are empty.
    figure_ : Figure
    """

    def __init__(
        self,
        t,
        coordinates,
        grids,
        marginals,
        planes,
        reference_marginals=None,
        reference_planes=None,
        names=None,
        reference_name="reference",
    ):
        self.t, self.coordinates, self.grids = t, coordinates, grids
        self.marginals, self.planes = marginals, planes
        self.reference_marginals, self.reference_planes = reference_marginals, reference_planes
        self.names, self.reference_name = names, reference_name

    @classmethod
    def from_estimator(
        cls, fit, t=None, *, coordinates=None, reference=None, reference_name="reference",
        n_grid=91, ax=None,
    ):  # fmt: skip
        """Compute the densities of a fit and draw them.

        Parameters
        ----------
        fit : ParametricFokkerPlanck
        t : float, optional
            ``t_final_`` where not given.
        coordinates : sequence of int, optional
            The first four (or fewer) where not given.
        reference : object, optional
            As in `MarginalDensityDisplay`.
        reference_name : str
        n_grid : int
            Points a side.
        ax : array of Axes (k, k), optional
        """
        t = fit.t_final_ if t is None else float(t)
        d = fit.n_features_in_
        coordinates = check_coordinates(range(min(d, 4)) if coordinates is None else coordinates, d)
        grids = {i: np.linspace(*_densities.span(fit, t, i), n_grid) for i in coordinates}
        below = [(i, j) for a, i in enumerate(coordinates) for j in coordinates[a + 1 :]]
        marginals = {i: _densities.marginal(fit, t, i, grids[i]) for i in coordinates}
        planes = {(i, j): _densities.plane(fit, t, (i, j), grids[i], grids[j]) for i, j in below}
        exact = exact_planes = None
        if reference is not None:
            exact = {
                i: _densities.reference_marginal(reference, t, i, grids[i]) for i in coordinates
            }
            exact_planes = {
                (i, j): _densities.reference_plane(reference, t, (i, j), grids[i], grids[j])
                for i, j in below
            }
        names = feature_names(fit)
        return cls(
            t, coordinates, grids, marginals, planes, exact, exact_planes, names, reference_name
        ).plot(ax)

    def plot(self, ax=None):
        """Draw; ``ax`` is None or a square array of Axes."""
        k = len(self.coordinates)
        if ax is None:
            _, ax = pyplot().subplots(
                k, k, figsize=(2.1 * k + 0.6, 2.0 * k + 0.6), layout="constrained", squeeze=False
            )
        self.axes_ = np.asarray(ax, dtype=object).reshape(k, k)
        self.figure_ = self.axes_[0, 0].figure
        for row, j in enumerate(self.coordinates):
            for column, i in enumerate(self.coordinates):
                axis = self.axes_[row, column]
                if column > row:
                    axis.set_axis_off()
                    continue
                if row == column:
                    self._diagonal(axis, i)
                else:
                    self._below(axis, i, j)
                axis.set_xlim(self.grids[i][[0, -1]])
                if row == k - 1:
                    axis.set_xlabel(coordinate_label(self.names, i))
                else:
                    axis.set_xticklabels([])
                if column == 0 and row > 0:
                    axis.set_ylabel(coordinate_label(self.names, j))
                elif 0 < column < row:
                    axis.set_yticklabels([])
        if self.reference_marginals is not None:
            handles, labels = self.axes_[0, 0].get_legend_handles_labels()
            self.figure_.legend(handles, labels, loc="upper right", frameon=False)
        self.axes_[0, 0].set_title(f"$t$ = {self.t:.3g}")
        return self

    def _diagonal(self, axis, i):
        if self.reference_marginals is not None:
            axis.plot(
                self.grids[i], self.reference_marginals[i], color=VERMILLION, lw=4.5, alpha=0.4,
                label=self.reference_name,
            )  # fmt: skip
        axis.plot(self.grids[i], self.marginals[i], color=BLUE, lw=1.4, label="fit")
        axis.set_ylim(bottom=0)
        axis.set_yticks([])
        axis.set_ylabel("density" if i == self.coordinates[0] else "")

    def _below(self, axis, i, j):
        density = self.planes[i, j]
        x, y = self.grids[i], self.grids[j]
        axis.contourf(x, y, density, 12, cmap="viridis")
        axis.contour(x, y, density, mass_levels(density), colors="white", linewidths=0.7)
        if self.reference_planes is not None:
            exact = self.reference_planes[i, j]
            axis.contour(
                x, y, exact, mass_levels(exact), colors=VERMILLION, linestyles="dashed",
                linewidths=1.2,
            )  # fmt: skip
