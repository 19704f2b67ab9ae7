"""Command line: ``python -m skfokker.benchmark --help``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from .groups import GROUPS, select
from .methods import METHODS, Bench
from .references import References
from .report import Report
from .runner import run
from .studies import STUDIES, StudyOptions


def parser() -> argparse.ArgumentParser:
    """The options."""
    p = argparse.ArgumentParser(
        prog="python -m skfokker.benchmark",
        description="Problems x methods side by side: errors, seconds, ratios, targets.",
        epilog="groups: " + ", ".join(GROUPS) + "; methods: " + ", ".join(METHODS),
    )
    p.add_argument("--quick", action="store_true", help="a few small problems, under a minute")
    p.add_argument("--problems", nargs="+", metavar="NAME",
                   help="groups or problems: ou, heat-8d, 'nine-gaussians-2d-*'")  # fmt: skip
    p.add_argument("--methods", nargs="+", metavar="KEY", choices=list(METHODS),
                   help="competitors; default all that suit the problem")  # fmt: skip
    p.add_argument("--study", nargs="+", choices=[*STUDIES, "all"], default=[],
                   help="studies to run; without --problems nothing else runs")  # fmt: skip
    p.add_argument("--all", action="store_true", help="every problem and every study")
    p.add_argument("--time-limit", type=float, default=900.0, metavar="SECONDS",
                   help="for one method on one problem (default 900)")  # fmt: skip
    p.add_argument("--processor-time", action="store_true",
                   help="measured in the place of wall time")  # fmt: skip
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--json", type=Path, metavar="FILE", help="write results as JSON")
    p.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables as a page")
    p.add_argument("--update", action="store_true",
                   help="keep what --json already holds of what is not run now")  # fmt: skip
    p.add_argument("--list", action="store_true", help="print groups and problems, run nothing")
    return p


def main(arguments=None) -> int:
    """Run; the exit status is 0 whatever the marks say."""
    p = parser()
    options = p.parse_args(arguments)
    try:
        groups = select(options.problems, options.quick)
    except ValueError as error:
        p.error(str(error))
    if options.list:
        for group in groups.values():
            print(f"{group.name}: {group.title}")
            print("   ", ", ".join(dict.fromkeys(case.name for case in group.cases)))
        return 0
    if options.update and options.json and options.json.exists():
        report = Report.read(options.json, GROUPS)
    else:
        report = Report(groups)

    if options.processor_time:
        report.environment["clock"] = "processor time"

    def save():
        if options.json:
            report.write(options.json)
        if options.markdown:
            command = "python -m skfokker.benchmark " + " ".join(arguments or sys.argv[1:])
            options.markdown.write_text(report.markdown(command.strip()))

    def say(line):
        print(line, flush=True)

    if not options.study or options.problems or options.all:
        size = 5000 if options.quick else 50_000
        bench = Bench(
            References(5000 if options.quick else 20_000),
            seed=options.seed,
            n_particles=size,
            sde_steps=200 if options.quick else 500,
            training_steps=50 if options.quick else 200,
            time_limit=options.time_limit,
            clock=time.process_time if options.processor_time else time.perf_counter,
        )
        for row in run(groups, bench, options.methods, say, list(report.rows)):
            report.add(row)
            save()
    chosen = list(STUDIES) if options.all or "all" in options.study else options.study
    for name in chosen:
        say(f"study: {name}")
        settings = StudyOptions(options.seed, options.time_limit, options.quick, say)
        report.studies[name] = STUDIES[name](settings)
        save()
    say("\n" + report.text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
