"""Samples on a plane of two coordinates, over time."""

from __future__ import annotations

import numpy as np

from ._style import (
    BLUE,
    VERMILLION,
    as_times,
    axes_row,
    check_coordinates,
    coordinate_label,
    feature_names,
)


class SampleProjectionDisplay:
    """Samples projected on a plane, one panel a time, with an optional reference below.

    Parameters
    ----------
    times : ndarray (k,)
    pair : (int, int)
    samples : ndarray (k, n, 2)
    references : ndarray (k, n, 2) or None
        Drawn in a second row.
    names : sequence of str, optional
    reference_name : str

    Attributes
    ----------
    axes_ : ndarray of Axes
        Those of the fit, then those of the reference.
    figure_ : Figure
    """

    def __init__(
        self, times, pair, samples, references=None, names=None, reference_name="reference"
    ):
        self.times, self.pair, self.samples, self.references = times, pair, samples, references
        self.names, self.reference_name = names, reference_name

    @classmethod
    def from_estimator(
        cls,
        fit,
        times=None,
        *,
        coordinates=(0, 1),
        n_samples=2000,
        reference=None,
        reference_name="reference",
        random_state=0,
        ax=None,
    ):
        """Draw samples of a fit and show them.

        Parameters
        ----------
        fit : ParametricFokkerPlanck
        times : array-like (k,), optional
            Four that show the motion where not given.
        coordinates : (int, int)
        n_samples : int
            Points a panel.
        reference : object with ``sample(n, t)``, or ndarray (k, n, d), optional
            A problem of :mod:`skfokker.problems`, or samples at the same times.
        reference_name : str
        random_state : int
        ax : Axes or array of Axes, optional
        """
        times = as_times(fit, times, 4)
        pair = check_coordinates(coordinates, fit.n_features_in_, 2)
        columns = list(pair)
        samples = np.stack(
            [
                fit.sample(n_samples, t=float(t), random_state=random_state)[:, columns]
                for t in times
            ]
        )
        references = None
        if reference is not None:
            references = np.stack(
                [
                    (reference.sample(n_samples, float(t)) if hasattr(reference, "sample") else r)[
                        :n_samples, columns
                    ]
                    for t, r in zip(
                        times,
                        [None] * len(times) if hasattr(reference, "sample") else reference,
                        strict=True,
                    )
                ]
            )
        return cls(times, pair, samples, references, feature_names(fit), reference_name).plot(ax)

    def plot(self, ax=None):
        """Draw; ``ax`` is None, one Axes, or one a panel."""
        k = len(self.times)
        rows = [("fit", BLUE, self.samples)]
        if self.references is not None:
            rows.append((self.reference_name, VERMILLION, self.references))
        self.axes_ = axes_row(
            ax, k * len(rows), size=(2.7, 2.8), columns=k, sharex=True, sharey=True
        )
        self.figure_ = self.axes_[0].figure
        everything = np.concatenate([points.reshape(-1, 2) for _, _, points in rows])
        low, high = np.quantile(everything, [0.001, 0.999], axis=0)
        margin = 0.08 * (high - low)
        for r, (label, colour, points) in enumerate(rows):
            for j in range(k):
                axis = self.axes_[r * k + j]
                axis.scatter(
                    *points[j].T, s=3, alpha=0.45, lw=0, color=colour, label=label, rasterized=True
                )
                axis.set_xlim(low[0] - margin[0], high[0] + margin[0])
                axis.set_ylim(low[1] - margin[1], high[1] + margin[1])
                if r == 0:
                    axis.set_title(f"$t$ = {self.times[j]:.3g}")
                if r == len(rows) - 1:
                    axis.set_xlabel(coordinate_label(self.names, self.pair[0]))
            label_y = coordinate_label(self.names, self.pair[1])
            first = self.axes_[r * k]
            first.set_ylabel(label_y if len(rows) == 1 else f"{label}\n{label_y}")
        return self
