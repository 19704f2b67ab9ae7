"""A bar that follows the march: tqdm where it is installed, plain lines elsewhere."""

from __future__ import annotations

import importlib.util
import sys
import time
from types import TracebackType

from .schemes.base import Step


class Progress:
    """Report the steps of a march from ``t_start`` to ``t_final`` on standard error.

    Parameters
    ----------
    verbose : int
        0 is silence, 1 a progress bar (a line every two seconds without tqdm), 2 a line a step.
    t_start, t_final : float
        The span.
    """

    def __init__(self, verbose: int, t_start: float, t_final: float):
        self.verbose, self.t, self.t_final = verbose, t_start, t_final
        self.bar, self.last_line = None, time.monotonic()
        if verbose == 1 and importlib.util.find_spec("tqdm") is not None:
            from tqdm import tqdm

            self.bar = tqdm(
                total=t_final,
                initial=t_start,
                file=sys.stderr,
                bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()

    def update(self, step: Step) -> None:
        """Show a step."""
        if not self.verbose:
            return
        if self.bar is not None:
            self.bar.set_description_str(self._time(step), refresh=False)
            self.bar.set_postfix_str(self._record(step), refresh=False)
            self.bar.update(min(step.t, self.t_final) - self.t)
            self.t = step.t
            return
        now = time.monotonic()
        if self.verbose > 1 or now - self.last_line > 2 or step.t >= self.t_final:
            print(self._time(step), self._record(step), file=sys.stderr, flush=True)
            self.last_line = now

    def _time(self, step: Step) -> str:
        return f"t = {step.t:.4g} / {self.t_final:.4g}"

    @staticmethod
    def _record(step: Step) -> str:
        names = {"h": "h", "free_energy": "H", "residual": "residual"}
        shown = {
            label: step.record[name]
            for name, label in names.items()
            if step.record.get(name) is not None
        }
        return ", ".join(f"{label} = {float(value):.3g}" for label, value in shown.items())
