"""Targets that sampling papers compare on: evidence, weights, lost modes, and the report."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np

from ...bayes import PosteriorSampler, posterior_flow
from ...flows import Flow
from ...potentials import EightModes, Funnel, GaussianMixture, ManyWell, Mustache, Potential
from ..runner import time_limit
from ..tables import Table, number
from .common import StudyOptions


@dataclass(frozen=True)
class Target:
    """A density with a known normalising constant, and what to look for in its draws.

    Attributes
    ----------
    name : str
    potential : Potential
        With ``log_normalizer`` and exact ``sample``.
    parts : callable
        Points (n, d) to indicators (n, k) of regions that all have mass.
    flow : Flow or None
        None is the default of ``PosteriorSampler``.
    start : "laplace" or (mean, covariance)
    """

    name: str
    potential: Potential
    parts: Callable[[np.ndarray], np.ndarray]
    flow: Flow | None = None
    start: object = "laplace"


def nearest(centres) -> Callable[[np.ndarray], np.ndarray]:
    """One region a centre (k, d)."""
    centres = np.asarray(centres)

    def parts(x):
        distance = ((x[:, None] - centres) ** 2).sum(2)
        return np.eye(len(centres))[distance.argmin(1)]

    return parts


def intervals(edges) -> Callable[[np.ndarray], np.ndarray]:
    """Regions between edges of the first coordinate."""
    return lambda x: np.eye(len(edges) + 1)[np.searchsorted(edges, x[:, 0])]


def sides(x: np.ndarray) -> np.ndarray:
    """Left and right of every well of ``ManyWell``."""
    right = x[:, ::2] > 0
    return np.concatenate([right, ~right], 1).astype(float)


def targets() -> list[Target]:
    """All of them; several modes also with a flow that stands alone, and from one mode only."""
    grid = list(product([-10.0, -5.0, 0.0, 5.0, 10.0], repeat=2))
    mixture, eight, peaky = GaussianMixture(grid, 0.3), EightModes(), EightModes(0.005)
    circle = eight._components()[0].numpy()
    return [
        Target("funnel, 10-D", Funnel(10), intervals([-6, -3, 0, 3, 6])),
        Target("25-Gaussian grid", mixture, nearest(grid)),
        Target("25-Gaussian grid, flow alone", mixture, nearest(grid), posterior_flow(2)),
        Target("many-well, 32-D", ManyWell(32), sides),
        Target("mustache", Mustache(), intervals([-2, -1, 1, 2])),
        Target("eight modes", eight, nearest(circle)),
        Target("eight modes, peaky", peaky, nearest(circle)),
        Target("eight modes, flow alone", eight, nearest(circle), posterior_flow(2)),
        Target("eight modes, from one", eight, nearest(circle), start=([0.0, 0.0], 0.01)),
        Target("25-Gaussian grid, from one", mixture, nearest(grid), start=([0.0, 0.0], 0.3)),
    ]


def sampling(options: StudyOptions) -> list[Table]:
    """`PosteriorSampler` on each target, 20,000 draws."""
    n = 2000 if options.quick else 20_000
    table = Table(
        f"Sampling targets, {n} draws (beta = 1)",
        ["target", "ELBO gap", "log Z error, importance", "bridge", "ESS / n", "k",
         "parts lost", "mass misplaced", "report", "s"],
        [],
    )  # fmt: skip
    chosen = targets()
    for target in chosen[-5:-3] + chosen[-1:] if options.quick else chosen:
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with time_limit(options.time_limit):
                    row = _row(target, n, options.seed)
            except Exception as error:
                table.notes.append(f"{target.name}: {type(error).__name__}: {error}")
                continue
        table.rows.append([target.name, *row, f"{time.perf_counter() - start:.0f}"])
        options.say("  ".join(table.rows[-1]))
    table.notes += [
        "Errors of log Z are estimate minus truth, with the standard error that was stated. Parts "
        "are modes, sides of wells, or bins of the first coordinate; one is lost where the "
        "weighted draws give it less than a fifth of its mass. `flow alone` has no Gaussians of "
        "the mode search among its draws; `from one` starts at one mode, and loses the others: "
        "log Z is then that of the one (log 8 = 2.079, log 25 = 3.219 below the truth), and only "
        "the search tells.",
    ]
    return [table]


def _row(target: Target, n: int, seed: int) -> list[str]:
    potential = target.potential
    sampler = PosteriorSampler(target.flow, start=target.start, random_state=seed).fit(potential)
    posterior = sampler.posterior(n, defensive=None if target.flow is None else 0.0)
    posterior.forward_check()
    importance, bridge = posterior.log_evidence, posterior.bridge()
    exact = target.parts(potential.sample(100_000, seed=seed + 1).numpy()).mean(0)
    held = posterior.weights @ target.parts(posterior.x)
    groups = exact.sum()  # of ManyWell there are sixteen
    truth = potential.log_normalizer
    return [
        number(truth - posterior.elbo.value),
        f"{importance.value - truth:+.4f} ± {importance.error:.4f}",
        f"{bridge.value - truth:+.4f} ± {bridge.error:.4f}",
        f"{posterior.efficiency:.3f}",
        f"{posterior.k:.2f}",
        f"{int((held < 0.2 * exact).sum())} of {len(exact)}",
        number(0.5 * float(np.abs(held - exact).sum() / groups)),
        _verdict(posterior),
    ]


def _verdict(posterior) -> str:
    """What the report says, in short."""
    text, said = posterior.report(), []
    if "do not use: weighted" in text or "need more than these" in text:
        said.append("do not use (k)")
    if "NO error bar" in text:
        said.append("± is no error bar (k)")
    if "LOST MODE" in text:
        said.append(f"{text.count('LOST MODE')} lost modes")
    if "NOT stationary" in text:
        said.append("not stationary")
    return ", ".join(said) or "reliable"
