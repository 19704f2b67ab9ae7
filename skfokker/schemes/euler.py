"""Forward Euler on the parameter equation (27): the scheme (110) of the paper's analysis."""

from __future__ import annotations

import math

import torch

from .base import Scheme, Step
from .normal_equations import damped_solve
from .points import draw_seed, sobol_normal


class ForwardEuler(Scheme):
    r"""theta_{k+1} = theta_k - h Ghat^{-1} grad H(theta_k), literally (equations (27), (110)).

    grad H is that of the sample mean (26), by automatic differentiation, and the metric is the
    relaxed one, from the explicit Jacobian of the map on the same points,

    .. math:: \hat G = E_p[\partial_\theta T^T \, \partial_\theta T] \ge G.

    In one dimension every vector field is a gradient field, so the two metrics are the same
    (Corollary 4.1) and this is the paper's scheme exactly; so it is, up to the error of
    sampling, for affine maps with a quadratic potential (section 3.4). First order in h, and
    stable only for h below 2 over the stiffest rate: for the theory (Theorem 33), not for work.

    Parameters
    ----------
    step : float, default=0.005
        Largest time step h; the march is divided into equal ones.
    n_samples : int or None, default=None
        Scrambled Sobol points of the expectations. None takes about 12 equations an unknown,
        from 512 to 8192.
    damping : float, default=1e-8
        Added to the diagonal of the metric, relative to its mean.
    resample : bool, default=True
        New points at every step. False keeps the first ones: the free energy of their sample
        mean then decreases along the march, and two step sizes can be compared without noise.

    Raises
    ------
    FloatingPointError
        If the march diverges.
    """

    def __init__(
        self,
        step: float = 0.005,
        n_samples: int | None = None,
        damping: float = 1e-8,
        resample: bool = True,
    ):
        self.step = step
        self.n_samples = n_samples
        self.damping = damping
        self.resample = resample

    def steps(self, equation, flow, theta, t_start, t_end, generator):
        if not self.step > 0:
            raise ValueError(f"step must be positive, got {self.step!r}")
        d, m = equation.d, flow.n_parameters(equation.d)
        n = self.n_samples or min(8192, max(512, 2 ** math.ceil(math.log2(12 * m / d))))
        n_steps = max(1, math.ceil((t_end - t_start) / self.step - 1e-9))
        h, x = (t_end - t_start) / n_steps, None
        for k in range(n_steps + 1):
            if x is None or self.resample:
                x = sobol_normal(n, d, draw_seed(generator)).to(theta)
            energy, slope = self._slope(equation, flow, theta, x)
            velocity = self._velocity(flow, theta, x, slope)
            t = t_end if k == n_steps else t_start + k * h
            if not (math.isfinite(energy) and velocity.isfinite().all()):
                raise FloatingPointError(
                    f"the march diverged at t = {t:.6g} (free energy {energy:.3g}); "
                    f"try a step smaller than {h:.3g} or a larger damping."
                )
            dissipation = -float(slope @ velocity)
            record = {"h": h, "free_energy": energy, "dissipation": dissipation}
            yield Step(t, theta, velocity, record)
            theta = theta + h * velocity

    def _slope(self, equation, flow, theta, x):
        """H and grad H (m,), of the sample mean (26)."""
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            energy = equation.free_energy(flow, theta, x)
            (slope,) = torch.autograd.grad(energy, theta)
        return float(energy.detach()), slope

    def _velocity(self, flow, theta, x, slope):
        """theta' of (27)."""
        jacobian = flow.linearize(theta, x).law_jacobian().flatten(0, 1)  # (n d, m)
        metric = jacobian.T @ jacobian / len(x)
        return -damped_solve(metric, slope[:, None], self.damping)[:, 0]
