"""`sample_posterior` beside NUTS, on posteriors as users have them."""

from __future__ import annotations

import importlib
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...bayes import Blocks, ConstrainedPotential, PosteriorSampler, effective_draws
from ..posterior_zoo import Case, cases
from ..runner import time_limit
from ..tables import Table
from .common import StudyOptions

_CHAINS, _TUNE = 4, 400
_CLOSE = 0.05  # posterior standard deviations


@dataclass(frozen=True)
class Chains:
    """A run of NUTS.

    Attributes
    ----------
    x : ndarray (n_chains, n_draws, d)
        Unconstrained.
    seconds : float
        Processor time, warm-up included.
    n_gradients : int
    """

    x: np.ndarray
    seconds: float
    n_gradients: int

    @property
    def effective(self) -> float:
        """The smallest bulk effective number of draws of a coordinate."""
        return float(np.min(effective_draws(self.x)))


def posteriors(options: StudyOptions) -> list[Table]:
    """Bias against long runs of NUTS, and what both cost."""
    package = _nutpie()
    table = Table(
        "Posteriors, beside NUTS",
        ["posterior", "d", "bias of means", "of sds", "chance", "k", "ESS / n", "log evidence",
         "calls", "s", "NUTS, s", "ESS a second", "NUTS", "ESS a call", "NUTS", "report"],
        [],
    )  # fmt: skip
    ratios = []
    for case in cases()[: 2 if options.quick else None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with time_limit(options.time_limit):
                    row, ratio = _row(case, options, package)
            except Exception as error:
                table.notes.append(f"{case.name}: {type(error).__name__}: {error}")
                continue
        table.rows.append(row)
        ratios.append(ratio)
        options.say("  ".join(row))
    draws = _n_draws(options)
    table.notes.append(
        "Largest bias of a weighted mean and of a weighted sd over all parameters, in posterior "
        "sds, and the standard error that the chains and the weighted draws together give the "
        "largest of them; seconds are processor time of one thread. Calls are points at which the "
        "log density or its gradient was asked, those of 4000 draws included; of NUTS, gradients."
    )
    if package is None:
        table.notes.append("nutpie is not installed: nothing of NUTS was run.")
    else:
        known = [ratio for ratio in ratios if np.isfinite(ratio)]
        table.notes.append(
            f"NUTS is that of nutpie {package.__version__} on the same torch log density: "
            f"{_CHAINS} chains, {_TUNE} steps to warm up, {draws} draws. Median of the ratios of "
            f"seconds: {np.median(known):.2f}; below one in {sum(r < 1 for r in known)} of "
            f"{len(known)}."
        )
    return [table]


def _row(case: Case, options: StudyOptions, package: Any) -> tuple[list[str], float]:
    before = time.process_time()
    sampler = PosteriorSampler(random_state=options.seed)
    sampler.fit(case.log_density, constraints=case.constraints)
    posterior = sampler.posterior(4000)
    seconds = time.process_time() - before
    chains = None
    if package is not None:
        potential = ConstrainedPotential(case.log_density, Blocks(case.constraints))
        start = posterior.resample(_CHAINS, random_state=options.seed)
        chains = _nuts(package, potential, start, _n_draws(options), options.seed)
    bias = ["-"] * 3 if chains is None else [f"{b:.3f}" for b in _biases(posterior, chains)]
    theirs = ["-"] * 3
    if chains is not None:
        theirs = [
            f"{chains.seconds:.1f}",
            f"{chains.effective / chains.seconds:.0f}",
            f"{chains.effective / chains.n_gradients:.3f}",
        ]
    row = [
        case.name,
        str(posterior.x.shape[1]),
        *bias,
        f"{posterior.k:.2f}",
        f"{posterior.efficiency:.3f}",
        str(posterior.log_evidence).replace("+-", "±"),
        str(posterior.n_calls),
        f"{seconds:.1f}",
        theirs[0],
        f"{posterior.ess / seconds:.0f}",
        theirs[1],
        f"{posterior.ess / posterior.n_calls:.3f}",
        theirs[2],
        _verdict(posterior),
    ]
    return row, np.nan if chains is None else seconds / chains.seconds


def _n_draws(options: StudyOptions) -> int:
    return 500 if options.quick else 2500


def _verdict(posterior: Any) -> str:
    text = posterior.report()
    if not posterior.reliable:
        return "do not use"
    if "LOST MODE" in text:
        return "lost mode"
    return "± is no error bar" if "NO error bar" in text else "reliable"


def _biases(posterior: Any, chains: Chains) -> tuple[float, float, float]:
    """Largest bias of a mean and of an sd, in sds, and the largest standard error."""
    exact, w = posterior.by_name(chains.x), posterior.weights
    means, sds, chance = [0.0], [0.0], [0.0]
    for name, draws in posterior.draws.items():
        reference = exact[name].reshape(*chains.x.shape[:2], -1)
        ours = draws.reshape(len(w), -1)
        mean, sd = reference.mean((0, 1)), reference.std((0, 1))
        z, u = (reference - mean) / sd, (ours - mean) / sd
        middle = w @ u
        spread = np.sqrt(w @ (u - middle) ** 2)
        means.append(float(np.abs(middle).max()))
        sds.append(float(np.abs(spread - 1).max()))
        for theirs, mine in ((z, u - middle), (z**2 / 2, (u - middle) ** 2 / 2 - spread**2 / 2)):
            error = theirs.std((0, 1)) / np.sqrt(effective_draws(theirs))
            chance.append(float(np.hypot(error, np.sqrt(w**2 @ mine**2)).max()))
    return max(means), max(sds), max(chance)


def _nutpie() -> Any:
    """The package, or None where it is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("nutpie.compiled_pyfunc")
            return importlib.import_module("nutpie")
    except ImportError:
        return None


def _nuts(package: Any, potential: Any, start: np.ndarray, n_draws: int, seed: int) -> Chains:
    """NUTS on a potential of d unconstrained coordinates, from points (n_chains, d)."""
    d, asked = start.shape[1], [0]

    def log_density(x, **_):
        asked[0] += 1
        value, gradient = potential.value_and_grad(torch.from_numpy(np.array(x))[None])
        return -float(value), -gradient[0].numpy()

    def expand(x, **_):
        return {"x": np.array(x)}

    model = package.compiled_pyfunc.from_pyfunc(
        d, lambda: log_density, lambda *_: expand, [np.dtype("float64")], [(d,)], ["x"],
        make_initial_point_fn=lambda seed: start[seed % len(start)],
    )  # fmt: skip
    before = time.process_time()
    trace = package.sample(
        model, draws=n_draws, tune=_TUNE, chains=len(start), cores=1, seed=seed, progress_bar=False
    )
    seconds = time.process_time() - before
    return Chains(np.asarray(trace.posterior["x"]), seconds, asked[0])
