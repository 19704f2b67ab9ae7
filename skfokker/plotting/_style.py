"""What the displays share: axes, colours that everybody can tell apart, labels, times."""

from __future__ import annotations

import numpy as np

# M. Okabe, K. Ito, "Color universal design" (2008).
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, BLACK = "#56B4E9", "#CC79A7", "#000000"
SEQUENCE = [BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK]
REFERENCE = "#555555"


def pyplot():
    """matplotlib.pyplot, or a sentence about how to get it."""
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            "Plots need matplotlib, which is not installed: pip install 'skfokker[plot]'."
        ) from error
    return plt


def axes_row(ax, n: int, *, size=(3.6, 3.4), columns: int | None = None, **options) -> np.ndarray:
    """n axes as an array (n,): new ones, the ones given, or one given axes cut into n.

    Parameters
    ----------
    ax : None, Axes or array of n Axes
    n : int
    size : (float, float)
        Of one new axes, in inches.
    columns : int, optional
        At most so many in a row (4).
    **options
        For ``subplots`` (``sharex``, ``subplot_kw``, ...).
    """
    if ax is None:
        columns = min(n, columns or 4)
        rows = -(-n // columns)
        figure, axes = pyplot().subplots(
            rows,
            columns,
            figsize=(max(size[0] * columns, 4.8), size[1] * rows),
            layout="constrained",
            squeeze=False,
            **options,
        )
        for unused in axes.ravel()[n:]:
            unused.set_visible(False)
        return axes.ravel()[:n]
    given = np.atleast_1d(np.asarray(ax, dtype=object)).ravel()
    if len(given) == n:
        return given
    if len(given) != 1:
        raise ValueError(f"ax must be one Axes or {n} of them, got {len(given)}.")
    outer = given[0]
    if outer.get_subplotspec() is None:
        raise ValueError(f"ax must be {n} Axes here: this one is not part of a grid to divide.")
    outer.set_axis_off()
    grid = outer.get_subplotspec().subgridspec(1, n)
    return np.array([outer.figure.add_subplot(grid[k]) for k in range(n)], dtype=object)


def time_colours(times) -> list:
    """One viridis colour a time, from dark (early) to light; the palest end is left out."""
    pyplot()
    from matplotlib import colormaps

    return [colormaps["viridis"](s) for s in np.linspace(0.0, 0.86, max(len(times), 1))]


def coordinate_label(names, i: int) -> str:
    """Label of coordinate i (from 0): its column name, or x with its number from 1."""
    if names is not None:
        return str(names[i])
    return f"$x_{i + 1}$" if i < 9 else f"$x_{{{i + 1}}}$"


def feature_names(fit):
    """Column names of a fit to a data frame, or None."""
    return getattr(fit, "feature_names_in_", None)


def as_times(fit, times, n: int) -> np.ndarray:
    """The times asked for, or n that show the motion of the law."""
    if times is not None:
        return np.atleast_1d(np.asarray(times, dtype=float))
    return spread_times(fit, n)


def spread_times(fit, n: int) -> np.ndarray:
    """At most n times from 0 to the end between which samples move equally far, rounded."""
    t = np.array([record["t"] for record in fit.history_])
    square = np.array([record.get("force", np.nan) for record in fit.history_], dtype=float)
    if len(t) < 3 or not np.isfinite(square).all() or square.max() == 0:
        return np.linspace(0, fit.t_final_, n)
    speed = np.sqrt(square)
    way = np.concatenate([[0.0], np.cumsum(np.diff(t) * (speed[1:] + speed[:-1]) / 2)])
    # half by distance, half by time: the slow approach to equilibrium is shown as well
    clock = 0.7 * way / way[-1] + 0.3 * t / t[-1]
    times = np.interp(np.linspace(0, 1, n), clock, t)
    times[1:-1] = [float(f"{t:.2g}") for t in times[1:-1]]
    return np.unique(np.clip(times, 0, fit.t_final_))


def check_coordinates(coordinates, d: int, n: int | None = None) -> tuple[int, ...]:
    """Coordinates as a tuple of distinct indices below d."""
    chosen = tuple(int(i) for i in np.atleast_1d(coordinates))
    if n is not None and len(chosen) != n:
        raise ValueError(f"coordinates must be {n} indices, got {coordinates!r}.")
    if len(set(chosen)) < len(chosen) or not all(0 <= i < d for i in chosen):
        raise ValueError(
            f"coordinates must be distinct indices from 0 to {d - 1}, got {coordinates!r}."
        )
    return chosen
