"""A run on paper: JSON, tables for the terminal, a page for the documentation."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from .._version import __version__
from .groups import Group
from .published import PUBLISHED
from .runner import Row
from .tables import Table, certificates, comparison, targets


def environment() -> dict:
    """What timings depend on."""
    return {
        "skfokker": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "clock": "wall time",
    }


@dataclass
class Report:
    """Rows and tables of a run, complete or not.

    Attributes
    ----------
    groups : dict of str to Group
        Those that were run.
    rows : list of Row
    studies : dict of str to list of Table
    environment : dict
    """

    groups: dict[str, Group]
    rows: list[Row] = field(default_factory=list)
    studies: dict[str, list[Table]] = field(default_factory=dict)
    environment: dict = field(default_factory=environment)

    def add(self, row: Row) -> None:
        """Take a row in, in place of an older one of the same problem and method."""
        key = row.group, row.problem, row.method
        for k, old in enumerate(self.rows):
            if (old.group, old.problem, old.method) == key:
                self.rows[k] = row
                return
        self.rows.append(row)

    def tables(self) -> list[Table]:
        """All tables, the targets first."""
        done = {row.group for row in self.rows}
        groups = {name: group for name, group in self.groups.items() if name in done}
        tables = []
        if groups:
            tables += [targets(groups, self.rows), certificates(groups, self.rows)]
            tables += [comparison(group, self.rows) for group in groups.values()]
        for study in self.studies.values():
            tables += study
        return tables

    def text(self) -> str:
        """For a terminal."""
        return "\n\n".join(table.text() for table in self.tables())

    def markdown(self, command: str) -> str:
        """A page with the tables and the command that made them."""
        e = self.environment
        head = [
            "# Benchmark results",
            "",
            f"Written by `{command}` (skfokker {e['skfokker']}, torch {e['torch']}, Python "
            f"{e['python']}, {e['threads']} threads, {e['cores']} cores, {e['machine']}). Errors "
            f"are in nats, seconds are {e.get('clock', 'wall time')}. Numbers marked *published* "
            "were printed by others and not run here.",
        ]
        return "\n\n".join(["\n".join(head), *(t.markdown() for t in self.tables())]) + "\n"

    def to_dict(self) -> dict:
        """For JSON."""
        done = {row.group for row in self.rows}
        return {
            "environment": self.environment,
            "rows": [row.to_dict() for row in self.rows],
            "published": [p for p in PUBLISHED if p["group"] in done],
            "targets": _records(targets(self.groups, self.rows)),
            "studies": {k: [asdict(t) for t in tables] for k, tables in self.studies.items()},
        }

    def write(self, path: str | Path) -> None:
        """Write the JSON file."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def read(cls, path: str | Path, groups: dict[str, Group]) -> Report:
        """A report from its JSON file; rows of unknown groups are left out."""
        stored = json.loads(Path(path).read_text())
        rows = [Row(**row) for row in stored["rows"] if row["group"] in groups]
        studies = {k: [Table(**t) for t in tables] for k, tables in stored["studies"].items()}
        return cls(groups, rows, studies, stored["environment"])


def _records(table: Table) -> list[dict]:
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]
