"""The gradient flow of H in the flat metric of the parameters: Figure 16's foil."""

from __future__ import annotations

from .euler import ForwardEuler


class FlatGradient(ForwardEuler):
    r"""theta_{k+1} = theta_k - h grad H(theta_k): what the metric of (27) is there to correct.

    H decreases as well, to the same Gibbs law where the family holds it, but the path of laws
    is not that of the Fokker-Planck equation and depends on how the map is parametrised
    (Figure 16 of the paper).

    Parameters
    ----------
    step : float, default=0.005
        Largest time step h; the march is divided into equal ones. Stability asks for h below 2
        over the largest curvature of H in theta.
    n_samples : int or None, default=None
        Scrambled Sobol points of the expectations. None takes about 12 equations an unknown,
        from 512 to 8192.
    resample : bool, default=True
        New points at every step; False keeps the first ones.

    Raises
    ------
    FloatingPointError
        If the march diverges.
    """

    def __init__(self, step: float = 0.005, n_samples: int | None = None, resample: bool = True):
        super().__init__(step=step, n_samples=n_samples, resample=resample)

    def _velocity(self, flow, theta, x, slope):
        return -slope
