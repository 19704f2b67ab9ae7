"""Problems x methods: every failure is a row of the table, none ends the run."""

from __future__ import annotations

import contextlib
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field

import torch

from ..potentials import Quadratic
from ..problems import Problem
from .groups import Case, Group
from .measures import measure
from .methods import METHODS, Bench, Law, Method, fit_ours


@dataclass
class Row:
    """What one method did on one problem.

    Attributes
    ----------
    group, label, problem, method : str
        Keys of the group and the method, line of the table, name of the problem.
    seconds : float or None
        Time of the solution (not of measuring it), wall time unless the bench says otherwise.
    values : list of dict
        One entry a time: ``t``, the errors that ``measure`` found, and the bounds on them,
        ``certificate`` and ``certified_tv``, where there are bounds.
    info : dict
        Steps, parameters, particles; ``warnings`` where there were some.
    error : str or None
        Why there is no result.
    """

    group: str
    label: str
    problem: str
    method: str
    seconds: float | None = None
    values: list[dict] = field(default_factory=list)
    info: dict = field(default_factory=dict)
    error: str | None = None

    def to_dict(self) -> dict:
        """For JSON."""
        return asdict(self)


class TimeLimitError(Exception):
    """A method took longer than allowed."""


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimeLimitError in the block after so many seconds.

    Works on the main thread of systems with POSIX timers, and does nothing elsewhere.
    """
    usable = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if seconds is None or not usable:
        yield
        return

    def stop(*_):
        raise TimeLimitError(f"no result after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def warm_up() -> None:
    """A tiny fit, so that the first timing does not pay for what torch loads on first use."""
    fit = fit_ours(Problem("warm-up", Quadratic([1.0]), 1.0, 0.1, (0.1,)))
    fit.sample(10)


def run(
    groups: dict[str, Group],
    bench: Bench,
    methods=None,
    say: Callable[[str], None] = lambda line: None,
    earlier: Iterable[Row] = (),
) -> Iterator[Row]:
    """Run every case of every group; yields a row as soon as it is there.

    Parameters
    ----------
    groups : dict of str to Group
        As ``groups.select`` returns.
    bench : Bench
    methods : collection of str, optional
        Keys of ``METHODS``; all where None.
    say : callable
        Gets a line of text after each result.
    earlier : iterable of Row
        Results known already: where the default fit does not run now, budgets are its wall time
        there, and one minute where it never ran.
    """
    warm_up()
    known = {row.problem: row.seconds for row in earlier if row.method == "ours" and row.seconds}
    for group in groups.values():
        for case in group.cases:
            problem = case.load()
            bench.our_seconds = known.get(problem.name, 60.0)
            for key, method in METHODS.items():
                if key not in group.methods or (methods is not None and key not in methods):
                    continue
                if not method.applies(problem) or (key != "ours" and not case.baselines):
                    continue
                row = solve(group, case, problem, method, bench)
                if key == "ours" and row.seconds is not None:
                    bench.our_seconds = row.seconds
                say(f"{problem.name:32} {method.title:36} {_outcome(row)}")
                yield row


def solve(group: Group, case: Case, problem: Problem, method: Method, bench: Bench) -> Row:
    """One method on one problem: timed, measured at the group's times."""
    times = group.times or problem.times
    row = Row(group.name, case.label, problem.name, method.key)
    start = bench.clock()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with time_limit(None if method.has_budget else bench.time_limit):
                law, earlier = method.solve(problem, times, bench)
            row.seconds = bench.clock() - start + earlier
            row.info.update(law.info)
            with torch.no_grad():
                for t in times:
                    row.values.append(_values(problem, law, t, bench))
        except Exception as error:
            row.error = f"{type(error).__name__}: {error}"
            if row.seconds is None:
                row.seconds = bench.clock() - start
    messages = [str(w.message) for w in caught]
    if messages:
        row.info["warnings"] = list(dict.fromkeys(messages))
    return row


def _values(problem: Problem, law: Law, t: float, bench: Bench) -> dict:
    values = {"t": t} | measure(problem, law, t, bench.references)
    if law.certificate is not None and law.certificate.is_bound:
        values["certificate"] = float(law.certificate.kl(t))
        values["certified_tv"] = float(law.certificate.total_variation(t))
    return values


def _outcome(row: Row) -> str:
    if row.error is not None:
        return row.error.splitlines()[0]
    last = {k: v for k, v in row.values[-1].items() if k != "t" and not k.endswith("_se")}
    name, value = next(iter(last.items()))
    return f"{row.seconds:8.2f} s   {name} {value:.2e} at t = {row.values[-1]['t']:g}"
