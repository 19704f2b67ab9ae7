"""Rows to tables: errors side by side, targets with a mark, certificates beside the truth."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .groups import Group
from .measures import TITLES
from .methods import METHODS
from .published import PUBLISHED
from .runner import Row

PASS, FAIL = "pass", "FAIL"
_BOUNDS = {"certificate": "kl_fit_true", "certified_tv": "tv"}  # and what they are bounds on


@dataclass
class Table:
    """A heading, columns, and rows of text.

    Attributes
    ----------
    title : str
    columns : list of str
    rows : list of list of str
    notes : list of str
        Sentences below the table.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """For a terminal: aligned columns."""
        widths = [max(len(str(r[k])) for r in [self.columns, *self.rows])
                  for k in range(len(self.columns))]  # fmt: skip
        lines = [
            "  ".join(str(cell).ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
            for row in [self.columns, ["-" * w for w in widths], *self.rows]
        ]
        return "\n".join([self.title, "=" * len(self.title), *lines, *self.notes])

    def markdown(self) -> str:
        """For the documentation."""

        def line(cells):
            return "| " + " | ".join(str(c).replace("|", "\\|") for c in cells) + " |"

        rules = ["---"] * len(self.columns)
        lines = [f"## {self.title}", "", *map(line, [self.columns, rules, *self.rows])]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines)


def number(x: float | None, measure: str = "") -> str:
    """Two or three digits, as fits the quantity; a dash for nothing."""
    if x is None:
        return "-"
    if measure == "nll":
        return f"{x:.3f}"
    if measure == "seconds":
        return f"{x:.3g}" if x < 100 else f"{x:.0f}"
    return f"{x:.3g}" if 0.01 <= abs(x) < 1e4 else f"{x:.1e}"


@dataclass
class Line:
    """Rows of one label and method, averaged at one time."""

    label: str
    method: str
    t: float | None
    source: str
    seconds: float | None
    values: dict[str, float]
    count: int = 1
    error: str | None = None

    @property
    def title(self) -> str:
        """The method's name, and where the numbers come from if not from this run."""
        name = METHODS[self.method].title if self.method in METHODS else self.method
        return name if self.source == "run" else f"{name} ({self.source})"


def lines(group: Group, rows: Iterable[Row]) -> list[Line]:
    """Means over the problems of a label; bounds are the largest. Published ones last."""
    rows = [row for row in rows if row.group == group.name]
    labels = list(dict.fromkeys(case.label for case in group.cases))
    found: list[Line] = []
    for label in labels:
        mine = [row for row in rows if row.label == label]
        for method in dict.fromkeys(row.method for row in mine):
            all_of_it = [row for row in mine if row.method == method]
            good = [row for row in all_of_it if row.error is None]
            for row in all_of_it:
                if row.error is not None:
                    found.append(Line(label, method, None, "run", row.seconds, {}, error=row.error))
            for t in dict.fromkeys(v["t"] for row in good for v in row.values):
                found.append(_mean(label, method, t, good))
        if mine:
            found += [
                Line(label, p["method"], p["t"], p["source"], p["seconds"], dict(p["values"]))
                for p in PUBLISHED
                if p["group"] == group.name and p["label"] == label
            ]
    return found


def _mean(label: str, method: str, t: float, rows: Sequence[Row]) -> Line:
    entries = [v for row in rows for v in row.values if v["t"] == t]
    names = [name for name in entries[0] if name != "t"]
    values = {}
    for name in names:
        column = [entry[name] for entry in entries if name in entry]
        values[name] = float(max(column) if name in _BOUNDS else np.mean(column))
    seconds = float(np.mean([row.seconds for row in rows]))
    return Line(label, method, t, "run", seconds, values, len(entries))


