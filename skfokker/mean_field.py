r"""Bounds where the drift depends on the law: what a residual in the fit's own field leaves out.

Let F[mu](x) = -E_mu[grad W(x - X')] with |grad W(r) - grad W(r')| <= L |r - r'|, and let l be a
one-sided Lipschitz constant of the drift b: (x - y) . (b(x) - b(y)) <= l |x - y|^2. A fit moves
with the velocity of the equation in its own field, and r more, so that rho_theta is the law of

    dY = (b(Y) + F[rho_theta](Y) + r(Y)) dt + sigma dB ,   dX = (b(X) + F[rho](X)) dt + sigma dB

being the solution. Driven by the same noise, where D is the same everywhere, and with (X', Y') an
independent copy of (X, Y), u^2 = E|Y - X|^2 obeys

    u u' = E[(Y - X) . (b(Y) - b(X) + r(Y))] - E[(Y - X) . (grad W(Y - Y') - grad W(X - X'))]
         <= l u^2 + |r| u + L u^2 ,

as W is even, so that the last mean is half of E[Z . (grad W(Y - Y') - grad W(X - X'))] with
Z = Y - X - (Y' - X'), and E|Z|^2 <= 2 u^2. From the best coupling at t = 0

    W2(rho_theta, rho) <= w ,   w' = (l + L) w + |r| ,   w(0) = W2(0) .

The fields of the two laws then differ by at most L w everywhere. With that as a further residual,
in the norm of D^-1 and by Minkowski's inequality,

    KL(rho_theta | rho) <= (sqrt(K) + sqrt(B))^2 ,   B = 1/4 int_0^t L^2 w^2 / lambda_min(D) ds ,

K being the bound in the field of the fit. The equation in that field is linear: it contracts L1,
and its law and rho are within sqrt(B / 2) of each other in total variation, by Girsanov's theorem
and Pinsker's inequality.

F is a mean over finitely many points. Fresh ones for every look, which the march has not seen, add
noise of mean zero to r and eps: E|r|^2 and E|eps| can only become larger by it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class MeanFieldGrowth:
    """How an error grows that moves the field it moves in.

    Attributes
    ----------
    times : ndarray (k,)
    residual, variance : ndarray (k - 1,)
        E|r|^2 on each interval, and variances of these estimates.
    rate : ndarray (k - 1,)
        l + L, at most.
    lipschitz : float
        L.
    noise : ndarray (k - 1,)
        Smallest eigenvalue of D, at least.
    start : float
        W2 distance at t = 0.
    """

    times: np.ndarray
    residual: np.ndarray
    variance: np.ndarray
    rate: np.ndarray
    lipschitz: float
    noise: np.ndarray
    start: float = 0.0

    def w2(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """Bounds w at ``times``, and on every interval between its ends."""
        quantile = float(stats.t.ppf(level, df=max(len(self.times) - 1, 1)))
        size = np.sqrt(self.residual + quantile * np.sqrt(self.variance))
        ends, inside = [self.start], []
        for h, residual, rate in zip(np.diff(self.times), size, self.rate, strict=True):
            grown = np.exp(rate * h)
            # int_0^h exp(rate (h - s)) |r(s)| ds, by Schwarz's inequality
            weight = h if abs(rate * h) < 1e-9 else np.expm1(2 * rate * h) / (2 * rate)
            added = np.sqrt(h * weight) * residual
            inside.append(max(1.0, grown) * ends[-1] + max(1.0, grown) * h * residual)
            ends.append(grown * ends[-1] + added)
        return np.array(ends), np.array(inside)

    def exchanged(self, level: float) -> tuple[np.ndarray, np.ndarray]:
        """B at ``times``, and on every interval."""
        inside = self.w2(level)[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            rate = np.where(inside > 0, (self.lipschitz * inside) ** 2 / (4 * self.noise), 0.0)
        ends = np.concatenate([[0.0], np.cumsum(np.diff(self.times) * rate)])
        return ends, ends[1:]
