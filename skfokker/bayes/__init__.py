"""From a log-posterior to weighted draws one can trust."""

from .constraints import Blocks, ConstrainedPotential
from .convergence import effective_draws, rhat
from .equilibrium import FreeEnergyDescent
from .evidence import Evidence, bridge_evidence, importance_evidence
from .export import chains_to_arviz, loo, mcmc_start, to_arviz
from .forward_check import ForwardCheck
from .hooks import laplace_start, posterior_of
from .laplace import Laplace, laplace
from .log_density import (
    NumpyLogDensity,
    PyMCLogDensity,
    TorchLogDensity,
    Wall,
    as_log_density,
    jax_log_density,
    stan_log_density,
)
from .metropolis import Chains
from .mixture_law import DefensiveLaw
from .posterior import Posterior
from .precondition import AffineLaw, Preconditioned, Preconditioner
from .psis import psis
from .sampler import PosteriorSampler, posterior_flow, sample_posterior
from .support import UnboundedDensityError

__all__ = [
    "AffineLaw",
    "Blocks",
    "Chains",
    "ConstrainedPotential",
    "DefensiveLaw",
    "Evidence",
    "ForwardCheck",
    "FreeEnergyDescent",
    "Laplace",
    "NumpyLogDensity",
    "Posterior",
    "PosteriorSampler",
    "Preconditioned",
    "Preconditioner",
    "PyMCLogDensity",
    "TorchLogDensity",
    "UnboundedDensityError",
    "Wall",
    "as_log_density",
    "bridge_evidence",
    "chains_to_arviz",
    "effective_draws",
    "importance_evidence",
    "jax_log_density",
    "laplace",
    "laplace_start",
    "loo",
    "mcmc_start",
    "posterior_flow",
    "posterior_of",
    "psis",
    "rhat",
    "sample_posterior",
    "stan_log_density",
    "to_arviz",
]