def comparison(group: Group, rows: Iterable[Row]) -> Table:
    """Methods side by side: errors, seconds, and both against the default fit."""
    found = lines(group, rows)
    times = sorted({line.t for line in found if line.t is not None and line.source == "run"})
    table = Table(
        group.title,
        ["problem", "t", "method", *(TITLES[m] for m in group.measures), "seconds", "error vs ours",
         "time vs ours"],
        [],
    )  # fmt: skip
    labels = list(dict.fromkeys(line.label for line in found))
    for label in labels:
        mine = [line for line in found if line.label == label]
        for t in [None, *sorted({*times, *(line.t for line in mine if line.t is not None)})]:
            now = [line for line in mine if line.t == t]
            ours = next((line for line in now if line.method == "ours"), None)
            known = [m for m in group.measures if ours is not None and m in ours.values]
            head = known[0] if known else group.measures[0]
            for line in now:
                cells = [label, "" if t is None else f"{t:g}", line.title]
                if line.error is not None:
                    cells += [_short(line.error), *[""] * (len(group.measures) - 1)]
                else:
                    cells += [number(line.values.get(m), m) for m in group.measures]
                table.rows.append([*cells, number(line.seconds, "seconds"), *_ratios(line, ours,
                                   head)])  # fmt: skip
    counts = {line.count for line in found if line.source == "run" and line.method == "ours"}
    if counts - {1}:
        table.notes.append(
            f"Means over {max(counts)} random targets; other methods ran on the first of them."
        )
    if "nll" in group.measures:
        errors = [v["nll_se"] for row in rows for v in row.values if "nll_se" in v]
        if errors:
            table.notes.append(
                f"Standard error of an NLL: up to {max(errors):.3f}; differences between methods "
                "are sharper, the particles being the same. Numbers not from this run were taken "
                "on other particles."
            )
    return table


def _ratios(line: Line, ours: Line | None, measure: str) -> list[str]:
    """Error and time relative to ours; a difference in nats where a ratio says nothing."""
    if ours is None or line is ours or line.error is not None:
        return ["", ""]
    mine, theirs = ours.values.get(measure), line.values.get(measure)
    error = ""
    if mine is not None and theirs is not None:
        if measure == "nll":
            error = f"{theirs - mine:+.3f} nats"
        elif mine > 0:
            error = f"x {theirs / mine:.2g}"
    seconds = ""
    if line.seconds is not None and ours.seconds:
        seconds = f"x {line.seconds / ours.seconds:.2g}"
    return [error, seconds]


def _short(error: str) -> str:
    text = error.splitlines()[0]
    return text if len(text) <= 90 else text[:87] + "..."


def targets(groups: dict[str, Group], rows: Iterable[Row]) -> Table:
    """What the default fit is to reach, what it reached, pass or FAIL."""
    rows = list(rows)
    table = Table(
        "Targets of the default fit",
        ["problem", "quantity", "target", "result", "at", "mark"],
        [],
    )
    for group in groups.values():
        found = lines(group, rows)
        for label in dict.fromkeys(line.label for line in found):
            ours = [line for line in found if line.label == label and line.method == "ours"]
            if not ours:
                continue
            name = f"{group.name}, {label}"
            failed = next((line.error for line in ours if line.error is not None), None)
            if failed is not None:
                table.rows.append([name, "a result", "", _short(failed), "", FAIL])
            for target in group.targets:
                table.rows += _target_row(name, label, target, ours)
            table.rows += _seconds_row(name, group, label, rows)
            for rival in group.beats:
                both = _solved_by_both(rows, "ours", rival.method)
                pairs = [line for line in lines(group, both) if line.label == label]
                table.rows += _beats_rows(name, rival, pairs)
    return table


def _solved_by_both(rows, first, second) -> list[Row]:
    """Rows of two methods on the problems that both have solved: their means compare."""

    def solved(method):
        return {row.problem for row in rows if row.method == method and row.error is None}

    shared = solved(first) & solved(second)
    return [row for row in rows if row.problem in shared and row.method in (first, second)]


