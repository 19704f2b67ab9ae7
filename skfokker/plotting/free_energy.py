"""The free energy along the march."""

from __future__ import annotations

import numpy as np

from ._style import BLUE, REFERENCE, axes_row


class FreeEnergyDisplay:
    """H(theta(t)), or its excess over the equilibrium value on a logarithmic axis.

    Parameters
    ----------
    times, values : ndarray (k,)
    equilibrium : float or None
        H of the Gibbs law, -beta log Z.
    excess : bool
        Show H - equilibrium.
    rate : float or None
        lambda with Hess V >= lambda: the excess falls at least like exp(-2 lambda t).
    label : str, optional

    Attributes
    ----------
    ax_ : Axes
    figure_ : Figure
    """

    def __init__(self, times, values, equilibrium=None, excess=False, rate=None, label=None):
        self.times, self.values, self.equilibrium = times, values, equilibrium
        self.excess, self.rate, self.label = excess, rate, label

    @classmethod
    def from_estimator(cls, fit, *, equilibrium=None, excess=False, label=None, ax=None):
        """Draw the free energies that the scheme recorded.

        Parameters
        ----------
        fit : ParametricFokkerPlanck
        equilibrium : float, optional
            -beta log of the integral of exp(-V / beta). Taken from the potential where it knows
            its ``log_normalizer`` and beta = 1.
        excess : bool
            Show H - equilibrium on a logarithmic axis, with the rate of Theorem 16 where
            the convexity of V is known.
        label : str, optional
        ax : Axes, optional
        """
        records = [r for r in fit.history_ if r.get("free_energy") is not None]
        if not records:
            raise ValueError(f"The scheme {fit.scheme_} recorded no free energy.")
        normalizer = getattr(getattr(fit, "potential_", None), "log_normalizer", None)
        if equilibrium is None and fit.beta == 1 and normalizer is not None:
            equilibrium = -normalizer
        if excess and equilibrium is None:
            raise ValueError("excess=True needs the equilibrium value: give equilibrium=.")
        rate = getattr(fit.certificate_, "convexity", None)
        times, values = (np.array([r[name] for r in records]) for name in ("t", "free_energy"))
        return cls(times, values, equilibrium, excess, rate, label).plot(ax)

    def plot(self, ax=None):
        """Draw on ``ax``, or on a new figure."""
        self.ax_ = axes_row(ax, 1, size=(4.8, 3.4))[0]
        self.figure_ = self.ax_.figure
        self.ax_.set(xlabel="time $t$", ylabel=r"free energy $H(\theta(t))$")
        if self.excess:
            excess = self.values - self.equilibrium
            shown = excess > 0
            self.ax_.semilogy(self.times[shown], excess[shown], color=BLUE, label=self.label)
            self.ax_.set_ylabel(r"$H(\theta(t)) - H_\infty = \beta\,$KL$(\rho_t|\rho_\infty)$")
            if self.rate is not None and self.rate > 0:
                bound = excess[0] * np.exp(-2 * self.rate * (self.times - self.times[0]))
                self.ax_.semilogy(
                    self.times, bound, "--", color=REFERENCE,
                    label=r"$(H_0 - H_\infty)\,e^{-2\lambda t}$, " rf"$\lambda$ = {self.rate:.3g}",
                )  # fmt: skip
                self.ax_.set_ylim(bottom=excess[shown].min() / 2)
        else:
            self.ax_.plot(self.times, self.values, color=BLUE, label=self.label)
            if self.equilibrium is not None:
                self.ax_.axhline(
                    self.equilibrium, ls="--", color=REFERENCE, label=r"equilibrium $-\beta\log Z$"
                )
        self.ax_.set_xlim(self.times[0], self.times[-1])
        if self.ax_.get_legend_handles_labels()[1]:
            self.ax_.legend(frameon=False, fontsize="small")
        return self
