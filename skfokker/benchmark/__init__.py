"""``python -m skfokker.benchmark``: problems x methods, side by side, in one process.

One idea a file: ``groups`` says what is compared and which targets it has, ``methods`` (with
``nsf``) how each competitor solves a problem, ``measures`` what an error is, ``references`` keeps
particles and grids, ``published`` holds other people's numbers, ``runner`` does the runs,
``tables`` and ``report`` write them down, and ``studies`` look along one axis at a time.
"""

from __future__ import annotations

from .groups import GROUPS, QUICK, Beat, Case, Group, Target
from .methods import METHODS, Bench, Method
from .report import Report
from .runner import Row, run
from .studies import STUDIES

__all__ = [
    "GROUPS",
    "METHODS",
    "QUICK",
    "STUDIES",
    "Beat",
    "Bench",
    "Case",
    "Group",
    "Method",
    "Report",
    "Row",
    "Target",
    "run",
]
