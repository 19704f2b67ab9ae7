"""The benchmark: every method becomes a row, every failure too, and the tables say whose it is."""

import json
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest

from skfokker import metrics, problems
from skfokker.benchmark import (
    GROUPS,
    METHODS,
    QUICK,
    STUDIES,
    Beat,
    Bench,
    Case,
    Group,
    Method,
    Report,
    Target,
    measures,
    run,
)
from skfokker.benchmark.__main__ import main
from skfokker.benchmark.groups import select
from skfokker.benchmark.measures import TITLES, _kl_from_samples, measure
from skfokker.benchmark.methods import GaussianLaw, KernelLaw
from skfokker.benchmark.published import PUBLISHED
from skfokker.benchmark.references import References
from skfokker.benchmark.runner import Row, TimeLimitError, solve, time_limit
from skfokker.benchmark.studies import StudyOptions, exponent, throughput
from skfokker.benchmark.studies.algorithm1 import outer_step_seconds
from skfokker.benchmark.studies.scaling import projected
from skfokker.benchmark.studies.throughput import euler_maruyama_kl
from skfokker.benchmark.tables import FAIL, PASS, Table, certificates, comparison, lines, targets
from skfokker.reference import kl_gaussians

TINY = Group(
    "ou",
    "A small table",
    (Case("d = 2", "ou-benchmark", (("d", 2), ("k", 0))),
     Case("d = 2", "ou-benchmark", (("d", 2), ("k", 1)), baselines=False)),
    ("symkl", "entropy_error"),
    ("ours", "kde", "gaussian"),
    times=(0.9,),
    targets=(Target("symkl", 1e-4), Target("entropy_error", {"d = 2": 0.0})),
    seconds=1000,
)  # fmt: skip


def small_bench(**given):
    return Bench(References(500), n_particles=500, sde_steps=20, training_steps=5, **given)


@pytest.fixture(scope="module")
def report():
    report = Report({"ou": TINY})
    for row in run(report.groups, small_bench()):
        report.add(row)
    return report


def test_cheap_methods_side_by_side(report):
    assert [(row.problem, row.method) for row in report.rows] == [
        ("ou-benchmark-2d-0", "ours"),
        ("ou-benchmark-2d-0", "kde"),
        ("ou-benchmark-2d-0", "gaussian"),
        ("ou-benchmark-2d-1", "ours"),
    ]
    for row in report.rows:
        assert row.error is None and row.seconds > 0
        assert row.values[0]["t"] == 0.9
        assert set(TITLES) >= {k for k in row.values[0] if not k.endswith("_se")} - {"t"}
    ours, kde, gaussian = (row.values[0] for row in report.rows[:3])
    assert ours["symkl"] < 1e-4 < gaussian["symkl"] < kde["symkl"] < 1
    assert ours["certificate"] >= ours["kl_fit_true"]


def test_table_names_everything(report):
    table = comparison(TINY, report.rows)
    text = table.text()
    assert table.columns[:3] == ["problem", "t", "method"] and "seconds" in table.columns
    assert "Langevin + KDE" in text and "skfokker" in text
    assert "JKO-ICNN (published)" in text and "x " in text
    # the published numbers stand where they belong and nowhere else
    row = next(r for r in table.rows if r[2] == "JKO-ICNN (published)" and r[1] == "0.9")
    assert row[3] == "3.8e-03"
    assert all("published" not in r[2] for r in table.rows if r[2] in {m.title for m in
               METHODS.values()})  # fmt: skip
    assert "Means over 2 random targets" in text
    assert "| JKO-ICNN (published) |" in table.markdown()


def test_targets_pass_and_fail(report):
    marks = {row[1]: row[-1] for row in targets({"ou": TINY}, report.rows).rows}
    assert marks == {
        "symKL": PASS,
        "entropy error": FAIL,
        "seconds of the slowest fit": PASS,
    }


def test_certificates_beside_the_truth(report):
    table = certificates({"ou": TINY}, report.rows)
    assert len(table.rows) == 1 and table.rows[0][-1] == "yes"
    assert "held in 4 of 4" in table.notes[0] and table.columns[-1] == "bounds hold"
    liar = Row("ou", "d = 2", "p", "ours", 1.0, [{"t": 0.9, "kl_fit_true": 1e-3,
                                                  "certificate": 1e-4}])  # fmt: skip
    table = certificates({"ou": TINY}, [*report.rows, liar])
    assert table.rows[0][-1] == "NO" and "held in 4 of 5" in table.notes[0]
    liar.values[0] |= {"certificate": 1e-2, "certified_tv": 0.05, "tv": 0.07, "tv_se": 0.01}
    assert certificates({"ou": TINY}, [liar]).rows[0][5:] == ["0.07", "0.05", "yes"]  # by chance
    liar.values[0]["tv_se"] = 0.005
    table = certificates({"ou": TINY}, [liar])
    assert table.rows[0][5:] == ["0.07", "0.05", "NO"] and "held in 1 of 2" in table.notes[0]


