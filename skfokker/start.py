"""Where a march starts and in which coordinates it is made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .flows.frame import Frame
from .initial import initial_moments
from .potentials import Potential
from .potentials.jumps import refuse_jumps, refuse_wrong_gradients
from .structure import Structure, probe

LAPLACE = "laplace"  # what `initial` may be in the place of a law


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
        """
        d = potential.n_features_in_
        searched = isinstance(initial, str) and initial == LAPLACE and frame is None
        if searched:
            from .bayes import laplace_start  # which needs the estimator's modules

            initial = laplace_start(potential, beta, random_state)
        if frame is None:
            mean, scale = initial_moments(initial, d, device)
            refuse_wrong_gradients(potential, mean, scale)
            if not potential.has_walls:
                refuse_jumps(potential, mean, scale, beta)
            structure = probe(potential, mean, scale)
            if not (searched and precondition):
                return cls(potential, initial, scale, structure)
            if structure.separable:
                # a full root would couple coordinates that V leaves alone
                scale = torch.diag(scale.square().sum(1).sqrt())
            frame = Frame(mean.cpu().numpy(), scale.cpu().numpy())
        from .bayes.precondition import Preconditioned

        inner = Preconditioned(potential, frame.mean, frame.root)
        mean, scale = initial_moments(None, d, device)
        return cls(inner, None, scale, probe(inner, mean, scale), frame)
