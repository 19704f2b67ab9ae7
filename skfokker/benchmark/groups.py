"""What is compared: groups of problems, each with its errors, competitors and targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from .. import problems
from .published import NINE_GAUSSIANS, ROSENBROCK_BEST


@dataclass(frozen=True)
class Case:
    """One problem and the line of the table that its errors are averaged into.

    Attributes
    ----------
    label : str
        Line of the table, such as "d = 10".
    name : str
        As in :func:`skfokker.problems.load`.
    parameters : tuple of (str, value)
        For ``problems.load``.
    baselines : bool
        Whether the other methods run here too. They take minutes where a fit takes a fraction of
        a second, so that of many random targets they see the first few.
    """

    label: str
    name: str
    parameters: tuple = ()
    baselines: bool = True

    def load(self) -> problems.Problem:
        """The problem."""
        return problems.load(self.name, **dict(self.parameters))


@dataclass(frozen=True)
class Target:
    """A bound on an error, for every label and compared time (or those it names).

    Attributes
    ----------
    measure : str
        The error, a key of a row's values.
    bound : float or dict
        Largest value allowed; a dict has one a label or one a time, and says nothing of others.
    slack : float
        Added to the bound.
    time : float or None
        The only time it is about; None for all.
    """

    measure: str
    bound: float | dict
    slack: float = 0.0
    time: float | None = None

    def at(self, label: str, t: float) -> float | None:
        """The bound for a label at time t; None where there is none."""
        if self.time not in (None, t):
            return None
        if isinstance(self.bound, dict):
            bound = self.bound.get(label, self.bound.get(t))
            return None if bound is None else bound + self.slack
        return self.bound + self.slack


@dataclass(frozen=True)
class Beat:
    """A method that the default ``fit`` is to beat in negative log-likelihood.

    Attributes
    ----------
    method : str
        A key of ``METHODS``.
    margin : float or dict
        Nats to be below it; a dict has one a label, and says nothing of others.
    """

    method: str
    margin: float | dict[str, float] = 0.0

    def at(self, label: str) -> float | None:
        """The margin for a label; None where there is none."""
        return self.margin.get(label) if isinstance(self.margin, dict) else self.margin


@dataclass(frozen=True)
class Group:
    """Problems that share a table.

    Attributes
    ----------
    name, title : str
        Key and heading.
    cases : tuple of Case
        What is run.
    times : tuple of float
        Where errors are measured; the problem's own where empty.
    measures : tuple of str
        Columns of the table; the first one that a problem has is compared between methods.
    methods : tuple of str
        Keys of ``METHODS``.
    targets : tuple of Target
        What the default ``fit`` is to reach.
    seconds : float, dict or None
        Wall time allowed for a fit; a dict has one a label, and says nothing of others.
    beats : tuple of Beat
        Methods that the default ``fit`` is to beat.
    """

    name: str
    title: str
    cases: tuple[Case, ...]
    measures: tuple[str, ...]
    methods: tuple[str, ...]
    times: tuple[float, ...] = ()
    targets: tuple[Target, ...] = ()
    seconds: float | Mapping[str, float] | None = None
    beats: tuple[Beat, ...] = ()


_D = (2, 4, 6, 8, 10, 12)
_MARGINAL = ("kl_fit_true", "worst_marginal", "kl_true_fit")


def _each(label, name, values, baselines=None, **fixed):
    """Cases of one label, one a random target k."""
    fixed = tuple(fixed.items())
    return tuple(
        Case(label, name, (*fixed, ("k", k)), baselines is None or k < baselines) for k in values
    )


def _ou(targets: int, dimensions=_D, baselines=2):
    return sum((_each(f"d = {d}", "ou-benchmark", range(targets), baselines, d=d)
                for d in dimensions), ())  # fmt: skip


_ROSENBROCK_TIMES = (0.1, 0.5, 1.0)
#: Mean NLL at these times of a conditional exponential family fitted by a prototype. On other
#: particles of the same law: a mean over 20,000 has a standard error of 0.02, hence the slack.
_ROSENBROCK_COUPLED = (10.794, 9.6385, 9.6826)
_PLANE = ("Rosenbrock 2-D", "quartic 2-D", "three holes 2-D")
_PRODUCTS = ("rings 10-D", "rings 10-D, rotated", "wells 9-D, rotated")

_LINEAR = (
    "moving trap 8-D",
    "rotating trap 100-D",
    "swarm 2-D",
    "kinetic 10-D",
    "kinetic 40-D",
    "turning diffusion 50-D",
)
_OSCILLATORS = ("four Duffing 8-D", "four Duffing 8-D, rotated")

_ALL = (
    Group(
        "quadratic",
        "Quadratic potentials of the paper (section 6.1): exact solution Gaussian",
        (
            Case("2-D, isotropic", "quadratic-2d-iso"),
            Case("2-D, anisotropic", "quadratic-2d-aniso"),
            Case("10-D", "quadratic-10d"),
        ),
        ("kl_fit_true", "kl_true_fit", "mean_error", "covariance_error"),
        ("ours", "adam", "kde", "gaussian", "grid"),
        targets=(Target("kl_fit_true", 1e-8), Target("kl_true_fit", 1e-8)),
        seconds=2,
    ),
    Group(
        "ou",
        "OU benchmark: fifteen random Gaussian targets for each d, mean errors",
        _ou(15),
        ("symkl",),
        ("ours", "kde", "gaussian"),
        targets=(Target("symkl", 1e-6),),
        seconds=2,
    ),
    Group(
        "ou-spectrum",
        "OU with eigenvalues in [0.5, 1]: Gaussians fitted to the moments of each law",
        tuple(
            Case(f"d = {d}", "ou-spectrum", (("d", d), ("k", k)), k < 1)
            for d in (2, 6, 12, 16, 32, 64)
            for k in range(3)
        ),
        ("moment_symkl",),
        ("ours", "gaussian"),
        times=(0.9,),
    ),
    Group(
        "heat",
        "Heat equation in 8 dimensions, t to 5",
        (Case("d = 8", "heat-8d"),),
        ("entropy_error", "covariance_error", "symkl"),
        ("ours", "kde", "gaussian"),
        targets=(Target("entropy_error", 1e-6),),
        seconds=2,
    ),
    Group(
        "styblinski-tang",
        "Styblinski-Tang in 30 dimensions, t to 3: joint and worst marginal KL",
        (Case("d = 30", "styblinski-tang-30d"),),
        _MARGINAL,
        ("ours", "kde", "gaussian", "nsf", "nsf3"),
        times=(0.3, 0.6, 1.2, 1.8, 3.0),
        targets=(
            Target("kl_fit_true", 1e-3),
            Target("worst_marginal", 1e-4),
            Target("certificate", 1e-2),
        ),
        seconds=60,
    ),
    Group(
        "styblinski-tang-100",
        "Styblinski-Tang in 100 dimensions, t to 3",
        (Case("d = 100", "styblinski-tang-100d"),),
        _MARGINAL,
        ("ours", "gaussian"),
        times=(0.3, 1.2, 3.0),
        targets=(Target("worst_marginal", 1e-4),),
        seconds=300,
    ),
    Group(
        "beta",
        "Styblinski-Tang in 30 dimensions at beta = 0.1 and 10, t = 3",
        (
            Case("beta = 0.1", "styblinski-tang-30d-beta0.1"),
            Case("beta = 10", "styblinski-tang-30d-beta10"),
        ),
        _MARGINAL,
        ("ours", "gaussian", "nsf", "nsf3"),
        times=(3.0,),
        targets=(Target("worst_marginal", 1e-3),),
        seconds=120,
    ),
    Group(
        "rosenbrock",
        "Rosenbrock in 10 dimensions: negative log-likelihood of Langevin particles",
        (Case("d = 10", "rosenbrock-10d"),),
        ("nll",),
        ("ours", "kde", "gaussian", "nsf", "nsf3"),
        targets=(Target("nll", ROSENBROCK_BEST, slack=0.02),),
        seconds=120,
        beats=(Beat("nsf"),),
    ),
    Group(
        "nine-gaussians",
        "Nine Gaussians, five random targets for each d: symKL to the stationary law",
        sum((_each(f"d = {d}", "nine-gaussians", range(5), 1, d=d) for d in _D), ()),
        ("symkl_stationary", "nll", "floor"),
        ("ours", "kde", "gaussian", "nsf", "nsf3"),
        times=(1.0, 4.0),
        targets=(
            Target(
                "symkl_stationary",
                {
                    f"d = {d}": value / 2
                    for d, value in zip(_D, NINE_GAUSSIANS["JKO-ICNN"], strict=True)
                },
                time=4.0,
            ),
        ),
        seconds=300,
        beats=(Beat("nsf"),),
    ),
    Group(
        "grid",
        "One and two dimensions, against finite volumes",
        (
            Case("Styblinski-Tang 1-D", "styblinski-tang-1d"),
            Case("double well 1-D", "double-well-1d"),
            Case("double well 2-D", "double-well-2d"),
            Case("Rosenbrock 2-D", "rosenbrock-2d"),
        ),
        ("symkl", "kl_fit_true", "kl_true_fit"),
        ("ours", "grid", "kde", "gaussian", "nsf", "nsf3"),
    ),
    Group(
        "coupled",
        "Coordinates that interact: against exact products and finite volumes, or by NLL",
        (
            Case("Rosenbrock 2-D", "rosenbrock-2d"),
            Case("Rosenbrock 10-D", "rosenbrock-10d"),
            Case("Rosenbrock 30-D", "rosenbrock-30d"),
            Case("Rosenbrock 100-D", "rosenbrock-100d"),
            Case("quartic 2-D", "quartic-2d"),
            Case("chain 16-D", "ginzburg-landau-16d"),
            Case("chain 64-D", "ginzburg-landau-64d"),
            Case("rings 10-D", "rings-10d"),
            Case("rings 10-D, rotated", "rings-10d-rotated"),
            Case("wells 9-D, rotated", "rotated-wells-9d"),
            Case("three holes 2-D", "three-holes"),
            *_each("nine Gaussians 2-D", "nine-gaussians", range(5), 1, d=2),
        ),
        ("kl_fit_true", "kl_true_fit", "certificate", "tv", "certified_tv", "nll"),
        ("ours", "grid", "gaussian", "nsf", "nsf3"),
        targets=(
            *(
                Target("nll", {"Rosenbrock 10-D": nll}, slack=0.02, time=t)
                for t, nll in zip(_ROSENBROCK_TIMES, _ROSENBROCK_COUPLED, strict=True)
            ),
            Target("kl_fit_true", dict.fromkeys(_PLANE, 1e-3) | dict.fromkeys(_PRODUCTS, 0.05)),
            Target("kl_fit_true", {"nine Gaussians 2-D": 2e-3}, time=1.0),
            Target("certificate", dict.fromkeys(_PLANE, 0.1)),
            Target("certified_tv", dict.fromkeys(_PLANE, 0.1)),
        ),
        seconds={
            "Rosenbrock 10-D": 10.0,
            "Rosenbrock 30-D": 40,
            "Rosenbrock 100-D": 200,
            "chain 16-D": 15,
            "chain 64-D": 90,
            "nine Gaussians 2-D": 20,
        }
        | dict.fromkeys(_PLANE, 10)
        | dict.fromkeys(_PRODUCTS, 60),
        beats=(
            Beat(
                "nsf3",
                {
                    "Rosenbrock 30-D": 0.3,
                    "Rosenbrock 100-D": 1.0,
                    "chain 16-D": 0.1,
                    "chain 64-D": 0.4,
                },
            ),
        ),
    ),
    Group(
        "general",
        "Equations beyond a potential: against exact moments, grids, or known expectations",
        (
            Case("moving trap 8-D", "moving-trap-8d"),
            Case("rotating trap 100-D", "rotating-trap-100d", baselines=False),
            Case("swarm 2-D", "swarm-2d"),
            Case("kinetic 10-D", "kinetic-10d"),
            Case("kinetic 40-D", "kinetic-40d", baselines=False),
            Case("turning diffusion 50-D", "turning-diffusion-50d", baselines=False),
            Case("log-normal 10-D", "log-normal-10d"),
            Case("Duffing 2-D", "duffing-2d"),
            Case("swimmer 2-D", "swimmer-2d"),
            Case("four Duffing 8-D", "duffing-8d"),
            Case("four Duffing 8-D, rotated", "duffing-8d-rotated"),
            Case("dumbbell 3-D", "dumbbell-3d"),
            Case("Barenblatt 3-D", "barenblatt-3d", baselines=False),
            Case("Barenblatt 6-D", "barenblatt-6d", baselines=False),
        ),
        (
            "kl_fit_true",
            "kl_true_fit",
            "overlap_symkl",
            "relative_l1",
            "certificate",
            "tv",
            "certified_tv",
            "functional_1",
            "functional_2",
            "nll",
        ),
        ("ours", "nsf3"),
        targets=(
            Target(
                "kl_fit_true",
                dict.fromkeys(_LINEAR, 1e-8)
                | dict.fromkeys(_OSCILLATORS, 0.05)
                | {"log-normal 10-D": 1e-3, "Duffing 2-D": 1e-2, "swimmer 2-D": 1e-2},
            ),
            Target("overlap_symkl", {"Barenblatt 3-D": 0.79, "Barenblatt 6-D": 1.5}),
            Target("functional_1", {"dumbbell 3-D": 1e-3}),
            Target("functional_2", {"dumbbell 3-D": 1e-3}),
        ),
        seconds=dict.fromkeys(_LINEAR, 5)
        | dict.fromkeys(_OSCILLATORS, 90)
        | {
            "rotating trap 100-D": 20,
            "log-normal 10-D": 20,
            "Duffing 2-D": 30,
            "swimmer 2-D": 30,
            "dumbbell 3-D": 60,
        },
    ),
)

#: Every group, by name.
GROUPS = {group.name: group for group in _ALL}

#: What ``--quick`` runs: a few small problems.
QUICK = {
    "quadratic": replace(
        GROUPS["quadratic"],
        cases=GROUPS["quadratic"].cases[:2],
        times=(0.1, 0.7),
        methods=("ours", "kde", "gaussian"),
    ),
    "ou": replace(GROUPS["ou"], cases=_ou(2, (2, 6), 1)),
    "heat": GROUPS["heat"],
    "grid": replace(
        GROUPS["grid"],
        cases=GROUPS["grid"].cases[:2],
        times=(0.5, 2.0),
        methods=("ours", "grid", "kde", "nsf"),
    ),
}


def select(patterns, quick: bool = False) -> dict[str, Group]:
    """Groups, cut down to the cases that a pattern names.

    Parameters
    ----------
    patterns : list of str or None
        Names of groups or problems, with wildcards if need be: "ou", "heat-8d",
        "nine-gaussians-2d-*"; "coupled/rosenbrock-10d" for a problem in one group only. None
        takes all.
    quick : bool
        Of the quick groups.

    Raises
    ------
    ValueError
        Where a pattern matches nothing.
    """
    groups = QUICK if quick else GROUPS
    if not patterns:
        return groups
    chosen, matched = {}, set()
    for group in groups.values():
        cases = []
        for case in group.cases:
            names = {group.name, case.name, case.load().name}
            names |= {f"{group.name}/{name}" for name in names}
            found = {p for p in patterns if any(fnmatchcase(name, p) for name in names)}
            matched |= found
            if found:
                cases.append(case)
        if cases:
            chosen[group.name] = replace(group, cases=tuple(cases))
    unknown = set(patterns) - matched
    if unknown:
        known = sorted(set(groups) | {c.name for g in groups.values() for c in g.cases})
        raise ValueError(f"no problem matches {sorted(unknown)}; known are {', '.join(known)}")
    return chosen