def _target_row(name, label, target, ours):
    """The worst time, measured by how far it is beyond the bound."""
    worst = None
    for line in ours:
        value, bound = line.values.get(target.measure), target.at(label, line.t)
        if value is None or bound is None:
            continue
        if worst is None or not value - bound < worst[0] - worst[1]:
            worst = value, bound, line.t
    if worst is None:
        return []
    value, bound, t = worst
    mark = PASS if value <= bound else FAIL
    limit = f"<= {number(bound, target.measure)}"
    return [[name, TITLES[target.measure], limit, number(value, target.measure), f"t = {t:g}",
             mark]]  # fmt: skip


def _seconds_row(name, group, label, rows):
    seconds = [
        row.seconds
        for row in rows
        if (row.group, row.label, row.method) == (group.name, label, "ours") and row.seconds
    ]
    limit = group.seconds.get(label) if isinstance(group.seconds, dict) else group.seconds
    if limit is None or not seconds:
        return []
    slowest = max(seconds)
    mark = PASS if slowest <= limit else FAIL
    return [[name, "seconds of the slowest fit", f"<= {limit:g}",
             number(slowest, "seconds"), "", mark]]  # fmt: skip


def _beats_rows(name, rival, found):
    result = []
    title = METHODS[rival.method].title
    for line in [line for line in found if line.method == "ours"]:
        other = next(
            (
                o
                for o in found
                if (o.method, o.label, o.t, o.error) == (rival.method, line.label, line.t, None)
            ),
            None,
        )
        margin = rival.at(line.label)
        if margin is None or other is None:
            continue
        if "nll" in line.values and "nll" in other.values:
            mine, limit = line.values["nll"], other.values["nll"] - margin
            by = f" by {margin:g}" if margin else ""
            result.append(
                [name, f"NLL below {title}{by}", f"< {limit:.3f}", f"{mine:.3f}",
                 f"t = {line.t:g}", PASS if mine < limit else FAIL]
            )  # fmt: skip
    return result


def certificates(groups: dict[str, Group], rows: Iterable[Row]) -> Table:
    """Certified KL and total variation beside the true ones, wherever the truth is known."""
    table = Table(
        "Certificate of the default fit against the true error",
        ["problem", "t", "true KL(fit, true)", "certified KL (95 %)", "ratio", "true TV",
         "certified TV", "bounds hold"],
        [],
    )  # fmt: skip
    held = total = 0
    for group in groups.values():
        worst: dict[tuple, tuple] = {}
        for row in rows:
            if (row.group, row.method) != (group.name, "ours"):
                continue
            for v in row.values:
                if "certificate" not in v:
                    continue
                checks = _checks(v)
                total, held = total + len(checks), held + sum(checks)
                key = row.label, v["t"]
                truth, bound = v.get("kl_fit_true"), v["certificate"]
                ratio = None if truth is None or truth <= 0 else bound / truth
                verdict = "not known" if not checks else "yes" if all(checks) else "NO"
                entry = (verdict != "NO", ratio, verdict, v)
                if key not in worst or _looser(worst[key], entry):
                    worst[key] = entry
        for (label, t), (_, ratio, verdict, v) in worst.items():
            table.rows.append(
                [f"{group.name}, {label}", f"{t:g}", number(v.get("kl_fit_true")),
                 number(v["certificate"]), "-" if ratio is None else f"{ratio:.2g}",
                 number(v.get("tv")), number(v.get("certified_tv")), verdict]
            )  # fmt: skip
    table.notes.append(
        f"The bounds held in {held} of {total} comparisons. Where a line stands for several "
        "targets, the one with the smallest ratio is shown."
    )
    return table


def _checks(values: dict) -> list[bool]:
    """Whether each bound is above the truth, for those of which both are known.

    A truth that is a mean over samples may be too large by chance: three standard errors.
    """
    return [
        values[truth] - 3 * values.get(f"{truth}_se", 0.0) <= values[bound]
        for bound, truth in _BOUNDS.items()
        if bound in values and truth in values
    ]


def _looser(shown, entry):
    """Whether ``entry`` is the more critical of the two."""
    if shown[0] != entry[0]:
        return shown[0]
    return entry[1] is not None and (shown[1] is None or entry[1] < shown[1])