def test_json_round_trip(report, tmp_path):
    path = tmp_path / "results.json"
    report.write(path)
    stored = json.loads(path.read_text())
    assert set(stored) == {"environment", "rows", "published", "targets", "studies"}
    assert {"torch", "threads", "cores"} <= set(stored["environment"])
    assert set(stored["rows"][0]) == {
        "group", "label", "problem", "method", "seconds", "values", "info", "error"
    }  # fmt: skip
    assert stored["published"] and all(p["source"] == "published" for p in stored["published"])
    assert {"target", "result", "mark"} <= set(stored["targets"][0])
    report.add(report.rows[1])
    assert len(report.rows) == 4
    again = Report.read(path, {"ou": TINY})
    assert again.text() == report.text()
    page = again.markdown("python -m skfokker.benchmark --problems ou")
    assert "`python -m skfokker.benchmark --problems ou`" in page and "*published*" in page


def test_a_failing_method_is_a_row(monkeypatch, report):
    def fail(problem, times, bench):
        warnings.warn("on thin ice", UserWarning, stacklevel=2)
        raise RuntimeError("the map has degenerated")

    monkeypatch.setitem(METHODS, "kde", Method("kde", "Langevin + KDE", fail))
    rows = list(run({"ou": TINY}, small_bench()))
    assert [row.error is None for row in rows] == [True, False, True, True]
    assert rows[1].error == "RuntimeError: the map has degenerated"
    assert rows[1].info["warnings"] == ["on thin ice"]
    assert "the map has degenerated" in comparison(TINY, rows).text()
    # the default fit failing is a target missed
    broken = [Row("ou", "d = 2", "ou-benchmark-2d-0", "ours", 1.0, error="ValueError: no")]
    assert targets({"ou": TINY}, broken).rows[0][-1] == FAIL


def test_a_slow_method_is_a_row():
    method = Method("slow", "slow", lambda problem, times, bench: time.sleep(30))
    case = TINY.cases[0]
    row = solve(TINY, case, case.load(), method, small_bench(time_limit=0.05))
    assert row.error == "TimeLimitError: no result after 0.05 s"
    with pytest.raises(TimeLimitError), time_limit(0.01):
        time.sleep(5)
    with time_limit(None):
        pass


