"""Numbers that others have published, as rows of the tables they are compared in."""

from __future__ import annotations

_D = (2, 4, 6, 8, 10, 12)

_OU_09 = {
    "JKO-ICNN": (0.0038, 0.0075, 0.0133, 0.0136, 0.0144, 0.0182),
    "Langevin 50k + KDE": (0.0066, 0.105, 0.504, 1.32, 2.48, 3.83),
    "proximal recursion 10k": (0.0137, 0.167, 0.817, 1.62, 4.06, 25.0),
    "dual JKO": (0.395, 0.287, 1.39, 1.38, 1.54, 1.92),
}
_OU_05 = {"JKO-ICNN": (0.0035, 0.0086, 0.0185, 0.0189, 0.0180, 0.0265)}
_OU_SECONDS = {
    "JKO-ICNN": {2: 526, 6: 664, 10: 759, 12: 821},
    "Langevin 50k + KDE": {2: 6.4, 6: 17, 10: 29, 12: 35},
}
NINE_GAUSSIANS = {
    "JKO-ICNN": (0.0615, 0.176, 0.301, 0.396, 0.329, 0.509),
    "Langevin 50k + KDE": (0.0774, 0.440, 1.50, 3.45, 5.58, 10.2),
}
_NINE_SECONDS = {
    "JKO-ICNN": (973, 1674, 2125, 3370, 4034, 7175),
    "Langevin 50k + KDE": (32, 46, 71, 101, 131, 157),
}
_SPECTRUM = {2: -3.34, 6: -2.99, 12: -2.54, 16: -2.36, 32: -2.06, 64: -1.37}

#: Lowest mean negative log-likelihood on Langevin particles known before, by time.
ROSENBROCK_BEST = {0.1: 10.779, 0.5: 9.648, 1.0: 9.686}
_ROSENBROCK_NSF = {0.1: 10.825, 0.5: 9.66, 1.0: 9.74}


def _row(group, label, method, t, seconds=None, source="published", **values):
    return {
        "group": group,
        "label": label,
        "method": method,
        "t": t,
        "seconds": seconds,
        "source": source,
        "values": values,
    }


def _rows():
    for t, table in ((0.5, _OU_05), (0.9, _OU_09)):
        for method, errors in table.items():
            for d, error in zip(_D, errors, strict=True):
                seconds = _OU_SECONDS.get(method, {}).get(d)
                yield _row("ou", f"d = {d}", method, t, seconds, symkl=error)
    for d, exponent in _SPECTRUM.items():
        method = "variational Wasserstein flow"
        yield _row("ou-spectrum", f"d = {d}", method, 0.9, moment_symkl=10.0**exponent)
    for method, errors in NINE_GAUSSIANS.items():
        for d, error, seconds in zip(_D, errors, _NINE_SECONDS[method], strict=True):
            values = {"symkl_stationary": error}
            yield _row("nine-gaussians", f"d = {d}", method, 4.0, seconds, **values)
    values = {"entropy_error": 0.057, "covariance_error": 0.04}
    yield _row("heat", "d = 8", "time-dependent variational flow", 5.0, **values)
    values = {"functional_1": 2.0e-3, "functional_2": 2.7e-3}
    yield _row("general", "dumbbell 3-D", "tensor trains", 10.0, 104, **values)
    for label, symkl in (("Barenblatt 3-D", 0.79), ("Barenblatt 6-D", 1.5)):
        method = "in a setting of its own"
        yield _row("general", label, method, 0.025, overlap_symkl=symkl)
    for t, nll in ROSENBROCK_BEST.items():
        yield _row("rosenbrock", "d = 10", "best value known before", t, source="earlier", nll=nll)
    for t, nll in _ROSENBROCK_NSF.items():
        method = "Langevin + NSF(x | t)"
        yield _row("rosenbrock", "d = 10", method, t, 120, source="earlier", nll=nll)


#: One entry a method, dimension and time: group, label, method, t, seconds, source, values.
#: ``source`` is "published", or "earlier" for prototypes of this project on other particles.
#: OU benchmark and nine Gaussians: Mokrov et al., "Large-Scale Wasserstein Gradient Flows" (2021);
#: ou-spectrum: Fan et al., "Variational Wasserstein gradient flow" (2022); dumbbell: Chertkov and
#: Oseledets, "Solution of the Fokker-Planck equation by cross approximation method in the tensor
#: train format" (2021).
PUBLISHED = tuple(_rows())
