"""Held-out log-likelihood beside the density estimators of scikit-learn.

``python -m skfokker.density_estimation`` prints the table; ``--quick`` takes one data set and the
cheap columns only, ``--march`` marches towards the kernel density and the mixture too, which costs
minutes a data set. The data are standardised, and a third of the rows is held out.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence

import numpy as np
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KernelDensity

from .densities import GaussianDensity
from .estimator import ParametricFokkerPlanck


def data_sets() -> dict[str, np.ndarray]:
    """Rows (n, d) by name: four of scikit-learn's, three toy densities."""

    def reduced(X, d):
        return PCA(d, random_state=0).fit_transform((X - X.mean(0)) / X.std(0))

    return {
        "iris": datasets.load_iris().data,
        "wine": datasets.load_wine().data,
        "diabetes": np.delete(datasets.load_diabetes().data, 1, axis=1),  # sex is binary
        "breast cancer, 5 of 30": reduced(datasets.load_breast_cancer().data, 5),
        "two moons": datasets.make_moons(600, noise=0.1, random_state=0)[0],
        "blobs": datasets.make_blobs(600, random_state=0)[0],
        "circles": datasets.make_circles(600, noise=0.08, factor=0.5, random_state=0)[0],
    }


def best_kernel(X: np.ndarray) -> KernelDensity:
    """Kernel density, its bandwidth by cross-validation."""
    grid = {"bandwidth": np.geomspace(0.05, 1.5, 18)}
    return GridSearchCV(KernelDensity(), grid, cv=5).fit(X).best_estimator_


def best_mixture(X: np.ndarray, largest: int = 12) -> GaussianMixture:
    """Gaussian mixture, its number of components by the Bayesian information criterion."""
    tried = [
        GaussianMixture(k, n_init=3, reg_covar=1e-4, random_state=0).fit(X)
        for k in range(1, largest + 1)
    ]
    return min(tried, key=lambda mixture: mixture.bic(X))


def towards(component, X: np.ndarray, t_final: float) -> ParametricFokkerPlanck:
    """Fit that starts at the Gaussian of the draws X and relaxes to the component's density."""
    start = GaussianDensity().fit(X)
    return ParametricFokkerPlanck(
        from_samples=component,
        initial=(start.mean_, start.covariance_),
        t_final=t_final,
        random_state=0,
    ).fit(X)


def compare(X: np.ndarray, *, march: bool = False) -> dict[str, tuple[float, float]]:
    """Held-out mean log density of every method, and its seconds.

    Methods named "march to ..." are fits of this package whose equilibrium is that component's.
    """
    X = (X - X.mean(0)) / X.std(0)
    fitted, held_out = train_test_split(X, test_size=1 / 3, random_state=0)
    components = {
        "Gaussian": lambda X: GaussianDensity().fit(X),
        "kernel": best_kernel,
        "mixture": best_mixture,
    }
    results = {}
    for name, make in components.items():
        before = time.perf_counter()
        component = make(fitted)
        seconds = time.perf_counter() - before
        results[name] = float(np.mean(component.score_samples(held_out))), seconds
        if name == "Gaussian" or march:
            before = time.perf_counter()
            # any start is forgotten as exp(-2 t / variance), and a principal variance is at most d
            horizon = 6.0 * X.shape[1] if name == "Gaussian" else 2.0
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = towards(component, fitted, horizon)
            seconds = time.perf_counter() - before
            results[f"march to {name}"] = model.score(held_out), seconds
    return results


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, tuple[float, float]]]:
    """Print the table; returns it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one data set")
    parser.add_argument("--march", action="store_true", help="march to every component")
    parser.add_argument("--only", nargs="*", help="data sets, by name")
    options = parser.parse_args(arguments)
    sets = data_sets()
    names = ["iris"] if options.quick else options.only or list(sets)
    table = {}
    for name in names:
        table[name] = compare(sets[name], march=options.march)
        if len(table) == 1:
            print(f"{'held-out log density':<24}{'d':>3}", *(f"{m:>19}" for m in table[name]))
        cells = (f"{value:>10.3f} ({s:>5.1f}s)" for value, s in table[name].values())
        print(f"{name:<24}{sets[name].shape[1]:>3}", *(f"{c:>19}" for c in cells), flush=True)
    return table


if __name__ == "__main__":
    main()
