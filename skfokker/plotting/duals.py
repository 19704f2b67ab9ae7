"""What Algorithm 1 does inside a time step: its dual potential and its inner losses."""

from __future__ import annotations

import numpy as np
import torch

from . import _densities
from ._style import VERMILLION, axes_row, check_coordinates, coordinate_label, time_colours


class DualPotentialDisplay:
    """The dual potential at the end of chosen time steps, as surfaces or heat maps.

    phi / h is drawn, shifted to mean zero over the law: the velocity potential, whose exact value
    is -(V + beta log rho).

    Parameters
    ----------
    times : ndarray (k,)
    pair : (int, int)
    x, y : list of ndarray (n,)
        Grid of every time.
    values : list of ndarray (n, n)
        Rows along y; NaN where the law has no mass.

    Attributes
    ----------
    axes_ : ndarray of Axes (one a time)
    figure_ : Figure
    """

    def __init__(self, times, pair, x, y, values):
        self.times, self.pair, self.x, self.y, self.values = times, pair, x, y, values

    @classmethod
    def from_estimator(
        cls, fit, times=None, *, coordinates=(0, 1), kind="surface", n_grid=61, ax=None
    ):
        """Draw the duals that an `AdamNested` march kept (``keep_dual``).

        Parameters
        ----------
        fit : ParametricFokkerPlanck
        times : array-like, optional
            The nearest stored duals are shown; the first, middle and last where not given.
        coordinates : (int, int)
            The plane; other coordinates are at the mean of the law.
        kind : {"surface", "heatmap"}
        n_grid : int
        ax : Axes or array of Axes, optional
            3-D ones for surfaces.
        """
        kept = [(k, r) for k, r in enumerate(fit.history_) if r.get("dual") is not None]
        if not kept:
            raise ValueError(
                "This fit kept no dual potentials: use AdamNested(keep_dual=True) or "
                "AdamNested(keep_dual={1, 10, ...})."
            )
        stored = np.array([r["t"] for _, r in kept])
        if times is None:
            chosen = sorted({0, len(kept) // 2, len(kept) - 1})
        else:
            chosen = sorted({int(np.abs(stored - t).argmin()) for t in np.atleast_1d(times)})
        pair = check_coordinates(coordinates, fit.n_features_in_, 2)
        grids_x, grids_y, values = [], [], []
        for index in chosen:
            k, record = kept[index]
            before = float(fit.history_[k - 1]["t"])  # phi is a function of the points T_k(X)
            draws = _densities.points_of(fit, before, 2**12)
            low, high = np.quantile(draws[:, list(pair)], [0.002, 0.998], axis=0)
            x, y = (np.linspace(a, b, n_grid) for a, b in zip(low, high, strict=True))
            points = np.tile(draws.mean(0), (n_grid**2, 1))
            points[:, pair[0]] = np.tile(x, n_grid)
            points[:, pair[1]] = np.repeat(y, n_grid)
            with torch.no_grad():
                phi, mean = (
                    record["dual"].value(torch.as_tensor(p)).numpy() for p in (points, draws)
                )
            grids_x.append(x)
            grids_y.append(y)
            values.append(((phi - mean.mean()) / record["h"]).reshape(n_grid, n_grid))
        return cls(stored[chosen], pair, grids_x, grids_y, values).plot(ax, kind=kind)

    def plot(self, ax=None, *, kind="surface"):
        """Draw; ``ax`` is None, one Axes, or one a time."""
        if kind not in ("surface", "heatmap"):
            raise ValueError(f'kind must be "surface" or "heatmap", got {kind!r}.')
        options = {"subplot_kw": {"projection": "3d"}} if kind == "surface" else {}
        size = (3.9, 3.6) if kind == "surface" else (3.6, 3.2)
        self.axes_ = axes_row(ax, len(self.times), size=size, **options)
        self.figure_ = self.axes_[0].figure
        labels = [coordinate_label(None, i) for i in self.pair]
        for k, axis in enumerate(self.axes_):
            x, y, value = self.x[k], self.y[k], self.values[k]
            if kind == "surface":
                axis.plot_surface(
                    *np.meshgrid(x, y), value, cmap="viridis", rcount=61, ccount=61, lw=0
                )
                axis.view_init(28, -125)
                axis.set_zlabel(r"$\varphi / h$", labelpad=4)
                axis.set_box_aspect(None, zoom=0.84)
            else:
                mesh = axis.pcolormesh(x, y, value, cmap="viridis", shading="gouraud")
                axis.contour(x, y, value, 8, colors="white", linewidths=0.6)
                self.figure_.colorbar(mesh, ax=axis, label=r"$\varphi / h$")
            axis.set(title=f"step to $t$ = {self.times[k]:.3g}", xlabel=labels[0], ylabel=labels[1])
        return self


class InnerLossDisplay:
    """Losses of the inner loop, one curve a time step.

    Parameters
    ----------
    times : ndarray (k,)
        Ends of the time steps.
    losses : list of ndarray (n_outer, n_inner)
        In units of epsilon^2.

    Attributes
    ----------
    ax_ : Axes
    figure_ : Figure
    """

    def __init__(self, times, losses):
        self.times, self.losses = times, losses

    @classmethod
    def from_estimator(cls, fit, times=None, *, ax=None):
        """Draw the losses that an `AdamNested` march kept (``keep_inner_losses``).

        Parameters
        ----------
        fit : ParametricFokkerPlanck
        times : array-like, optional
            The nearest time steps are shown; the first, middle and last where not given.
        ax : Axes, optional
        """
        kept = [r for r in fit.history_ if r.get("inner_losses") is not None]
        if not kept:
            raise ValueError(
                "This fit kept no inner losses: use AdamNested(keep_inner_losses=True)."
            )
        stored = np.array([r["t"] for r in kept])
        if times is None:
            chosen = sorted({0, len(kept) // 2, len(kept) - 1})
        else:
            chosen = sorted({int(np.abs(stored - t).argmin()) for t in np.atleast_1d(times)})
        return cls(stored[chosen], [np.asarray(kept[k]["inner_losses"]) for k in chosen]).plot(ax)

    def plot(self, ax=None):
        """Draw on ``ax``, or on a new figure."""
        self.ax_ = axes_row(ax, 1, size=(6.5, 3.4))[0]
        self.figure_ = self.ax_.figure
        for t, losses, colour in zip(
            self.times, self.losses, time_colours(self.times), strict=True
        ):
            self.ax_.semilogy(losses.ravel(), color=colour, lw=0.9, label=f"step to $t$ = {t:.3g}")
            ends = np.arange(1, len(losses) + 1) * losses.shape[1] - 1
            self.ax_.semilogy(ends, losses[:, -1], ".", color=VERMILLION, ms=3)
        self.ax_.plot([], [], ".", color=VERMILLION, label="end of an inner loop")
        self.ax_.set(
            xlabel="inner iteration of the time step",
            ylabel=r"E$|\nabla\varphi - (T_\theta - T_k)/\epsilon|^2$",
        )
        self.ax_.legend(frameon=False, fontsize="small")
        return self
