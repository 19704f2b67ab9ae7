"""Draws of torch distributions from a seed of their own, with no global generator touched."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CREATE = {torch.rand, torch.randn, torch.randint, torch.randperm}
_LIKE = {torch.rand_like: torch.rand, torch.randn_like: torch.randn}
_RANDOM = _CREATE | {
    torch.normal,
    torch.bernoulli,
    torch.binomial,
    torch.multinomial,
    torch.poisson,
    torch._standard_gamma,
    torch._sample_dirichlet,
    *(
        getattr(Tensor, f"{name}_")
        for name in (
            "bernoulli cauchy exponential geometric log_normal normal random uniform".split()
        )
    ),
    Tensor.bernoulli,
    Tensor.multinomial,
}


class Seeded(TorchFunctionMode):
    """Within this context, and in this thread alone, torch's random numbers come from a seed.

    They are the numbers that ``torch.manual_seed(seed)`` would give, but the global generator,
    which all threads share, stays where it is.

    Parameters
    ----------
    seed : int

    Examples
    --------
    >>> import torch
    >>> from skfokker.seeded import Seeded
    >>> law = torch.distributions.Normal(0.0, 1.0)
    >>> with Seeded(0):
    ...     first = law.sample((3,))
    >>> with Seeded(0):
    ...     print(bool((law.sample((3,)) == first).all()))
    True
    """

    def __init__(self, seed: int):
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in _LIKE and args and not kwargs.get("memory_format"):
            like = args[0]
            kwargs = {"dtype": like.dtype, "device": like.device, **kwargs}
            func, args = _LIKE[func], (tuple(like.shape), *args[1:])
        if func in _RANDOM and kwargs.get("generator") is None:
            kwargs["generator"] = self._on(_device(func, args, kwargs))
        return func(*args, **kwargs)

    def _on(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


def _device(func: Any, args: tuple, kwargs: dict) -> torch.device:
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor) and func not in _CREATE:
            return value.device
    return torch.empty(0, device=kwargs.get("device")).device
