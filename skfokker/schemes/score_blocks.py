r"""F theta' = b for conditional densities: the paper's metric with the scores as duals.

With the scores phi_k = d log rho_theta / d theta_k as the span of the dual potential (and the
driving potential U = V + beta log rho, g = grad U), b(theta)^T A^-1 b(theta) of the paper is

    G = F K^-1 F ,   F = E[phi phi^T] ,   K = E[grad phi grad phi^T] ,   grad H = F u ,   b = -K u ,

so that (27) reads F theta' = b, b_k = -E[grad phi_k . g]. E[phi_i | y_<i] = 0 makes F block
diagonal over the coordinates: a fit in d dimensions is d small systems.

The coordinates fall into blocks that have nothing to do with each other. On blocks of one or two
coordinates the expectations are a quadrature, without any sampling error, at points that never
move: V is asked once (:mod:`.quadrature_block`). On larger ones they are means over Sobol points
pushed through the map (:mod:`.sampled_block`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..equation import FokkerPlanck
from ..flows.conditional import ConditionalFlow


class Diverged(ArithmeticError):
    """A trial step came to parameters at which nothing is finite."""


@dataclass
class BlockState:
    """The systems F theta' = b of a block's coordinates at one theta.

    Attributes
    ----------
    driving : float
        E|g|^2 over the block's coordinates.
    free_energy : float
        E[V + beta log rho], V up to a constant.
    force : list of Tensor (m_i,)
        b, one a coordinate.
    metric : list of Tensor (m_i, m_i)
        F.
    stiffness : list of Tensor (m_i, m_i)
        beta K, with which a step is implicit; empty where it was not asked for.
    potential_scores : list of Tensor (m_i,)
        E[phi U], the gradient of H.
    rate : list of Tensor (m_i,)
        theta'.
    noise : float
        Expected square, in the metric, of the sampling error of theta'; 0 where more points would
        not lower it.
    """

    driving: float
    free_energy: float
    force: list[Tensor] = field(default_factory=list)
    metric: list[Tensor] = field(default_factory=list)
    stiffness: list[Tensor] = field(default_factory=list)
    potential_scores: list[Tensor] = field(default_factory=list)
    rate: list[Tensor] = field(default_factory=list)
    noise: float = 0.0


class Block:
    """Coordinates that depend on each other and on no others.

    Parameters
    ----------
    flow : ConditionalFlow
    indices : sequence of int
        The coordinates, in the order of the flow.
    equation : FokkerPlanck
    centre : Tensor (d,)
        Where the coordinates of the other blocks are held while V is asked.
    damping : float
        Added to the diagonal of F, relative to its mean.

    Attributes
    ----------
    tolerance : float
        Local error of a step that suits the block, in the Fisher norm.
    n : int
        Sample points; 0 for a quadrature.
    """

    tolerance: float
    n = 0

    def __init__(
        self, flow: ConditionalFlow, indices, equation: FokkerPlanck, centre: Tensor, damping: float
    ):
        self.flow, self.indices, self.equation = flow, list(indices), equation
        self.centre, self.damping = centre, damping
        self.factors = [flow.factors[i] for i in self.indices]
        self.order = flow._order(len(centre))
        self.columns = [self.order[i] for i in self.indices]

    def state(self, thetas: list[Tensor], full: bool = True) -> BlockState:
        """The systems at these parameters, one vector a coordinate; ``full`` with stiffness.

        Raises
        ------
        Diverged
            Where the law is nothing that the block can take expectations of.
        PotentialError
            Where V is not finite where the law has mass.
        """
        raise NotImplementedError

    def renew(self, generator: torch.Generator, error: float = 0.0) -> None:
        """Draw new points, if there are any, more of them where a step's sampling error, relative
        to the one allowed, is above one."""

    def settle(self, thetas: list[Tensor]) -> None:
        """Choose what the law at the start shows to be better, if there is a choice."""

    def runs_away(self, before: BlockState, after: BlockState) -> bool:
        """Whether a step shows that :meth:`weaken` is called for."""
        return False

    def weaken(self) -> bool:
        """Take a form that is surer and less sharp; False where there is none."""
        return False

    def damped(self, metric: Tensor) -> Tensor:
        """F with the damping on its diagonal."""
        out = metric.clone()
        out.diagonal().add_(self.damping * metric.diagonal().mean())
        return out

    def solved(self, state: BlockState) -> list[Tensor]:
        """F^-1 b, coordinate by coordinate."""
        pairs = zip(state.metric, state.force, strict=True)
        return [torch.linalg.solve(self.damped(f), b) for f, b in pairs]
