"""Paths of particles under the deterministic flow, and its velocity field."""

from __future__ import annotations

import numpy as np

from . import _densities
from ._style import (
    VERMILLION,
    axes_row,
    check_coordinates,
    coordinate_label,
    feature_names,
    pyplot,
)


class PathsDisplay:
    """Curves of the deterministic flow: against time, or in a plane with the velocity field.

    Parameters
    ----------
    times : ndarray (k,)
    coordinates : tuple of one or two int
    paths : ndarray (k, n, 1 or 2)
    field : (ndarray (m, 2), ndarray (m, 2)) or None
        Points and velocities there.
    field_time : float or None
    names : sequence of str, optional

    Attributes
    ----------
    ax_ : Axes
    figure_ : Figure
    """

    def __init__(self, times, coordinates, paths, field=None, field_time=None, names=None):
        self.times, self.coordinates, self.paths = times, coordinates, paths
        self.field, self.field_time, self.names = field, field_time, names

    @classmethod
    def from_estimator(
        cls,
        fit,
        times=None,
        *,
        coordinates=None,
        n_paths=40,
        field_time=None,
        n_arrows=14,
        random_state=0,
        ax=None,
    ):
        """Push latent points along time and draw their curves.

        Parameters
        ----------
        fit : ParametricFokkerPlanck
        times : array-like (k,), optional
            Where the curves are evaluated: 80 over the whole span where not given.
        coordinates : int, or pair of int, optional
            One coordinate against time, or two in a plane; the first two (or the only one).
        n_paths : int
        field_time : float, optional
            Also draw the velocity at that time, in the plane: exact for d = 2, otherwise its
            mean given the two coordinates (which is what moves their marginal law).
        n_arrows : int
            Arrows a side.
        random_state : int
        ax : Axes, optional
        """
        d = fit.n_features_in_
        if coordinates is None:
            coordinates = range(min(d, 2))
        coordinates = check_coordinates(coordinates, d)
        if len(coordinates) > 2:
            raise ValueError(f"coordinates must be one or two indices, got {coordinates}.")
        times = np.linspace(0, fit.t_final_, 80) if times is None else np.asarray(times, float)
        paths = fit.paths(n_paths, times, random_state=random_state)[:, :, list(coordinates)]
        field = None
        if field_time is not None:
            if len(coordinates) == 1:
                raise ValueError("field_time needs a plane: give two coordinates.")
            field = velocity_field(fit, float(field_time), coordinates, n_arrows)
        return cls(times, coordinates, paths, field, field_time, feature_names(fit)).plot(ax)

    def plot(self, ax=None):
        """Draw on ``ax``, or on a new figure."""
        self.ax_ = axes_row(ax, 1, size=(4.8, 3.8))[0]
        self.figure_ = self.ax_.figure
        if len(self.coordinates) == 1:
            self._against_time()
        else:
            self._in_plane(colorbar=ax is None)
        return self

    def _against_time(self):
        order = np.argsort(self.paths[0, :, 0])
        colours = pyplot().get_cmap("viridis")(np.linspace(0, 0.9, len(order)))
        for colour, j in zip(colours, order, strict=True):
            self.ax_.plot(self.times, self.paths[:, j, 0], color=colour, lw=0.9)
        self.ax_.set(
            xlabel="time $t$",
            ylabel=coordinate_label(self.names, self.coordinates[0]),
            xlim=(self.times[0], self.times[-1]),
        )

    def _in_plane(self, colorbar):
        from matplotlib.collections import LineCollection

        steps = np.stack([self.paths[:-1], self.paths[1:]], 2)  # (k - 1, n, 2 ends, 2)
        lines = LineCollection(
            steps.reshape(-1, 2, 2),
            array=np.repeat((self.times[1:] + self.times[:-1]) / 2, steps.shape[1]),
            cmap="viridis",
            lw=1.0,
        )
        self.ax_.add_collection(lines)
        self.ax_.plot(*self.paths[0].T, ".", color="0.6", ms=4, label=f"$t$ = {self.times[0]:.3g}")
        self.ax_.plot(
            *self.paths[-1].T, ".", color="black", ms=4, label=f"$t$ = {self.times[-1]:.3g}"
        )
        if self.field is not None:
            points, velocity = self.field
            self.ax_.quiver(
                *points.T, *velocity.T, color=VERMILLION, alpha=0.75, width=0.0035,
                label=f"velocity at $t$ = {self.field_time:.3g}",
            )  # fmt: skip
        if colorbar:
            self.figure_.colorbar(lines, ax=self.ax_, label="time $t$")
        self.ax_.set(
            xlabel=coordinate_label(self.names, self.coordinates[0]),
            ylabel=coordinate_label(self.names, self.coordinates[1]),
        )
        self.ax_.margins(0.05)
        self.ax_.legend(
            fontsize="small", frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3
        )


def velocity_field(fit, t: float, pair, n: int):
    """Points (m, 2) and velocities (m, 2) of two coordinates, where the law has mass."""
    columns = list(pair)
    draws = _densities.points_of(fit, t, 2**13)
    low, high = np.quantile(draws[:, columns], [0.005, 0.995], axis=0)
    edges = [np.linspace(a, b, n + 1) for a, b in zip(low, high, strict=True)]
    middles = [(edge[1:] + edge[:-1]) / 2 for edge in edges]
    first, second = draws[:, columns].T
    counts = np.histogram2d(first, second, edges)[0]
    kept = counts >= 3
    points = np.stack(np.meshgrid(*middles, indexing="ij"), -1)[kept]
    if fit.n_features_in_ == 2:
        at = points if pair == (0, 1) else points[:, ::-1]
        return points, fit.velocity(at, t)[:, columns]
    velocity = fit.velocity(draws, t)[:, columns]
    sums = [np.histogram2d(first, second, edges, weights=v)[0] for v in velocity.T]
    return points, np.stack([total[kept] / counts[kept] for total in sums], -1)
