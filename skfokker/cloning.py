"""Copies of what holds tensors out of a computation graph, which torch does not copy."""

from __future__ import annotations

import copy
from typing import Any

from sklearn.base import BaseEstimator
from torch import Tensor
from torch.distributions import Distribution, Transform


def detached(value: Any) -> Any:
    """The same value, its tensors off the graphs that they were computed in.

    Looks into distributions, transforms, components in the style of scikit-learn, tuples, lists
    and dicts; what has nothing to detach is given back itself.
    """
    if isinstance(value, Tensor):
        return value if value.is_leaf else value.detach()
    if isinstance(value, Distribution | Transform | BaseEstimator):
        changed = _changed(vars(value))
        if not changed:
            return value
        new = copy.copy(value)
        new.__dict__.update(changed)
        return new
    if type(value) in (tuple, list):
        parts = [detached(part) for part in value]
        same = all(a is b for a, b in zip(parts, value, strict=True))
        return value if same else type(value)(parts)
    if type(value) is dict:
        changed = _changed(value)
        return {**value, **changed} if changed else value
    return value


def _changed(items: dict) -> dict:
    pairs = ((name, part, detached(part)) for name, part in items.items())
    return {name: new for name, part, new in pairs if new is not part}


class CloneMixin:
    """``clone`` also of hyper-parameters that hold tensors out of a computation graph."""

    def __sklearn_clone__(self):
        parameters = self.get_params(deep=False)
        bare = copy.copy(self)
        for name, value in _changed(parameters).items():
            setattr(bare, name, value)
        return super(CloneMixin, bare).__sklearn_clone__()
