"""One fit over several processes: each holds a share of the points of every expectation.

A march needs its points only in sums over them: Gram products, right-hand sides, mean squares.
Inside :func:`data_parallel` these sums go over all processes of ``torch.distributed``; everything
else (the points' seed, the linear solve, the step control) every process does for itself, with
the same result.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import timedelta
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .potentials import PotentialError

_SMALL = 2**20  # numbers that a sum may gather from all processes
_FINE, _REFUSED, _FAILED, _INTERRUPTED = range(4)


class RankError(RuntimeError):
    """Another process of a data-parallel fit failed, disagrees, or is gone; the message says."""


class Reduction:
    """Sums over the processes that share the points of an expectation; alone, the identity.

    Attributes
    ----------
    rank, size : int
        Number of this process, and of all.
    device : torch.device or str
        That of the messages.
    """

    rank, size = 0, 1
    device: torch.device | str = "cpu"

    def share(self, rows: Tensor) -> Tensor:
        """The rows (n, ...) that this process works on."""
        return rows

    def shares(self, n: int) -> list[slice]:
        """How those of n rows that are here divide into shares, each to be summed first."""
        return [slice(0, n)]

    def sum(self, *tensors: Tensor):
        """Sums over processes, the same bits on all; as many tensors as given, in one message."""
        return tensors if len(tensors) > 1 else tensors[0]

    def same(self, tensor: Tensor) -> Tensor:
        """That of the first process."""
        return tensor

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Code that may fail on one process only, such as a call of the user's potential.

        Where it does, all of them leave with an exception: a ``PotentialError`` (which a march
        answers with a shorter step) stays one, Ctrl-C stays a KeyboardInterrupt, and anything
        else is a :class:`RankError` on the processes where it did not happen.
        """
        yield

    def check_same(self, **facts: Any) -> None:
        """Raise a ValueError on all processes where they do not agree on a fact."""


ALONE = Reduction()
_current: ContextVar[Reduction] = ContextVar("reduction", default=ALONE)


def reduction() -> Reduction:
    """The one in force: of the enclosing :func:`data_parallel`, or the identity."""
    return _current.get()


