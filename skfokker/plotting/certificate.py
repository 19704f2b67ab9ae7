"""The certified bound over time, beside the true error where that is known."""

from __future__ import annotations

import numpy as np

from .. import metrics
from ._style import BLUE, GREEN, VERMILLION, axes_row


class CertificateDisplay:
    """Upper bound on KL(fit | exact) over time, on a logarithmic axis.

    Parameters
    ----------
    times, bound, estimate : ndarray (k,)
        The bound at its confidence level, and the estimate of the bound (level 1/2).
    confidence : float
    error_times, errors : ndarray or None
        The true KL divergence where a reference is known.

    Attributes
    ----------
    ax_ : Axes
    figure_ : Figure
    """

    def __init__(self, times, bound, estimate, confidence, error_times=None, errors=None):
        self.times, self.bound, self.estimate = times, bound, estimate
        self.confidence, self.error_times, self.errors = confidence, error_times, errors

    @classmethod
    def from_estimator(cls, fit, *, reference=None, times=None, ax=None):
        """Draw the certificate of a fit.

        Parameters
        ----------
        fit : ParametricFokkerPlanck
        reference : Problem, optional
            With ``log_density(x, t)``, as those of :mod:`skfokker.problems`.
        times : array-like, optional
            Where the true error is computed; eight over the span where not given.
        ax : Axes, optional
        """
        certificate = fit.certificate_
        if certificate is None:
            raise ValueError("This fit has no certificate.")
        t = certificate.times[1:]
        errors = None
        if reference is not None:
            if times is None:
                times = np.linspace(0, t[-1], 9)[1:]
            times = np.asarray(times, dtype=float)
            errors = np.array([metrics.kl_to_exact(fit, reference, float(s)) for s in times])
        return cls(
            t,
            certificate.kl(t),
            certificate.kl(t, confidence=0.5),
            certificate.confidence,
            times if errors is not None else None,
            errors,
        ).plot(ax)

    def plot(self, ax=None):
        """Draw on ``ax``, or on a new figure."""
        self.ax_ = axes_row(ax, 1, size=(4.8, 3.4))[0]
        self.figure_ = self.ax_.figure
        percent = f"{100 * self.confidence:g} %"
        self.ax_.semilogy(self.times, self.bound, color=BLUE, label=f"certified ({percent})")
        self.ax_.semilogy(self.times, self.estimate, "--", color=GREEN, lw=1, label="its estimate")
        if self.errors is not None:
            known = self.errors > 0
            t, size = self.error_times, np.abs(self.errors)
            self.ax_.semilogy(
                t[known], size[known], "o", color=VERMILLION, ms=5, label="true error"
            )
            if not known.all():  # an estimate below zero is as small as its own error
                self.ax_.semilogy(
                    t[~known], size[~known], "o", mfc="none", color=VERMILLION, ms=5,
                    label="true error, below what can be resolved",
                )  # fmt: skip
        top = self.bound.max()
        if top > 0:  # the first intervals may be orders below everything else
            lowest = max(self.bound[self.bound > 0].min(), 1e-4 * top)
            if self.errors is not None and self.errors.any():
                lowest = min(lowest, np.abs(self.errors[self.errors != 0]).min())
            self.ax_.set_ylim(lowest / 3, top * 4)
        self.ax_.set(xlabel="time $t$", ylabel="KL(fit | exact), nats", xlim=(0, self.times[-1]))
        self.ax_.legend(frameon=False, fontsize="small")
        return self
