"""The law in a plane as it moves."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from . import _densities
from ._style import axes_row, check_coordinates, coordinate_label, feature_names, pyplot


def animate(
    fit,
    times=None,
    *,
    coordinates=(0, 1),
    extent=None,
    n_grid=81,
    n_samples=300,
    filename=None,
    fps=12,
    dpi=90,
    ax=None,
):
    """Animate rho_t in a plane: a heat map of the density, and particles that follow the flow.

    Parameters
    ----------
    fit : ParametricFokkerPlanck
    times : array-like (k,), optional
        One a frame; 48 over the span where not given, denser where the law is faster at first.
    coordinates : (int, int)
    extent : (x_low, x_high, y_low, y_high), optional
    n_grid : int
        Points a side.
    n_samples : int
        Particles; 0 for none.
    filename : path-like, optional
        Written where given: ``.gif`` (by pillow) or ``.html`` (a page with controls).
    fps : int
        Frames a second.
    dpi : int
        Dots an inch of a GIF.
    ax : Axes, optional

    Returns
    -------
    matplotlib.animation.FuncAnimation
        Keep a reference to it, or it is not drawn.

    Raises
    ------
    ValueError
        If the file name ends in neither .gif nor .html.
    """
    pyplot()
    from matplotlib.animation import FuncAnimation, PillowWriter

    if filename is not None and Path(filename).suffix not in (".gif", ".html"):
        raise ValueError(f"filename must end in .gif or .html, got {str(filename)!r}.")
    if times is None:
        times = fit.t_final_ * np.linspace(0, 1, 48) ** 1.5
    times = np.asarray(times, dtype=float)
    pair = check_coordinates(coordinates, fit.n_features_in_, 2)
    if extent is None:
        extent = [b for i in pair for b in _densities.span(fit, times[:: len(times) // 6 or 1], i)]
    x, y = np.linspace(*extent[:2], n_grid), np.linspace(*extent[2:], n_grid)
    densities = [_densities.plane(fit, float(t), pair, x, y) for t in times]
    axis = axes_row(ax, 1, size=(4.8, 4.2))[0]
    image = axis.imshow(
        densities[0], origin="lower", extent=extent, aspect="auto", cmap="viridis",
        interpolation="bilinear", vmin=0,
    )  # fmt: skip
    dots, paths = None, None
    if n_samples:
        paths = fit.paths(n_samples, times, random_state=0)[:, :, list(pair)]
        (dots,) = axis.plot(*paths[0].T, ".", color="white", ms=2.2, alpha=0.7)
    names = feature_names(fit)
    axis.set(
        xlim=extent[:2],
        ylim=extent[2:],
        xlabel=coordinate_label(names, pair[0]),
        ylabel=coordinate_label(names, pair[1]),
    )
    axis.figure.colorbar(image, ax=axis, label="density, relative to its maximum")
    image.set_clim(0, 1)

    def show(k):
        # every frame has its own scale: a spreading law would otherwise fade away
        image.set_data(densities[k] / densities[k].max())
        if dots is not None:
            dots.set_data(*paths[k].T)
        axis.set_title(f"$t$ = {times[k]:.2f}")
        return [image]

    animation = FuncAnimation(axis.figure, show, len(times), interval=1000 / fps)
    if filename is not None and Path(filename).suffix == ".gif":
        animation.save(filename, writer=PillowWriter(fps=fps), dpi=dpi)
    elif filename is not None:
        Path(filename).write_text(animation.to_jshtml(fps=fps), encoding="utf-8")
    return animation
