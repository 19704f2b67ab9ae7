"""From a log-posterior to weighted draws one can trust."""

from .convergence import effective_draws, rhat
from .evidence import Evidence, bridge_evidence, importance_evidence
from .forward_check import ForwardCheck
from .laplace import Laplace, laplace
from .metropolis import Chains
from .posterior import Posterior
from .precondition import AffineLaw, Preconditioned, Preconditioner
from .psis import psis

__all__ = [
    "AffineLaw",
    "Chains",
    "Evidence",
    "ForwardCheck",
    "Laplace",
    "Posterior",
    "Preconditioned",
    "Preconditioner",
    "bridge_evidence",
    "effective_draws",
    "importance_evidence",
    "laplace",
    "psis",
    "rhat",
]
