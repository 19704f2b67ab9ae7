"""Named, constrained parameters and the unconstrained space in which the march takes place."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint, real

from ..potentials import Potential
from ..potentials.foreign import ask


class Blocks:
    """Blocks of coordinates with names, shapes and constraints.

    Only the constraints are stored: a transform is made when it is needed, because an inverted one
    does not survive pickling in torch.

    Parameters
    ----------
    constraints : mapping
        From name to a ``torch.distributions.constraints`` object, to a pair (constraint, shape), or
        to a shape alone (real numbers). An integer shape n stands for (n,).

    Attributes
    ----------
    names : list of str
    n_features : int
        Length d of the unconstrained vector: blocks in the order given, each flattened.

    Raises
    ------
    TypeError, ValueError
        Where a constraint is not one, has no smooth bijection from R^n, or does not fit its shape.

    Examples
    --------
    >>> import torch
    >>> from torch.distributions import constraints
    >>> from skfokker.bayes import Blocks
    >>> blocks = Blocks({"scale": constraints.positive, "share": (constraints.simplex, 3)})
    >>> blocks.n_features
    3
    >>> values, log_jacobian = blocks.constrain(torch.zeros(1, 3).double())
    >>> values["share"].shape
    torch.Size([1, 3])
    """

    def __init__(self, constraints: Mapping[str, Any]):
        if not isinstance(constraints, Mapping) or not constraints:
            raise TypeError(
                "constraints must map names to torch.distributions.constraints, as in "
                f"{{'scale': constraints.positive}}, got {constraints!r}."
            )
        self.constraints: dict[str, Constraint] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.free_shapes: dict[str, tuple[int, ...]] = {}
        for name, given in constraints.items():
            constraint, shape = _read(name, given)
            self.constraints[name], self.shapes[name] = constraint, shape
            self.free_shapes[name] = self._free_shape(name)

    @property
    def names(self) -> list[str]:
        return list(self.constraints)

    @property
    def n_features(self) -> int:
        return sum(math.prod(shape) for shape in self.free_shapes.values())

    def __repr__(self) -> str:
        inner = ", ".join(
            f"{name}: {self.constraints[name]}{list(self.shapes[name]) or ''}"
            for name in self.names
        )
        return f"Blocks({inner})"

    def _free_shape(self, name: str) -> tuple[int, ...]:
        constraint, shape = self.constraints[name], self.shapes[name]
        try:
            transform = biject_to(constraint)
            free = tuple(transform.inverse_shape(torch.Size(shape)))
            x = torch.zeros(free, dtype=torch.float64)
            y = transform(x)
            transform.log_abs_det_jacobian(x, y)
        except NotImplementedError as error:
            raise ValueError(
                f"constraints[{name!r}] = {constraint} has no smooth bijection with a known "
                "Jacobian from an unconstrained space; use another parametrisation."
            ) from error
        except (ValueError, RuntimeError, IndexError) as error:
            raise ValueError(
                f"constraints[{name!r}] = {constraint} does not fit the shape {shape}: {error}; "
                "give (constraint, shape)."
            ) from error
        if tuple(y.shape) != shape:
            raise ValueError(
                f"constraints[{name!r}] = {constraint} does not fit the shape {shape}: its values "
                f"have shape {tuple(y.shape)}."
            )
        return free

    def constrain(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Unconstrained points to named values, with the Jacobian.

        Parameters
        ----------
        u : Tensor (n, d)

        Returns
        -------
        values : dict of Tensor (n, *shape)
        log_jacobian : Tensor (n,)
            log |det d values / d u|, to be added to a log density of the values once.
        """
        sizes = [math.prod(shape) for shape in self.free_shapes.values()]
        values, total = {}, torch.zeros_like(u[:, 0])
        for name, part in zip(self.names, u.split(sizes, 1), strict=True):
            transform = biject_to(self.constraints[name])
            part = part.reshape(len(u), *self.free_shapes[name])
            value = transform(part)
            log_det = transform.log_abs_det_jacobian(part, value)
            total = total + log_det.reshape(len(u), -1).sum(1)
            values[name] = value
        return values, total

    def free(self, values: Mapping[str, Any]) -> Tensor:
        """Named values, each (n, *shape), to unconstrained points (n, d)."""
        missing = set(self.names) ^ set(values)
        if missing:
            raise ValueError(
                f"values must have exactly the names {self.names}; {sorted(missing)} is missing "
                "or unknown."
            )
        parts = []
        for name in self.names:
            value = torch.as_tensor(values[name], dtype=torch.float64)
            if tuple(value.shape[1:]) != self.shapes[name]:
                raise ValueError(
                    f"values[{name!r}] must have shape (n, *{self.shapes[name]}), got "
                    f"{tuple(value.shape)}."
                )
            part = biject_to(self.constraints[name]).inv(value)
            parts.append(part.reshape(len(value), -1))
        return torch.cat(parts, 1)

    def flat_names(self) -> list[str]:
        """One name a coordinate of the unconstrained vector."""
        names = []
        for name, shape in self.free_shapes.items():
            count = math.prod(shape)
            names += [name] if not shape else [f"{name}[{i}]" for i in range(count)]
        return names


class ConstrainedPotential(Potential):
    """V in the unconstrained space of a log density of named, constrained parameters.

    Parameters
    ----------
    function : callable or Potential
        Maps a dict of tensors (n, *shape) to log densities (n,). A ``Potential`` (numpy code, say)
        gets the values as one array instead, flattened in the order of the blocks, and gives
        minus the log density.
    blocks : Blocks
    """

    def __init__(self, function: Callable | Potential, blocks: Blocks):
        self.function = function
        self.blocks = blocks

    @property
    def n_features_in_(self) -> int:
        return self.blocks.n_features

    def __call__(self, u):
        log_density, log_jacobian = ask(self._parts, u, "log_density")
        if not isinstance(log_density, Tensor):
            raise TypeError(
                "log_density must return a torch tensor, one number a point, got a "
                f"{type(log_density).__name__}; write it with torch functions."
            )
        if tuple(log_density.shape) != (len(u),):
            raise ValueError(
                "log_density must return one number a point: it was given values with a leading "
                f"axis of length {len(u)} and returned shape {tuple(log_density.shape)}; sum over "
                "the other axes, e.g. .sum(-1)."
            )
        return -(log_density.to(u.dtype) + log_jacobian)

    def _parts(self, u: Tensor) -> tuple[Any, Tensor]:
        """What the function says at unconstrained points (n, d), and the log-Jacobian."""
        values, log_jacobian = self.blocks.constrain(u)
        if isinstance(self.function, Potential):
            flat = torch.cat([value.reshape(len(u), -1) for value in values.values()], 1)
            return -self.function(flat), log_jacobian
        return self.function(values), log_jacobian


def _read(name: str, given: Any) -> tuple[Constraint, tuple[int, ...]]:
    shape: Any = ()
    if isinstance(given, Constraint):
        constraint = given
    elif isinstance(given, tuple | list) and len(given) == 2 and isinstance(given[0], Constraint):
        constraint, shape = given
    else:
        constraint, shape = real, given
    try:
        shape = (int(shape),) if isinstance(shape, int) else tuple(int(n) for n in shape)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"constraints[{name!r}] must be a torch constraint, a pair (constraint, shape) or a "
            f"shape, got {given!r}; try torch.distributions.constraints.positive."
        ) from error
    return constraint, shape
