"""Families of the package zuko as maps T_theta."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .base import Flow


class ZukoFlow(Flow):
    """A normalizing flow of zuko, its parameters in one flat vector theta.

    zuko's transforms map data to N(0, I); T is their inverse, so that the law of T(z) is the
    density that zuko gives to the same parameters. Derivatives are by automatic differentiation
    in float64: meant for a few hundred parameters, for comparisons, and for the particle
    corrector. For an autoregressive family T takes d passes and its inverse one; wrapped in
    ``Inverse`` it is the other way round.

    Parameters
    ----------
    factory : str or callable, default="NSF"
        Name of a class in ``zuko.flows`` ("NSF", "MAF", "NICE"), or a function of
        d that returns such a flow without a context. Pickle needs a function of a module.
    transforms : int, default=3
        Layers; as the two below only used where ``factory`` is a name.
    hidden_features : tuple of int, default=(64, 64)
        Widths of the networks.
    options : dict, optional
        Further arguments of the class, such as ``{"bins": 4}``.

    Raises
    ------
    ImportError
        Where zuko is not installed.
    ValueError
        Where zuko has no flow of that name, or the base of the flow is not N(0, I).

    Notes
    -----
    The parameters that zuko draws are those of no identity. :meth:`init` sets the last layer of
    every network to zero, where some families ("MAF", "NSF") are the identity up to rounding.
    Others ("NICE") are not: ``starts_at_identity`` is False, every start, N(0, I) too, is fitted
    by maximum likelihood, and the error of that is ``initial_error_``.

    T has to be differentiable in theta and x under ``torch.func``: families inverted by bisection
    ("SOSPF", "BPF", "NAF", "UNAF", "GF") are not, and say so.

    References
    ----------
    F. Rozet et al., "Zuko: normalizing flows in PyTorch", https://zuko.readthedocs.io.
    """

    def __init__(
        self,
        factory: str | Callable[[int], Any] = "NSF",
        transforms: int = 3,
        hidden_features: tuple[int, ...] = (64, 64),
        options: dict | None = None,
    ):
        self.factory = factory
        self.transforms = transforms
        self.hidden_features = hidden_features
        self.options = options

    def __getstate__(self):
        state = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_built"}

    def n_parameters(self, d):
        return sum(p.numel() for p in self._module(d).parameters())

    def init(self, d, generator=None):
        module = self._module(d, generator)
        with torch.no_grad():
            for network in module.modules():
                linear = [layer for layer in network.children() if isinstance(layer, nn.Linear)]
                if linear and isinstance(network, nn.Sequential):
                    linear[-1].weight.zero_()
                    if linear[-1].bias is not None:
                        linear[-1].bias.zero_()
        return nn.utils.parameters_to_vector(module.parameters()).detach().clone()

    def starts_at_identity(self, d):
        x = torch.randn(64, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            y, log_det = self.forward(self.init(d), x)
        return bool((y - x).abs().max() < 1e-10 and log_det.abs().max() < 1e-10)

    def forward(self, theta, x):
        return self._call(theta, x, "inv")

    def inverse(self, theta, y):
        return self._call(theta, y, None)

    def _call(self, theta: Tensor, x: Tensor, attribute: str | None) -> tuple[Tensor, Tensor]:
        module = self._module(x.shape[1])
        state, start = {}, 0
        for name, parameter in module.named_parameters():
            size = parameter.numel()
            state[f"flow.{name}"] = theta[start : start + size].view(parameter.shape)
            start += size
        for name, buffer in module.named_buffers():
            state[f"flow.{name}"] = buffer.to(theta.device)
        try:
            return torch.func.functional_call(_Transform(module), state, (x, attribute))
        except RuntimeError as error:
            if "setup_context" not in str(error):
                raise
            raise NotImplementedError(
                f"zuko inverts factory={self.factory!r} numerically, which has no derivatives "
                "under torch.func: choose a family with an explicit inverse, such as 'NSF'."
            ) from error

    def _module(self, d: int, generator: torch.Generator | None = None) -> nn.Module:
        """The module in dimension d, kept; a fresh one where a generator is given."""
        key = (d, self.factory, self.transforms, tuple(self.hidden_features), repr(self.options))
        kept = self.__dict__.get("_built", {})
        if generator is None and key in kept:
            return kept[key]
        seed = 0 if generator is None else int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self._build(d).double().requires_grad_(False)
        _check_base(module, d)
        if generator is None:
            self._built = {key: module}
        return module

    def _build(self, d: int) -> nn.Module:
        try:
            flows = importlib.import_module("zuko.flows")
        except ImportError as error:
            raise ImportError(
                "ZukoFlow needs the optional package zuko: pip install 'skfokker[flows]'."
            ) from error
        if not isinstance(self.factory, str):
            return self.factory(d)
        family = getattr(flows, self.factory, None)
        if not isinstance(family, type):
            raise ValueError(
                f"factory={self.factory!r} is no flow of zuko: give the name of a class in "
                "zuko.flows, such as 'NSF' or 'MAF', or a function of d that makes one."
            )
        sizes = {"transforms": self.transforms, "hidden_features": tuple(self.hidden_features)}
        return family(features=d, **sizes, **(self.options or {}))


class _Transform(nn.Module):
    """A zuko flow's transform and log-determinant, as the call that functional_call needs."""

    flow: Any  # a zuko.lazy.Flow

    def __init__(self, flow: nn.Module):
        super().__init__()
        self.flow = flow

    def forward(self, x: Tensor, attribute: str | None) -> tuple[Tensor, Tensor]:
        transform = self.flow.transform()
        if attribute is not None:
            transform = getattr(transform, attribute)
        return transform.call_and_ladj(x)


def _check_base(module: Any, d: int) -> None:
    """Raise a ValueError where the base law is another than N(0, I)."""
    base = module.base()
    x = torch.linspace(-2, 3, 4 * d, dtype=torch.float64).reshape(4, d)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1)
    try:
        fits = torch.allclose(base.log_prob(x), expected)
    except (ValueError, RuntimeError):
        fits = False
    if not fits:
        raise ValueError(
            f"the flow of zuko has the base {base!r}, but T maps N(0, I_{d}): choose a family "
            "whose base is the standard normal, such as 'NSF'."
        )
