"""The border to code of users: what it is given, what it gives back, what its exceptions mean."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_INVALID = re.compile(r"Expected (parameter|value argument) .*(constraint|support)", re.DOTALL)
_DTYPE = re.compile(
    r"same dtype|expected scalar type|dtype.*(double|float)|(double|float).*dtype", re.I | re.DOTALL
)
_NUMPY = re.compile(r"call numpy\(\) on Tensor|detach\(\)\.numpy\(\)", re.I)


def ask(function: Callable[[Tensor], Any], x: Tensor, name: str = "potential") -> Any:
    """What a function of a user's, called ``name`` in messages, says of the points x (n, d).

    It gets points of its own, which it may write into, that require a gradient, with grad mode on:
    such code may differentiate by itself. Torch distributions inside it give NaN or -inf, not an
    exception, where their parameters or values are invalid. The answer carries a graph only where
    x requires a gradient and grad mode is on out here too.

    Raises
    ------
    TypeError
        Where torch complains of float32 among float64, or of numpy code.
    """
    differentiate = torch.is_grad_enabled() and x.requires_grad
    with torch.inference_mode(False), torch.enable_grad():

        def points() -> Tensor:
            leaf = x
            if not differentiate:
                leaf = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
            own = leaf.clone()
            own.retain_grad()
            return own

        try:
            try:
                answer = function(points())
            except ValueError as error:
                if not _INVALID.search(str(error)):
                    raise
                with _Unvalidated():
                    answer = function(points())
        except RuntimeError as error:
            hint = _hint(error, x, name)
            if hint is None:
                raise
            raise TypeError(hint) from error
    return answer if differentiate else _detached(answer)


def guarded(method: Callable) -> Callable:
    """A method of a foreign class, called by way of :func:`ask`."""

    @functools.wraps(method)
    def asked(self, x):
        return ask(functools.partial(method, self), x)

    return asked


def _detached(answer: Any) -> Any:
    """Copies without a graph: the code may use its buffers again."""
    if isinstance(answer, Tensor):
        return answer.detach().clone()
    if type(answer) is tuple:
        return tuple(_detached(part) for part in answer)
    return answer


def _hint(error: RuntimeError, x: Tensor, name: str) -> str | None:
    message = " ".join(str(error).split())
    if _NUMPY.search(message):
        return (
            f"{name} must be written with torch functions, but it calls numpy (torch says: "
            f"{message}); use NumpyPotential(value, gradient, n_features) for numpy code, with "
            "gradient='differences' where there is no gradient (NumpyLogDensity for a log density)"
        )
    if x.dtype == torch.float64 and _DTYPE.search(message):
        return (
            f"{name} mixes the float64 points that it is given with numbers of another type, "
            f"probably float32, torch's default (torch says: {message}); make its constants and "
            "weights float64: tensor.double(), module.double(), or torch.tensor(..., "
            "dtype=torch.float64)"
        )
    return None


class _Unvalidated(TorchFunctionMode):
    """Torch distributions made in this thread are content with every argument.

    Their own switch, ``Distribution.set_default_validate_args``, is one for all threads.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        # a check by torch.distributions.Distribution itself, and nobody else's
        if func in _CHECKS and sys._getframe(1).f_code.co_filename == _DISTRIBUTION:
            return torch.tensor(True)
        return func(*args, **(kwargs or {}))


_CHECKS = {getattr(torch, "_is_all_true", Tensor.all), Tensor.all}
_DISTRIBUTION = torch.distributions.Distribution.__init__.__code__.co_filename
