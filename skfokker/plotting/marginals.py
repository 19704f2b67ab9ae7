"""Marginal densities at chosen times."""

from __future__ import annotations

import numpy as np

from . import _densities
from ._style import (
    REFERENCE,
    as_times,
    axes_row,
    check_coordinates,
    coordinate_label,
    feature_names,
    time_colours,
)


class MarginalDensityDisplay:
    """Densities of single coordinates, one curve a time, over an optional reference.

    Parameters
    ----------
    times : ndarray (k,)
    coordinates : tuple of int
    grids : list of ndarray (n,)
        Abscissae of every coordinate.
    densities : list of ndarray (k, n)
        Of the fit.
    references : list of ndarray (k, n) or None
    names : sequence of str, optional
        Names of all coordinates.
    reference_name : str

    Attributes
    ----------
    axes_ : ndarray of Axes (one a coordinate)
    figure_ : Figure
    """

    def __init__(
        self,
        times,
        coordinates,
        grids,
        densities,
        references=None,
        names=None,
        reference_name="reference",
    ):
        self.times, self.coordinates = times, coordinates
        self.grids, self.densities, self.references = grids, densities, references
        self.names, self.reference_name = names, reference_name

    @classmethod
    def from_estimator(
        cls,
        fit,
        times=None,
        *,
        coordinates=(0,),
        reference=None,
        reference_name="reference",
        n_grid=300,
        ax=None,
    ):
        """Compute the curves of a fit and draw them.

        Parameters
        ----------
        fit : ParametricFokkerPlanck
        times : array-like (k,), optional
            Five that show the motion where not given.
        coordinates : sequence of int
            Which coordinates, from 0.
        reference : object, optional
            A problem of :mod:`skfokker.problems`, a finite-volume solution, or a function
            ``(x, t) -> density``.
        reference_name : str
            For the legend.
        n_grid : int
            Points of a curve.
        ax : Axes or array of Axes, optional
        """
        times = as_times(fit, times, 5)
        coordinates = check_coordinates(coordinates, fit.n_features_in_)
        grids = [np.linspace(*_densities.span(fit, times, i), n_grid) for i in coordinates]
        pairs = list(zip(coordinates, grids, strict=True))
        densities = [
            np.stack([_densities.marginal(fit, float(t), i, x) for t in times]) for i, x in pairs
        ]
        references = None
        if reference is not None:
            references = [
                np.stack([_densities.reference_marginal(reference, float(t), i, x) for t in times])
                for i, x in pairs
            ]
        names = feature_names(fit)
        return cls(times, coordinates, grids, densities, references, names, reference_name).plot(ax)

    def plot(self, ax=None):
        """Draw; ``ax`` is None, one Axes, or one a coordinate."""
        self.axes_ = axes_row(ax, len(self.coordinates), size=(4.2, 3.3), columns=3)
        self.figure_ = self.axes_[0].figure
        colours = time_colours(self.times)
        for k, axis in enumerate(self.axes_):
            x, i = self.grids[k], self.coordinates[k]
            for j, (t, colour) in enumerate(zip(self.times, colours, strict=True)):
                if self.references is not None:
                    axis.plot(x, self.references[k][j], color=colour, lw=4.5, alpha=0.35)
                axis.plot(x, self.densities[k][j], color=colour, lw=1.4, label=f"$t$ = {t:.3g}")
            if self.references is not None:
                axis.plot([], [], color=REFERENCE, lw=4.5, alpha=0.4, label=self.reference_name)
            label = coordinate_label(self.names, i)
            axis.set(xlabel=label, xlim=(x[0], x[-1]))
            axis.set_ylim(bottom=0)
            axis.set_ylabel(f"marginal density of {label}")
        if ax is None:  # beside the panels, where it hides no curve
            handles, labels = self.axes_[0].get_legend_handles_labels()
            self.figure_.legend(handles, labels, loc="outside right upper", frameon=False)
        else:
            self.axes_[0].legend(frameon=False, fontsize="small")
        return self
