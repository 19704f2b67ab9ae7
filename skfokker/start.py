"""Where a march starts and in which coordinates it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .dynamics.blocks import find_root
from .dynamics.coordinates import in_frame
from .dynamics.general import GeneralFokkerPlanck
from .dynamics.structure import ROUNDING
from .dynamics.structure import probe as probe_equation
from .equation import FokkerPlanck
from .flows.frame import Frame
from .initial import Gaussian, initial_moments, initial_shape
from .potentials import Potential
from .potentials.jumps import refuse_jumps, refuse_wrong_gradients
from .rest import relaxation_time
from .rotation import NOISE, find_rotation
from .scout import send
from .stationary import settling_time
from .structure import Structure, components, probe, probe_in_time

LAPLACE = "laplace"  # what `initial` may be in the place of a law
_N_AHEAD, _STEPS_AHEAD = 32, 100  # particles sent ahead to see where V has to be looked at
_ROUNDING = 1e-7  # relative size of what is nothing in a covariance that was turned


@dataclass(frozen=True)
class Start:
    """What a solver has to know of the problem at t = 0.

    Attributes
    ----------
    potential : Potential
        V in the coordinates of the march.
    initial
        The law at t = 0 in these coordinates, as ``initial_parameters`` takes it.
    scale : Tensor (d, d)
        A root of its covariance.
    structure : Structure
        Of V in these coordinates.
    frame : Frame or None
        The map from them to those of the user; None where they are the same.
    """

    potential: Potential
    initial: Any
    scale: Tensor
    structure: Structure
    frame: Frame | None = None

    @property
    def reason(self) -> str | None:
        """Why the march is made in other coordinates; None where it is in those of the user."""
        if self.frame is None or not _is_turned(self.frame):
            return None
        sizes = sorted(map(len, self._blocks), reverse=True)
        what = "a rotation that splits V"
        if isinstance(self.potential, GeneralFokkerPlanck):
            what = "linear coordinates that split the equation"
        return f"frame: {what} into blocks of {', '.join(map(str, sizes))}"

    @classmethod
    def of(
        cls,
        initial: Any,
        potential: Potential,
        beta: float,
        random_state: Any,
        device: torch.device,
        *,
        precondition: bool = False,
        frame: Frame | None = None,
        rotate: bool = False,
        horizon: float | None = None,
    ) -> Start:
        """Look at a problem.

        Parameters
        ----------
        initial, random_state
            Parameters of the estimator.
        potential : Potential
        beta : float
        device : torch.device
        precondition : bool
            Whether initial="laplace" also sets the coordinates.
        frame : Frame, optional
            Coordinates of a march that is to be continued.
        rotate : bool
            Whether the march may be made in coordinates that V falls into blocks of; see
            :mod:`skfokker.rotation`.
        horizon : float, optional
            Of the march; None where that is to be at equilibrium.
        """
        d = potential.n_features_in_
        searched = isinstance(initial, str) and initial == LAPLACE
        if searched and (frame is None or _is_orthogonal(frame)):
            from .bayes import laplace_start  # which needs the estimator's modules

            initial = laplace_start(potential, beta, random_state)
        if frame is not None:
            # any that is not a rotation is that of a Laplace start, which is N(0, I) behind it
            initial = _pulled_back(initial, frame, d) if _is_orthogonal(frame) else None
            return cls._behind(frame, potential, initial, device)
        mean, scale = initial_moments(initial, d, device)
        refuse_wrong_gradients(potential, mean, scale)
        if not potential.has_walls:
            refuse_jumps(potential, mean, scale, beta)
        if not getattr(potential, "steady", True):
            assert horizon is not None  # nothing comes to rest in a potential that moves
            times = [0.0, 0.37 * horizon, horizon]
            return cls(potential, initial, scale, probe_in_time(potential, mean, scale, times))
        start = cls(potential, initial, scale, probe(potential, mean, scale))
        if searched and precondition:
            if start.structure.separable:
                # a full root would couple coordinates that V leaves alone
                scale = torch.diag(scale.square().sum(1).sqrt())
            frame = Frame(mean.cpu().numpy(), scale.cpu().numpy())
            start = cls._behind(frame, potential, None, device)
        return start._turned(potential, beta, horizon) if rotate else start

    @classmethod
    def general(
        cls,
        initial: Any,
        equation: Any,
        device: torch.device,
        horizon: float | None,
        *,
        frame: Frame | None = None,
        rotate: bool = False,
    ) -> Start:
        """Look at an equation that is no gradient flow; ``potential`` is then that equation.

        Parameters as of :meth:`of`; ``horizon`` is None where the march is to go on until the law
        rests.
        """
        d = equation.d
        if isinstance(initial, str):
            raise ValueError(
                f"initial={initial!r} is the start of a march to the equilibrium exp(-V / beta), "
                "which this equation does not have: give a Gaussian, a distribution or draws."
            )
        if horizon is None:
            horizon = settling_time(equation, *initial_moments(initial, d, device))
        times = [0.0, 0.21 * horizon, 0.63 * horizon, horizon]
        if frame is not None:
            equation, initial = in_frame(equation, frame, times), _pulled_back(initial, frame, d)
        mean, scale = initial_moments(initial, d, device)
        generator = torch.Generator().manual_seed(8)
        starts = torch.randn(_N_AHEAD, d, dtype=torch.float64, generator=generator).to(mean)
        ends = send(equation, mean + starts @ scale.T, horizon, generator, _STEPS_AHEAD).ends
        ends = ends[torch.isfinite(ends).all(1)]
        tolerance = ROUNDING if frame is None else NOISE
        structure = probe_equation(equation, mean, scale, times, ends, tolerance)
        start = cls(equation.seen(structure), initial, scale, structure, frame)
        constant = equation.terms[1].constant and not equation.mean_field
        constant = constant and equation.porous is None
        if rotate and constant and not structure.quadratic and initial_shape(initial, d)[0]:
            root = find_root(equation, mean, scale, structure, times, ends)
            if root is not None:
                frame = Frame(mean.cpu().numpy(), root)
                turned = cls.general(initial, equation, device, horizon, frame=frame)
                start = turned if len(turned._blocks) > len(start._blocks) else start
        equation.move_to(0.0)
        if equation.porous is not None:  # coordinates share the density that all of them feel
            structure = Structure(False, np.ones((d, d), dtype=bool))
            seen = equation.seen(structure)
            seen.interacts, seen.separable = structure.interacts, d == 1
            return cls(seen, initial, scale, structure)
        return start

    @property
    def _blocks(self) -> list[np.ndarray]:
        """Coordinates that have to do with each other, or did at the start."""
        return components(self.structure.interacts, self.scale @ self.scale.T)

    @classmethod
    def _behind(cls, frame: Frame, potential: Potential, initial: Any, device) -> Start:
        """The march in the coordinates of a frame; ``initial`` is what it starts from there."""
        from .bayes.precondition import Preconditioned

        inner = Preconditioned(potential, frame.mean, frame.root)
        mean, scale = initial_moments(initial, potential.n_features_in_, device)
        structure = probe(inner, mean, scale, tolerance=NOISE if _is_turned(frame) else 1e-6)
        return cls(inner, initial, scale, structure, frame)

    def _turned(self, potential: Potential, beta: float, horizon: float | None) -> Start:
        """The same problem in coordinates that it falls into blocks of, where there are any."""
        d, device = len(self.scale), self.scale.device
        if d < 3 or self.structure.quadratic or self.structure.separable or potential.has_walls:
            return self
        if not initial_shape(self.initial, d)[0]:
            return self
        mean, scale = initial_moments(self.initial, d, device)
        before = self._blocks
        if max(map(len, before)) <= 2:
            return self
        generator = torch.Generator().manual_seed(8)
        starts = torch.randn(_N_AHEAD, d, dtype=torch.float64, generator=generator).to(mean)
        equation = FokkerPlanck(self.potential, beta, d)
        horizon = relaxation_time(scale, beta) if horizon is None else horizon
        ends = send(equation, mean + starts @ scale.T, horizon, generator, _STEPS_AHEAD).ends
        ends = ends[torch.isfinite(ends).all(1)]
        rotation = find_rotation(self.potential, mean, scale, self.structure.interacts, ends)
        if rotation is None:
            return self
        if self.frame is None:
            frame = Frame(mean.cpu().numpy(), rotation)
            initial = _pulled_back(self.initial, frame, d)
        else:  # where the start is N(0, I), however it is turned
            frame, initial = Frame(self.frame.mean, self.frame.root @ rotation), None
        start = self._behind(frame, potential, initial, device)
        return start if len(start._blocks) > len(before) else self


def _is_turned(frame: Frame) -> bool:
    """Whether a frame mixes coordinates otherwise than a Cholesky factor does."""
    return bool(np.triu(frame.root, 1).any())


def _is_orthogonal(frame: Frame) -> bool:
    return np.allclose(frame.root.T @ frame.root, np.eye(len(frame.root)), rtol=0, atol=1e-10)


def _pulled_back(initial: Any, frame: Frame, d: int) -> Gaussian | None:
    """A Gaussian start in the coordinates of a frame; None for N(0, I)."""
    mean, scale = (a.numpy() for a in initial_moments(initial, d, torch.device("cpu")))
    inverse = np.linalg.inv(frame.root)
    covariance = inverse @ (scale @ scale.T) @ inverse.T
    covariance = (covariance + covariance.T) / 2
    width = np.sqrt(np.diag(covariance))
    # blocks that are independent but for rounding are to be independent
    covariance[np.abs(covariance) < _ROUNDING * np.outer(width, width)] = 0.0
    mean = inverse @ (mean - frame.mean)
    mean[np.abs(mean) < 1e-12 * width] = 0.0
    if not mean.any() and np.allclose(covariance, np.eye(d), rtol=0, atol=1e-12):
        return None
    return Gaussian(mean, covariance)