@contextlib.contextmanager
def data_parallel(*, n_shares: int | None = None, timeout: float = 600.0) -> Iterator[Reduction]:
    """Let fits in this block share their points among all processes.

    Every process makes the same call of ``fit`` and gets the same model, bit for bit. Draws and
    densities need no other process and are not shared.

    Parameters
    ----------
    n_shares : int, optional
        Shares that the points are divided into, a multiple of the number of processes; that
        number where not given, but two for a single process. Sums are first taken over a share,
        then over pairs of shares, and so on: with the same power of two here, 1, 2, 4, ...
        processes of one kind give the same bits.
    timeout : float, default=600
        Seconds that a process waits for the others before it gives up. It has to exceed the
        longest time that one of them can be busy alone, such as in one call of the potential.

    Yields
    ------
    Reduction
        With ``rank`` and ``size``.

    Raises
    ------
    RuntimeError
        Where ``torch.distributed`` is not there, or not initialised.

    Notes
    -----
    Linear algebra is repeated on every process, so all should be of one kind: the same torch on
    the same processors with the same number of threads.

    Ctrl-C stops all of them at the same step, the next time that the potential is called; a
    second one stops the process it hits at once, and the others with a :class:`RankError`.

    Examples
    --------
    To be started by ``torchrun --nproc-per-node 2 script.py``::

        torch.distributed.init_process_group("gloo")    # "nccl" with device="cuda"
        with skfokker.parallel.data_parallel():
            model.fit(potential, t_final=1.0)
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "data_parallel() needs the processes to know each other: call "
            "torch.distributed.init_process_group('gloo') first ('nccl' on GPUs), in a script "
            "started by `torchrun --nproc-per-node 2 script.py`."
        )
    if not timeout > 0:
        raise ValueError(f"timeout must be a positive number of seconds, got {timeout!r}.")
    group = dist.new_group(timeout=timedelta(seconds=timeout))
    processes = Processes(group, timeout, n_shares)
    token = _current.set(processes)
    try:
        with processes.later_interrupts():
            yield processes
    finally:
        _current.reset(token)
        if not processes.broken:
            dist.destroy_process_group(group)


class Processes(Reduction):
    """Sums over a group of ``torch.distributed``.

    Parameters
    ----------
    group : ProcessGroup
    timeout : float
        Seconds, for the message.
    n_shares : int, optional
        See :func:`data_parallel`.

    Attributes
    ----------
    messages, numbers : int
        Sent so far.
    """

    def __init__(self, group: Any, timeout: float, n_shares: int | None = None):
        self.group, self.timeout = group, timeout
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.n_shares = max(2, self.size) if n_shares is None else n_shares
        if self.n_shares < 1 or self.n_shares % self.size:
            raise ValueError(
                f"n_shares={n_shares} must be a multiple of the number of processes, {self.size}."
            )
        nccl = dist.get_backend(group) == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if nccl else "cpu"
        self.interrupted = self.broken = False
        self.messages = self.numbers = 0

    def _bounds(self, n):
        """Ends of the shares of n rows that are here."""
        if n < self.n_shares:
            raise ValueError(
                f"{n} sample points cannot be divided into {self.n_shares} shares for {self.size} "
                "processes: try a larger n_samples."
            )
        each = self.n_shares // self.size
        first = self.rank * each
        return [k * n // self.n_shares for k in range(first, first + each + 1)]

    def share(self, rows):
        start, *_, stop = self._bounds(len(rows))
        return rows[start:stop]

    def shares(self, n):
        bounds = self._bounds(n)
        return [slice(a - bounds[0], b - bounds[0]) for a, b in pairwise(bounds)]

    def sum(self, *tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        if self.size > 2 and self.size * len(flat) <= _SMALL:
            # small enough to be added here, in the order that fewer processes would take
            parts = [torch.empty_like(flat) for _ in range(self.size)]
            self._talk(dist.all_gather, parts, flat)
            while len(parts) > 1:
                parts = [sum(parts[k + 1 : k + 2], parts[k]) for k in range(0, len(parts), 2)]
            flat = parts[0]
        else:
            self._talk(dist.all_reduce, flat)
        parts = flat.split([tensor.numel() for tensor in tensors])
        sums = tuple(part.view(t.shape) for part, t in zip(parts, tensors, strict=True))
        return sums if len(sums) > 1 else sums[0]

    def same(self, tensor):
        tensor = tensor.contiguous()
        self._talk(dist.broadcast, tensor, src=dist.get_global_rank(self.group, 0))
        return tensor

    def _talk(self, operation, *tensors, **options):
        self.messages, self.numbers = self.messages + 1, self.numbers + tensors[-1].numel()
        with self._listening():
            operation(*tensors, group=self.group, **options)

    @contextlib.contextmanager
    def _listening(self):
        if self.broken:
            raise RankError(f"rank {self.rank} of {self.size} has lost the other processes.")
        try:
            yield
        except RuntimeError as error:
            self.broken = True
            raise RankError(
                f"rank {self.rank} of {self.size} lost the other processes: one of them ended, or "
                f"did not answer for {self.timeout:g} s (timeout of data_parallel). Look for the "
                f"first error in its output. torch says: {error}"
            ) from error

    def _gather(self, thing: Any) -> list[Any]:
        things: list[Any] = [None] * self.size
        with self._listening():
            dist.all_gather_object(things, thing, group=self.group)
        return things

    @contextlib.contextmanager
    def together(self):
        failure: BaseException | None = None
        state = _FINE
        try:
            yield
        except PotentialError as error:
            failure, state = error, _REFUSED
        except KeyboardInterrupt as error:
            failure, state = error, _INTERRUPTED
        except Exception as error:
            failure, state = error, _FAILED
        if self.interrupted:
            state = _INTERRUPTED
        worst = torch.tensor([state], device=self.device)
        try:
            self._talk(dist.all_reduce, worst, op=dist.ReduceOp.MAX)
        except RankError as lost:
            raise lost from failure
        if not worst.item():
            return
        said = self._gather((state, f"{type(failure).__name__}: {failure}"))
        worst, message = max(said, key=lambda answer: answer[0])
        if worst == _INTERRUPTED:
            self.interrupted = False
            raise KeyboardInterrupt
        if failure is not None and state == worst:
            raise failure
        rank = next(k for k, answer in enumerate(said) if answer[0] == worst)
        kind = PotentialError if worst == _REFUSED else RankError
        raise kind(f"on rank {rank} of {self.size}: {message}") from failure

    def check_same(self, **facts):
        said = self._gather(facts)
        for name in facts:
            answers = [answer.get(name) for answer in said]
            for rank, answer in enumerate(answers):
                if answer != answers[0]:
                    raise ValueError(
                        f"The processes of a data-parallel fit have to solve the same problem, but "
                        f"rank {rank} differs from rank 0 in {name}: {_short(answer)} and "
                        f"{_short(answers[0])}. Set the same data and seeds on all of them."
                    )

    @contextlib.contextmanager
    def later_interrupts(self):
        """Ctrl-C is noted, and acted upon by all processes at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)

        def note(number, frame):
            self.interrupted = True
            signal.signal(signal.SIGINT, before)  # the next one has its usual effect

        signal.signal(signal.SIGINT, note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _short(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) <= 80 else text[:77] + "..."
