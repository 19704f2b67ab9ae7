"""Pareto k: whether importance weights from the fit to a target can be trusted."""

from __future__ import annotations

import numpy as np
import torch

from ._style import BLUE, REFERENCE, VERMILLION, axes_row


class ParetoKDisplay:
    """Pareto k of the importance weights over time.

    Below 0.7 importance sampling from the law at t to the target works; at 1 and above the
    weights have no mean.

    Parameters
    ----------
    times, k : ndarray (n,)
    label : str, optional

    Attributes
    ----------
    ax_ : Axes
    figure_ : Figure
    """

    def __init__(self, times, k, label=None):
        self.times, self.k, self.label = times, k, label

    @classmethod
    def from_estimator(
        cls,
        fit,
        times=None,
        *,
        log_target=None,
        n_samples=4000,
        random_state=0,
        label=None,
        ax=None,
    ):
        """Weigh samples of the law at every time against a target.

        Parameters
        ----------
        fit : ParametricFokkerPlanck
        times : array-like, optional
            Twelve over the span where not given.
        log_target : callable, optional
            Log density (n,), up to a constant, at points (n, d); the Gibbs law -V / beta where
            not given.
        n_samples : int
        random_state : int
        label : str, optional
        ax : Axes, optional
        """
        from ..bayes import psis

        times = np.linspace(0, fit.t_final_, 12) if times is None else np.asarray(times, float)
        if log_target is None:

            def log_target(x):
                with torch.no_grad():
                    return -fit.potential_(torch.as_tensor(x)).numpy() / fit.beta

        k = []
        for t in times:
            x = fit.sample(n_samples, t=float(t), random_state=random_state)
            k.append(psis(log_target(x) - fit.log_density(x, float(t)))[1])
        return cls(times, np.array(k), label).plot(ax)

    def plot(self, ax=None):
        """Draw on ``ax``, or on a new figure."""
        self.ax_ = axes_row(ax, 1, size=(4.8, 3.4))[0]
        self.figure_ = self.ax_.figure
        good = self.k < 0.7
        self.ax_.plot(self.times, self.k, color="0.75", lw=1)
        self.ax_.plot(self.times[good], self.k[good], "o", color=BLUE, label="$k$ < 0.7: reliable")
        self.ax_.plot(self.times[~good], self.k[~good], "s", color=VERMILLION, label="not reliable")
        for level in (0.5, 0.7, 1.0):
            self.ax_.axhline(level, ls=":", lw=1, color=REFERENCE)
        self.ax_.set(xlabel="time $t$", ylabel="Pareto $k$ of the weights", title=self.label or "")
        self.ax_.legend(frameon=False, fontsize="small")
        return self
