"""One picture of a fit."""

from __future__ import annotations

from ._style import pyplot, spread_times
from .certificate import CertificateDisplay
from .free_energy import FreeEnergyDisplay
from .history import HistoryDisplay
from .marginals import MarginalDensityDisplay
from .paths import PathsDisplay
from .plane import PlaneDensityDisplay


class OverviewDisplay:
    """Marginals, the law in a plane (or paths in 1-D), free energy, certificate, history.

    Attributes
    ----------
    figure_ : Figure
    axes_ : dict of str to Axes
    displays_ : dict of str to display
    """

    def __init__(self, figure, axes, displays):
        self.figure_, self.axes_, self.displays_ = figure, axes, displays

    @classmethod
    def from_estimator(cls, fit, times=None, *, coordinates=None, reference=None):
        """Draw the overview of a fit.

        Parameters
        ----------
        fit : ParametricFokkerPlanck
        times : array-like, optional
            Of the marginals; five that show the motion where not given.
        coordinates : (int, int), optional
            Those shown; the first two where not given.
        reference : Problem, optional
            Drawn beside the fit, and for the true error.
        """
        d = fit.n_features_in_
        times = spread_times(fit, 5) if times is None else times
        pair = tuple(range(min(d, 2))) if coordinates is None else tuple(coordinates)
        figure, axes = pyplot().subplot_mosaic(
            [["marginal", "marginal", "plane"], ["energy", "certificate", "history"]],
            figsize=(11, 6.4),
            layout="constrained",
        )
        shown = {}
        shown["marginal"] = MarginalDensityDisplay.from_estimator(
            fit, times, coordinates=pair[:1], reference=reference, ax=axes["marginal"]
        )
        if d == 1:
            shown["plane"] = PathsDisplay.from_estimator(fit, n_paths=30, ax=axes["plane"])
        else:
            shown["plane"] = PlaneDensityDisplay.from_estimator(
                fit, [fit.t_final_], coordinates=pair, ax=axes["plane"]
            )
        if any(record.get("free_energy") is not None for record in fit.history_):
            shown["energy"] = FreeEnergyDisplay.from_estimator(fit, ax=axes["energy"])
        if fit.certificate_ is not None:
            exact = reference if getattr(reference, "has_density", False) else None
            shown["certificate"] = CertificateDisplay.from_estimator(
                fit, reference=exact, ax=axes["certificate"]
            )
        history = HistoryDisplay.from_estimator(fit, ax=_upper_and_lower(axes["history"]))
        history.axes_[0].set(xlabel="", xticklabels=[])
        shown["history"] = history
        figure.suptitle(
            f"{type(fit).__name__}: $d$ = {d}, $\\beta$ = {fit.beta:g}, "
            f"{len(fit.times_) - 1} steps to $t$ = {fit.t_final_:g}, "
            f"{fit.thetas_.shape[1]} parameters"
        )
        return cls(figure, axes, shown)


def overview(fit, times=None, *, coordinates=None, reference=None) -> OverviewDisplay:
    """One picture of a fit; arguments as in :meth:`OverviewDisplay.from_estimator`."""
    return OverviewDisplay.from_estimator(fit, times, coordinates=coordinates, reference=reference)


def _upper_and_lower(axis):
    """Two axes, one above the other, in the place of one."""
    axis.set_axis_off()
    grid = axis.get_subplotspec().subgridspec(2, 1)
    return [axis.figure.add_subplot(grid[k]) for k in range(2)]
