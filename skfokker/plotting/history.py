"""How the march went: its residual and its step sizes."""

from __future__ import annotations

import numpy as np

from ._style import BLUE, GREEN, VERMILLION, axes_row


class HistoryDisplay:
    """Relative residual of the equation (above) and step size (below), over time.

    Parameters
    ----------
    times : ndarray (k,)
        A time stands twice where the march changed its points or its family.
    step_sizes : ndarray (k - 1,)
        Zero there, and not drawn.
    residual : ndarray (k,) or None
        Square root of E|residual|^2 / E|grad V + beta grad log rho|^2, or the last inner loss
        of Algorithm 1.
    residual_name : str
    rejected : ndarray (k,) or None
        Steps tried in vain before each one.

    Attributes
    ----------
    axes_ : ndarray of two Axes
    figure_ : Figure
    """

    def __init__(self, times, step_sizes, residual=None, residual_name="", rejected=None):
        self.times, self.step_sizes = times, step_sizes
        self.residual, self.residual_name, self.rejected = residual, residual_name, rejected

    @classmethod
    def from_estimator(cls, fit, *, ax=None):
        """Draw ``history_`` of a fit.

        Parameters
        ----------
        fit : ParametricFokkerPlanck
        ax : Axes or array of two Axes, optional
        """

        def column(name):
            return np.array([r.get(name, np.nan) for r in fit.history_], dtype=float)

        times = column("t")
        residual, force = column("residual"), column("force")
        if np.isfinite(force).any():
            with np.errstate(divide="ignore", invalid="ignore"):
                value, name = np.sqrt(residual / force), "relative residual"
        elif np.isfinite(residual).any():
            value, name = np.sqrt(residual), r"residual $(\mathrm{E}|r|^2)^{1/2}$"
        else:
            value, name = column("inner_loss"), "last inner loss"
        value = None if not np.isfinite(value).any() else value
        rejected = column("rejected")
        rejected = rejected if np.isfinite(rejected).any() else None
        return cls(times, np.diff(times), value, name, rejected).plot(ax)

    def plot(self, ax=None):
        """Draw; ``ax`` is None, one Axes, or two."""
        self.axes_ = axes_row(ax, 2, size=(4.6, 3.2))
        self.figure_ = self.axes_[0].figure
        above, below = self.axes_
        if self.residual is not None:
            shown = np.isfinite(self.residual) & (self.residual > 0)
            above.semilogy(self.times[shown], self.residual[shown], ".-", color=BLUE, ms=3, lw=1)
            above.set_ylabel(self.residual_name)
        else:
            above.text(0.5, 0.5, "no residual recorded", ha="center", transform=above.transAxes)
        moved = self.step_sizes > 0
        sizes = self.step_sizes[moved]
        below.stairs(sizes, np.unique(self.times), color=GREEN, baseline=None)
        if sizes.max() > 3 * sizes.min():
            below.set_yscale("log")
            if sizes.max() > 10 * sizes.min():
                below.yaxis.set_minor_formatter("")  # the powers of ten are enough
        else:
            below.set_ylim(0, 1.3 * sizes.max())
        below.set_ylabel("step size $h$")
        if self.rejected is not None and (self.rejected[1:] > 0).any():
            where = np.flatnonzero((self.rejected[1:] > 0) & moved)
            middle = (self.times[:-1] + self.times[1:])[where] / 2
            below.plot(
                middle, self.step_sizes[where], "x", color=VERMILLION, label="after rejections"
            )
            below.legend(frameon=False, fontsize="small")
        for axis in self.axes_:
            axis.set(xlabel="time $t$", xlim=(self.times[0], self.times[-1]))
        return self
