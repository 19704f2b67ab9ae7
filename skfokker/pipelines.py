"""Densities of the data itself, where a pipeline scales them before they are fitted."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline


def score_samples(pipeline: Pipeline, X: Any, **params) -> np.ndarray:
    """Log density of the data X (n, d) under a pipeline that ends in a density.

    ``pipeline.score_samples(X)`` is the log density of what the last step sees. Here the log
    determinants of the steps before it are added, by the change of variables
    log p_X(x) = log p_Z(z) + log \\|det dz/dx\\|.

    Parameters
    ----------
    pipeline : Pipeline
        Fitted. The steps before the last must be affine and keep the dimension
        (``StandardScaler``, ``RobustScaler``, ``MinMaxScaler``, ``MaxAbsScaler``, ``PCA`` with all
        components), or offer ``log_det(X) -> (n,)``.
    X : array-like (n, d)
    **params
        For ``score_samples`` of the last step, a time ``t`` say.

    Returns
    -------
    ndarray (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from skfokker import GaussianDensity
    >>> from skfokker.pipelines import score_samples
    >>> X = np.array([[-10.0], [10.0]])
    >>> scaled = make_pipeline(StandardScaler(), GaussianDensity(0.0)).fit(X)
    >>> direct = GaussianDensity(0.0).fit(X)
    >>> bool(np.allclose(score_samples(scaled, X), direct.score_samples(X)))
    True
    """
    z, log_det = X, 0.0
    for name, step in pipeline.steps[:-1]:
        if step is None or step == "passthrough":
            continue
        after = step.transform(z)
        log_det = log_det + _log_det(name, step, np.asarray(z, dtype=float), np.asarray(after))
        z = after
    return np.asarray(pipeline.steps[-1][1].score_samples(z, **params)) + log_det


def score(pipeline: Pipeline, X: Any, y=None, **params) -> float:
    """Mean of :func:`score_samples`; usable as ``scoring`` in a grid search."""
    return float(score_samples(pipeline, X, **params).mean())


def _log_det(name: str, step: Any, before: np.ndarray, after: np.ndarray) -> Any:
    """log |det| of a step, a number, or one a row where it has a method for it."""
    if hasattr(step, "log_det"):
        return step.log_det(before)
    d = before.shape[1]
    if after.shape[1] != d:
        raise ValueError(
            f"The step {name!r} maps {d} columns to {after.shape[1]}, so the data have no density "
            "that can be recovered: keep the dimension, or score the transformed data."
        )
    # An affine map is known by its values at d + 1 points; two more tell whether it is one.
    centre, size = before.mean(0), np.maximum(before.std(0), 1e-12)
    rng = np.random.default_rng(0)
    points = np.concatenate(
        [centre[None], centre + np.diag(size), centre + size * rng.normal(size=(2, d))]
    )
    images = np.asarray(step.transform(points), dtype=float)
    slope = (images[1 : d + 1] - images[0]) / size[:, None]
    expected = images[0] + (points[d + 1 :] - centre) @ slope
    gap = np.abs(expected - images[d + 1 :]).max()
    if gap > 1e-6 * max(np.abs(images - images[0]).max(), 1e-300):
        raise ValueError(
            f"The step {name!r} ({type(step).__name__}) is not affine, and has no method "
            "log_det(X) that gives log |det dz/dx| a row: score the transformed data instead."
        )
    return float(np.linalg.slogdet(slope)[1])
