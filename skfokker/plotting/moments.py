"""Means and variances over time against an exact solution."""

from __future__ import annotations

import numpy as np

from .. import metrics
from ._style import SEQUENCE, axes_row, check_coordinates, coordinate_label, feature_names


class MomentsDisplay:
    """Mean, variance and (optionally) covariance over time, beside a reference.

    Parameters
    ----------
    times : ndarray (k,)
    means : ndarray (k, d)
    covariances : ndarray (k, d, d)
    coordinates : tuple of int
    reference_means, reference_covariances : ndarray or None
    covariance_pairs : sequence of (int, int)
    names : sequence of str, optional
    reference_name : str

    Attributes
    ----------
    axes_ : ndarray of two Axes
        Of the means, and of the variances.
    figure_ : Figure
    """

    def __init__(
        self,
        times,
        means,
        covariances,
        coordinates,
        reference_means=None,
        reference_covariances=None,
        covariance_pairs=(),
        names=None,
        reference_name="exact",
    ):
        self.times, self.means, self.covariances = times, means, covariances
        self.coordinates, self.covariance_pairs = coordinates, tuple(covariance_pairs)
        self.reference_means = reference_means
        self.reference_covariances = reference_covariances
        self.names, self.reference_name = names, reference_name

    @classmethod
    def from_estimator(
        cls,
        fit,
        times=None,
        *,
        coordinates=None,
        covariance_pairs=(),
        reference=None,
        reference_name="exact",
        ax=None,
    ):
        """Compute the moments of a fit and draw them.

        Parameters
        ----------
        fit : ParametricFokkerPlanck
        times : array-like (k,), optional
            Twenty-five over the span where not given.
        coordinates : sequence of int, optional
            The first six (or fewer) where not given.
        covariance_pairs : sequence of (int, int)
            Covariances to show beside the variances.
        reference : object with ``moments(t)``, optional
        reference_name : str
        ax : Axes or array of two Axes, optional
        """
        times = np.linspace(0, fit.t_final_, 25) if times is None else np.asarray(times, float)
        d = fit.n_features_in_
        coordinates = check_coordinates(range(min(d, 6)) if coordinates is None else coordinates, d)
        means, covariances = _stack(lambda t: metrics.moments(fit, t), times)
        exact = (None, None) if reference is None else _stack(reference.moments, times)
        names = feature_names(fit)
        return cls(
            times, means, covariances, coordinates, *exact, covariance_pairs, names, reference_name
        ).plot(ax)

    def plot(self, ax=None):
        """Draw; ``ax`` is None, one Axes, or two."""
        self.axes_ = axes_row(ax, 2, size=(4.6, 3.4))
        self.figure_ = self.axes_[0].figure
        left, right = self.axes_
        colours = [SEQUENCE[k % len(SEQUENCE)] for k in range(64)]
        for k, i in enumerate(self.coordinates):
            label = coordinate_label(self.names, i)
            self._curve(left, lambda m, c, i=i: m[:, i], colours[k], label)
            self._curve(right, lambda m, c, i=i: c[:, i, i], colours[k], label)
        for k, (i, j) in enumerate(self.covariance_pairs):
            both = f"{coordinate_label(self.names, i)}, {coordinate_label(self.names, j)}"
            colour = colours[len(self.coordinates) + k]
            self._curve(right, lambda m, c, i=i, j=j: c[:, i, j], colour, both)
        for axis in self.axes_:
            if self.reference_means is not None:
                axis.plot([], [], color="grey", label="fit")
                axis.plot([], [], "o", mfc="none", color="grey", ms=5, label=self.reference_name)
            axis.set(xlabel="time $t$", xlim=(self.times[0], self.times[-1]))
        left.set_ylabel(r"mean $\mathrm{E}\,x_i$")
        right.set_ylabel("variance, covariance" if self.covariance_pairs else r"variance of $x_i$")
        if ax is None:  # beside the panels, where it hides no curve
            handles, labels = right.get_legend_handles_labels()
            self.figure_.legend(handles, labels, loc="outside right upper", frameon=False)
        else:
            right.legend(frameon=False, fontsize="small", ncols=2)
        return self

    def _curve(self, axis, part, colour, label):
        axis.plot(self.times, part(self.means, self.covariances), color=colour, label=label)
        if self.reference_means is not None:
            exact = part(self.reference_means, self.reference_covariances)
            axis.plot(self.times, exact, "o", mfc="none", color=colour, ms=5)


def _stack(moments, times):
    pairs = [moments(float(t)) for t in times]
    return np.stack([np.atleast_1d(m) for m, _ in pairs]), np.stack([c for _, c in pairs])