def test_missing_zuko_is_a_row(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko", None)
    case = TINY.cases[0]
    row = solve(TINY, case, case.load(), METHODS["nsf"], small_bench(our_seconds=0.01))
    assert "pip install 'skfokker[flows]'" in row.error


def test_flow_on_particles():
    pytest.importorskip("zuko")
    case = TINY.cases[0]
    row = solve(TINY, case, case.load(), METHODS["nsf"], small_bench(our_seconds=0.2))
    assert row.error is None
    assert row.info["particles"] == 500 and row.info["training_steps"] >= 5
    assert row.values[0]["symkl"] < 1


def test_products_by_quadrature_agree_with_samples():
    """Quadrature of marginals and Monte Carlo see the same divergences."""
    from skfokker.benchmark.methods import FitLaw, fit_ours
    from skfokker.flows import AffineFlow

    problem = problems.load("styblinski-tang-1d")
    law = FitLaw(fit_ours(problem, flow=AffineFlow(diagonal=True), tol=100.0))
    exact = measure(problem, law, 0.5, References(100))
    law.marginals = lambda t: None
    sampled = measure(problem, law, 0.5, References(100))
    assert exact["kl_fit_true"] == pytest.approx(sampled["kl_fit_true"], rel=0.05)
    assert exact["kl_true_fit"] == pytest.approx(sampled["kl_true_fit"], rel=0.1)
    assert exact["worst_marginal"] == exact["kl_fit_true"] > 0.01
    law.certificate = None
    grid = METHODS["grid"].solve(problem, (0.5,), small_bench())[0]
    assert measure(problem, grid, 0.5, References(100))["symkl"] < 1e-8


def test_small_divergences_from_few_samples():
    """Two Gaussians 0.01 apart: KL 5e-5, from 1000 samples to a few percent."""
    x = np.random.default_rng(0).standard_normal(1000)
    for shift in (0.01, 0.5):
        log_ratio = 0.5 * ((x - shift) ** 2 - x**2)
        value, spread = _kl_from_samples(log_ratio)
        assert abs(value - shift**2 / 2) < 4 * spread
    value, spread = _kl_from_samples(0.5 * ((x - 0.01) ** 2 - x**2))
    assert spread < 0.1 * value


def test_likelihood_and_stationary_law_of_a_mixture():
    problem = problems.load("nine-gaussians", d=3)
    references = References(1000)
    x = references.particles(problem, 4.0)
    assert references.particles(problem, 4.0) is x
    law = GaussianLaw({4.0: x})
    law.n_points = 1000
    errors = measure(problem, law, 4.0, references)
    assert errors["nll"] == pytest.approx(-law.log_density(x, 4.0).mean())
    # the floor is a bound for the exact law, so for particles of it too
    kernel = KernelLaw({4.0: x})
    assert 0 < errors["floor"] < measure(problem, kernel, 4.0, references)["symkl_stationary"]


COARSE = {"domain": [[-4.5, 4.5], [-4.5, 4.5]], "n_nodes": 32, "max_nodes": 128, "tol": 0.1}


class Known(GaussianLaw):
    """A Gaussian that claims to know how wrong it is."""

    class certificate:
        is_bound = True
        kl = staticmethod(lambda t: 0.5)
        total_variation = staticmethod(lambda t: 0.4)


def test_total_variation_of_gaussians():
    """By samples of the law, against the formula for a shift: 2 Phi(shift / 2) - 1."""
    from scipy.stats import norm

    problem = problems.load("ou-benchmark", d=2, k=0)
    mean, covariance = problem.moments(0.5)
    law = GaussianLaw({0.5: np.zeros((3, 2))})
    for shift in (1e-3, 0.5, 6.0):
        law.at = {0.5: (mean + shift * np.linalg.cholesky(covariance)[:, 0], covariance)}
        found = measures._divergences(problem, law, 0.5, References(100))
        wanted = 2 * norm.cdf(shift / 2) - 1
        assert abs(found["tv"] - wanted) < 4 * found["tv_se"] + 1e-6
        assert 0 < found["tv_se"] < 0.01


def test_coupled_problems_are_measured_against_what_is_known_of_them():
    """A product of grids behind a rotation, and a grid in the plane; cheap stand-ins for fits."""
    ring = replace(problems.load("rings-10d").parts[0], grid=COARSE)
    rings = replace(problems.load("rings-10d-rotated"), parts=(ring,))
    quartic = replace(problems.load("quartic-2d"), grid=COARSE)
    references = References(500)
    for problem, t in ((rings, 0.5), (quartic, 0.1)):
        law = Known({t: problem.sample(4000, t, seed=3)})
        errors = measure(problem, law, t, references)
        assert {"kl_fit_true", "kl_true_fit", "tv"} <= set(errors) and "nll" not in errors
        assert 0.01 < errors["kl_true_fit"] < 10
        # Pinsker's inequality
        assert 0.02 < errors["tv"] < np.sqrt(min(errors["kl_fit_true"], errors["kl_true_fit"]) / 2)

        class Exact(Known):
            n_points = 2000
            log_density = staticmethod(problem.log_density)
            points = staticmethod(lambda t, problem=problem: problem.sample(2000, t, seed=5))

        exact = measure(problem, Exact({t: np.zeros((3, problem.d))}), t, references)
        assert abs(exact["kl_fit_true"]) < 1e-12 and exact["tv"] < 1e-12
    # finite volumes of a plane are its reference themselves, solved once
    grid = METHODS["grid"].solve(quartic, (0.1,), Bench(references))[0]
    assert grid.solution is quartic.solution
    assert 0 < measure(quartic, grid, 0.1, references)["kl_fit_true"] < 1e-2


def test_coupled_group(monkeypatch):
    """The default fit replaced by a Gaussian: bounds beside the truth, targets by label."""
    group = GROUPS["coupled"]
    assert [case.load().d for case in group.cases[:11]] == [2, 10, 30, 100, 2, 16, 64, 10, 10, 9, 2]
    labels = {case.label for case in group.cases}
    assert set(group.seconds) == labels and group.seconds["Rosenbrock 100-D"] == 200
    for target in group.targets:
        assert set(target.bound) <= labels
    for beat in group.beats:
        assert beat.method in group.methods and set(beat.margin) <= labels
    nll = group.targets[:3]
    assert [t.at("Rosenbrock 10-D", t.time) for t in nll] == pytest.approx([10.814, 9.6585, 9.7026])
    assert nll[0].at("Rosenbrock 30-D", 0.1) is None

    def fit(problem, times, bench):
        return Known({t: problem.sample(2000, t, seed=3) for t in times}), 0.0

    monkeypatch.setitem(METHODS, "ours", Method("ours", "skfokker", fit))
    case = next(case for case in group.cases if case.name == "rotated-wells-9d")
    row = solve(group, case, case.load(), METHODS["ours"], small_bench())
    assert row.error is None and [v["t"] for v in row.values] == [0.1, 0.5, 1.0, 2.0]
    assert row.values[-1]["certified_tv"] == 0.4
    report = Report({"coupled": group}, [row])
    wells = "coupled, wells 9-D, rotated"
    marks = [r for r in targets(report.groups, report.rows).rows if r[0] == wells]
    assert [r[1] for r in marks] == ["KL(fit, true)", "seconds of the slowest fit"]
    assert marks[0][-1] == FAIL and marks[1][2] == "<= 60" and marks[1][-1] == PASS
    table = certificates(report.groups, report.rows)
    assert len(table.rows) == 4 and {r[-1] for r in table.rows} <= {"yes", "NO"}


def test_general_group(monkeypatch):
    """Exact Gaussians in the place of fits: targets by label, bounds where there are some."""
    group = GROUPS["general"]
    labels = {case.label for case in group.cases}
    assert {case.load().d for case in group.cases} == {2, 3, 6, 8, 10, 40, 50, 100}
    for target in group.targets:
        assert set(target.bound) <= labels

    class Residual(Known):
        class certificate(Known.certificate):
            is_bound = False

    def fit(problem, times, bench):
        kind = Residual if problem.name == "swarm-2d" else Known
        law = kind({t: np.zeros((3, 2)) for t in times})
        law.at = {t: problem.moments(t) for t in times}
        return law, 0.0

    monkeypatch.setitem(METHODS, "ours", Method("ours", "skfokker", fit))
    for name in ("swarm-2d", "kinetic-10d"):
        case = next(case for case in group.cases if case.name == name)
        row = solve(group, case, case.load(), METHODS["ours"], small_bench())
        assert row.error is None
        for values in row.values:
            assert values["kl_fit_true"] < 1e-15 and values["tv"] < 1e-6
            assert ("certified_tv" in values) == (name == "kinetic-10d")  # a mean field has none
        marks = targets({"general": group}, [row]).rows
        assert [r[-1] for r in marks if r[1] == "KL(fit, true)"] == [PASS]


def test_expectations():
    """Particles of the law have the known means; of another law they have not."""
    problem = problems.load("dumbbell-3d")
    problem = replace(problem, t_final=0.1, functions=(square,), expected=(3.0,))
    law = GaussianLaw({0.1: np.random.default_rng(0).standard_normal((50_000, 3))})
    errors = measure(problem, law, 0.1, References(100))
    assert errors["functional_1"] < 0.05 and np.isfinite(errors["nll"])
    assert measures._expectations(replace(problem, expected=(4.0,)), law, 0.1)[
        "functional_1"
    ] == pytest.approx(1.0, abs=0.05)


def square(x):
    return (x**2).sum(1)


def test_processor_time():
    """Of a method that waits, next to nothing."""

    def wait(problem, times, bench):
        time.sleep(0.3)
        return GaussianLaw({t: problem.sample(100, t) for t in times}), 0.0

    method = Method("ours", "skfokker", wait)
    seconds = []
    for clock in (time.perf_counter, time.process_time):
        bench = replace(small_bench(), clock=clock)
        row = solve(TINY, TINY.cases[0], TINY.cases[0].load(), method, bench)
        seconds.append(row.seconds)
    assert seconds[0] > 0.3 > seconds[1]


def test_margins_below_another_method():
    group = replace(TINY, beats=(Beat("nsf", {"d = 2": 0.3}), Beat("kde"), Beat("nsf", {"x": 9.0})))
    rows = [
        Row("ou", "d = 2", "p", method, 1.0, [{"t": 0.9, "nll": nll}])
        for method, nll in (("ours", 10.0), ("nsf", 10.2), ("kde", 10.2))
    ]
    found = [row for row in targets({"ou": group}, rows).rows if row[1].startswith("NLL below")]
    assert [row[2:4] + row[-1:] for row in found] == [
        ["< 9.900", "10.000", FAIL],
        ["< 10.200", "10.000", PASS],
    ]
    assert found[0][1].endswith("our time by 0.3")
    rows[1].values[0]["nll"] = 10.4
    assert targets({"ou": group}, rows).rows[-2][-1] == PASS
    # the column of ratios takes the first error that the problem has
    table = comparison(replace(TINY, measures=("kl_fit_true", "nll")), rows)
    assert [row[-2] for row in table.rows if row[2] == METHODS["nsf"].title] == ["+0.400 nats"]


def test_groups_are_the_rows_of_the_issue():
    assert {"ou", "heat", "styblinski-tang", "styblinski-tang-100", "beta", "rosenbrock",
            "nine-gaussians", "quadratic"} <= set(GROUPS)  # fmt: skip
    assert len(GROUPS["ou"].cases) == 90
    for group in (*GROUPS.values(), *QUICK.values()):
        assert set(group.methods) <= set(METHODS) and set(group.measures) <= set(TITLES)
        for case in group.cases:
            problem = case.load()
            assert max(group.times or problem.times) <= problem.t_final
    target = next(t for t in GROUPS["nine-gaussians"].targets)
    assert target.at("d = 2", 4.0) == pytest.approx(0.0615 / 2) and target.at("d = 2", 1.0) is None
    assert GROUPS["rosenbrock"].targets[0].at("d = 10", 0.5) == pytest.approx(9.668)
    labels = {(g.name, c.label) for g in GROUPS.values() for c in g.cases}
    assert {(p["group"], p["label"]) for p in PUBLISHED} <= labels
    assert {p["source"] for p in PUBLISHED} == {"published", "earlier"}


def test_selection():
    assert list(select(["heat-8d", "quadratic"])) == ["quadratic", "heat"]
    assert len(select(["quadratic-10d"])["quadratic"].cases) == 1
    assert len(select(["nine-gaussians-2d-*"])["nine-gaussians"].cases) == 5
    assert list(select(["rosenbrock-10d"])) == ["rosenbrock", "coupled"]
    chosen = select(["coupled/rosenbrock-*"])
    assert list(chosen) == ["coupled"] and len(chosen["coupled"].cases) == 4
    with pytest.raises(ValueError, match="no problem matches"):
        select(["rosenbrok"])


def test_lines_average_over_targets():
    values = ({"t": 0.9, "symkl": 1.0 + k, "certificate": 1.0 + k} for k in (0, 2))
    rows = [Row("ou", "d = 2", "p", "ours", v["symkl"], [v]) for v in values]
    line = lines(TINY, rows)[0]
    assert (line.values["symkl"], line.values["certificate"], line.seconds) == (2.0, 3.0, 2.0)


@pytest.mark.slow
def test_command_line(tmp_path, capsys):
    paths = [str(tmp_path / name) for name in ("results.json", "results.md")]
    arguments = ["--quick", "--problems", "heat", "--methods", "ours", "--json", paths[0],
                 "--markdown", paths[1]]  # fmt: skip
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "Targets of the default fit" in out and "(published)" in out
    assert "# Benchmark results" in (tmp_path / "results.md").read_text()
    # a second run keeps what the first one found
    assert main([*arguments[:2], "ou-benchmark", *arguments[3:], "--update"]) == 0
    stored = json.loads((tmp_path / "results.json").read_text())
    assert {row["group"] for row in stored["rows"]} == {"heat", "ou"}
    assert main(["--list"]) == 0 and "nine-gaussians" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--problems", "rosenbrok"])


@pytest.mark.slow
def test_studies():
    assert set(STUDIES) == {
        "tolerance",
        "dimension",
        "seeds",
        "throughput",
        "entropy",
        "algorithm1",
        "metric",
        "sampling",
        "corrector",
        "memory",
        "scaling",
        "posteriors",
        "certificates",
    }
    assert exponent([10, 30, 100], [1, 9, 100]) == pytest.approx(2.0, abs=0.01)
    assert exponent([1], [1]) is None
    options = StudyOptions(quick=True)
    for name in ("tolerance", "dimension"):
        for table in STUDIES[name](options):
            assert isinstance(table, Table) and len(table.rows) >= 2, name
            assert any("exponent" in note for note in table.notes)
    table = STUDIES["seeds"](options)[0]
    rows = {row[0]: row[1:] for row in table.rows}
    assert list(rows) == ["NLL, t = 0.5", "NLL, t = 0.9", "fit, seconds"]
    assert all(row[0] == "2" and float(row[1]) > 0 for row in rows.values())
    assert "All 2 fits ended." in table.notes
    table = throughput(options)[0]
    assert all(row[4].startswith("x ") and row[-1] in (PASS, FAIL, "") for row in table.rows)
    assert outer_step_seconds(problems.load("quadratic-2d-iso"), 140, 5) > 0
    assert np.isfinite([float(row[3]) for row in table.rows]).all()


@pytest.mark.slow
def test_studies_say_what_a_fit_ended_in(monkeypatch):
    """Fits that fail, fits that cannot be asked afterwards, and fits that give nonsense."""
    from skfokker.benchmark.studies import common

    options, fit_ours = StudyOptions(quick=True), common.fit_ours
    calls = []

    def fit(problem, seed=0, **parameters):
        calls.append(seed)
        if len(calls) == 1:
            raise RuntimeError("the map has degenerated: badly")
        return fit_ours(problem, seed, **parameters)

    monkeypatch.setattr(common, "fit_ours", fit)
    rows = {row[0]: row[1:] for row in STUDIES["seeds"](options)[0].rows}
    assert calls == [0, 1]
    assert rows["RuntimeError"][0] == "1 of 2"
    assert rows["fit, seconds"][0] == "1" and float(rows["NLL, t = 0.5"][1]) > 0
    for name, place in (("tolerance", 2), ("dimension", 1)):
        calls.clear()
        table = STUDIES[name](options)[0]
        assert table.rows[0][place] == "RuntimeError: the map has degenerated: badly"
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert "Error" not in table.rows[1][place]

    class Mute(common.FitLaw):
        def log_density(self, x, t):
            return np.full(len(x), np.nan)

    monkeypatch.setattr(common, "FitLaw", Mute)
    rows = {row[0]: row[1:] for row in STUDIES["seeds"](options)[0].rows}
    assert rows["FloatingPointError"][0] == "2 of 2" and rows["fit, seconds"][1] == "-"


def test_study_of_certificates():
    row = STUDIES["certificates"](StudyOptions(quick=True))[0].rows[0]
    truth, before, _, now, distance = map(float, row[3:8])
    assert truth <= now <= before and 0 < distance < 1


@pytest.mark.slow
def test_memory_of_fresh_processes():
    """Draws are counted as output, what is held beside them is not."""
    table = STUDIES["memory"](StudyOptions(quick=True))[0]
    peak, imports, output, beyond = map(float, table.rows[0][1:5])
    assert 0.1 < imports <= peak < 2 and output < 0.01 and beyond <= peak - imports + 0.01


def test_projection_to_many_cores():
    alone = projected(1.0, 0.9, 100, 1e6, 1, 1e-5, 1e9)
    assert alone == pytest.approx(1.0)
    assert projected(1.0, 0.9, 0, 0, 1000, 1e-5, 1e9) == pytest.approx(0.1009)  # Amdahl
    talk = projected(1.0, 0.9, 100, 1e6, 1000, 1e-5, 1e9) - 0.1009
    assert talk == pytest.approx(100 * 2 * np.log2(1000) * 1e-5 + 2e-3 * 0.999)
    row = STUDIES["scaling"](StudyOptions(quick=True))[0].rows[0]
    assert int(row[5]) > 0 and float(row[-1]) > 0


def test_bracket_holds_the_true_divergence():
    """For a law that is known, and a Gaussian that does not fit it well."""
    from skfokker.benchmark.methods import fit_ours
    from skfokker.benchmark.studies.entropy import kl_bracket

    problem = problems.load("quadratic-2d-iso")
    shifted = problems.load("quadratic-2d-aniso")
    fit = fit_ours(shifted)
    truth = kl_gaussians(*problem.moments(0.2), *metrics.moments(fit, 0.2))
    low, high, spread = kl_bracket(problem, fit, 0.2, n=1000, n_steps=80, copies=8)
    assert truth > 0.05
    assert low - 3 * spread <= truth <= high + 3 * spread
    assert high - low < 2 * truth


def test_law_of_the_euler_scheme_converges():
    problem = problems.load("double-well-1d", beta=1.0)
    coarse, fine = (euler_maruyama_kl(problem, 0.5, n, n_nodes=801) for n in (25, 50))
    assert 3 < coarse / fine < 5
