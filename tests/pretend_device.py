"""A device that computes on the CPU but is strict: for tests of what happens on a GPU.

Tensors there report the device "meta" and hold their numbers on the CPU. As on a GPU, an
operation may not mix them with tensors of the CPU (numbers excepted, and indices, which are copied
there), and reading a value waits for the device: such readings and the copies to the device are
counted, by the line that makes them.
"""

import collections
import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode

DEVICE = torch.device("meta")
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
MATMUL = {torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__}
INDEXED = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
WAITS = {aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default}


class There(torch.Tensor):
    """A tensor of the pretended device."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, device=DEVICE,
        )  # fmt: skip

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"There({self.inner!r})"

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            # torch would make the indices of a list on the device, which holds no numbers
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(i) if isinstance(i, list) else i for i in index)
            args = (args[0], index, *args[2:])
        if function in MATMUL and args[0].ndim == 1 and args[1].ndim == 2:
            # torch would squeeze the product in place, which a wrapper cannot follow
            return (args[0][None] @ args[1])[0]
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {}, None)


class PretendDevice(TorchDispatchMode):
    """Inside, DEVICE is there.

    Attributes
    ----------
    waits, copies : Counter
        By the place in the package, "file:line".
    """

    def __init__(self):
        super().__init__()
        self.waits, self.copies = collections.Counter(), collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return _run(function, args, kwargs or {}, self)


def _place():
    frame = sys._getframe()
    while frame and "/skfokker/" not in frame.f_code.co_filename:
        frame = frame.f_back
    if frame is None:
        return "outside"
    return f"{frame.f_code.co_filename.rpartition('/skfokker/')[2]}:{frame.f_lineno}"


def _tensors(values):
    """Those among the arguments of an operation, in lists too."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _each(change, value):
    """The arguments or results of an operation with every tensor changed."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if isinstance(value, list | tuple):
        return type(value)([_each(change, v) for v in value])
    return value


def _run(function, args, kwargs, mode):
    tensors = list(_tensors([*args, *kwargs.values()]))
    there = [t for t in tensors if isinstance(t, There)]
    here = [t for t in tensors if not isinstance(t, There) and t.ndim > 0]
    indices = [id(t) for t in args[1] if t is not None] if function in INDEXED else []
    indices = [t for t in here if id(t) in indices and t.dtype == torch.int64]
    here = [t for t in here if all(t is not index for index in indices)]
    if there and here and function not in COPIES:
        shapes = [[tuple(t.shape) for t in side] for side in (there, here)]
        raise RuntimeError(f"{function} mixes devices at {_place()}: shapes {shapes}")
    target = kwargs.get("device")
    if target is not None:
        target = torch.device(target)
        kwargs = kwargs | {"device": torch.device("cpu")}
    wanted = bool(there) if target is None else target.type == DEVICE.type
    if function is aten.copy_.default:
        wanted = isinstance(args[0], There)
    if mode is not None:
        masks = function in INDEXED
        waits = function in WAITS or (masks and any(t.dtype == torch.bool for t in tensors[1:]))
        if there and (waits or (function in COPIES and not wanted)):
            mode.waits[_place()] += 1
        if wanted and ((function in COPIES and here) or indices):
            mode.copies[_place()] += 1

    def unwrap(a):
        return a.inner if isinstance(a, There) else a

    result = function(
        *[_each(unwrap, a) for a in args], **{k: _each(unwrap, a) for k, a in kwargs.items()}
    )
    if not wanted:
        return result
    known = {id(t.inner): t for t in there}
    return _each(lambda a: known[id(a)] if id(a) in known else There(a), result)
