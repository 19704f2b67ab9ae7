"""What `fit` is given in the place of a potential: a function, a law, or draws from one."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils.validation import _check_sample_weight, validate_data
from torch import Tensor
from torch.distributions import Distribution

from .densities import GaussianDensity, fit_density, potential_of
from .potentials import Potential, check_potential
from .potentials.checks import check_answers


def read_potential(
    estimator: Any,
    potential: Any,
    sample_weight: Any,
    device: torch.device,
    continued: int | None,
) -> tuple[Potential, Any]:
    """The potential, of known dimension, and the density fitted where draws were given.

    Parameters
    ----------
    estimator : ParametricFokkerPlanck
        Its ``n_features_in_`` and ``feature_names_in_`` are set here.
    potential, sample_weight
        As for ``fit``.
    device : torch.device
    continued : int or None
        Dimension of the march that is to be continued.
    """
    if callable(potential) or isinstance(potential, Distribution):
        if sample_weight is not None:
            raise TypeError("sample_weight weighs draws, but a potential was given: leave it out.")
        potential = check_potential(potential, estimator.n_features, estimator.beta, device=device)
        check_answers(potential, device)
        if continued is not None and potential.n_features_in_ != continued:
            raise ValueError(
                f"warm_start=True continues a march in dimension {continued}, but the "
                f"potential has dimension {potential.n_features_in_}; use warm_start=False to "
                "start anew."
            )
        estimator.n_features_in_ = potential.n_features_in_
        estimator.__dict__.pop("feature_names_in_", None)
        return potential, None
    if isinstance(potential, Tensor):
        potential = potential.detach().cpu()
        if potential.is_floating_point():  # numpy has no bfloat16
            potential = potential.double()
        potential = potential.numpy()
    X = validate_data(
        estimator, potential, reset=continued is None, dtype=np.float64, ensure_min_samples=2
    )
    if estimator.n_features not in (None, X.shape[1]):
        raise ValueError(
            f"n_features={estimator.n_features} contradicts the draws, which have {X.shape[1]} "
            "columns; leave n_features out."
        )
    if sample_weight is not None:
        sample_weight = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
        if not sample_weight.any():
            raise ValueError("All entries of sample_weight are zero: give at least one positive.")
    component = GaussianDensity() if estimator.from_samples is None else estimator.from_samples
    density = fit_density(clone(component), X, sample_weight)
    return potential_of(density, float(estimator.beta)), density
