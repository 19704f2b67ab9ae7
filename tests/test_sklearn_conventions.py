"""scikit-learn's own checks, and the same laws for what those checks never pass: a potential."""

import pkgutil
from importlib import import_module

import joblib
import numpy as np
import pandas as pd
import pytest
import sklearn
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks
from stand_in import RungeKutta

import skfokker.flows
import skfokker.schemes
from skfokker import Gaussian, GaussianDensity, ParametricFokkerPlanck
from skfokker.flows import AffineFlow, Composition, ElementwiseFlow
from skfokker.flows.base import Flow
from skfokker.potentials import Quadratic
from skfokker.schemes import GaussianMoments
from skfokker.schemes.base import Scheme


@parametrize_with_checks(
    [ParametricFokkerPlanck(scheme=GaussianMoments()), GaussianDensity(), GaussianDensity(0.1)]
)
def test_checks_of_sklearn(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([ParametricFokkerPlanck()])
def test_checks_of_sklearn_with_the_default_march(estimator, check):
    check(estimator)


# ------------------------------------------------- checks that sklearn keeps for itself

OF_EVERY_ESTIMATOR = [
    "check_dataframe_column_names_consistency",
    "check_param_validation",
    "check_inplace_ensure_writeable",
]
OF_TRANSFORMERS = [
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_get_feature_names_out_error",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_global_output_transform_pandas",
]


@pytest.mark.filterwarnings("ignore:X (does not have valid|has) feature names:UserWarning")
@pytest.mark.parametrize("check", OF_EVERY_ESTIMATOR + OF_TRANSFORMERS)
def test_checks_that_sklearn_runs_on_its_own_estimators(check):
    if not hasattr(estimator_checks, check):
        pytest.skip(f"{check} is not in scikit-learn {sklearn.__version__}")
    model = ParametricFokkerPlanck(AffineFlow(), RungeKutta())
    getattr(estimator_checks, check)("ParametricFokkerPlanck", model)
    if check in OF_EVERY_ESTIMATOR:
        getattr(estimator_checks, check)("GaussianDensity", GaussianDensity())


# ------------------------------------------------- components: the checks that fit nothing

WITHOUT_FIT = [
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_mixin_order",
    "check_valid_tag_types",
    "check_do_not_raise_errors_in_init_or_set_params",
]


def components():
    """Every flow and scheme of the package, and the start."""
    for package in (skfokker.flows, skfokker.schemes):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            import_module(module.name)
    found, bases = {Gaussian}, [Flow, Scheme]
    while bases:
        for kind in bases.pop().__subclasses__():
            bases.append(kind)
            if kind.__module__.startswith("skfokker.") and not kind.__name__.startswith("_"):
                found.add(kind)
    return sorted(found, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", components(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("check", WITHOUT_FIT)
def test_components_are_specs(kind, check):
    if not hasattr(estimator_checks, check):
        pytest.skip(f"{check} is not in scikit-learn {sklearn.__version__}")
    getattr(estimator_checks, check)(kind.__name__, kind())


# ------------------------------------------------- the same laws for a potential

X = np.random.default_rng(0).normal(size=(12, 2))


def bowl(x):
    return 0.5 * ((x - 1) ** 2).sum(1)


def estimator(**params):
    return ParametricFokkerPlanck(
        **{"scheme": RungeKutta(), "random_state": 0, "n_features": 2} | params
    )


METHODS = ["log_density", "score_samples", "grad_log_density", "velocity", "transform"]


@pytest.fixture(scope="module")
def fitted():
    return estimator().fit(bowl)


def test_fit_returns_self_and_leaves_parameters_alone():
    model = estimator(flow=AffineFlow(), initial=([0.0, 1.0], [[1.0, 0.2], [0.2, 1.0]]))
    before = joblib.hash(model.get_params())
    parts = {name: id(value) for name, value in model.get_params(deep=False).items()}
    assert model.fit(bowl) is model
    assert joblib.hash(model.get_params()) == before
    assert {name: id(value) for name, value in model.get_params(deep=False).items()} == parts


def test_fit_adds_only_attributes_with_an_underscore(fitted):
    added = set(vars(fitted)) - set(fitted.get_params(deep=False))
    assert all(name.endswith("_") for name in added)


def test_methods_change_nothing(fitted):
    before = joblib.hash(vars(fitted))
    for method in METHODS + ["inverse_transform", "score"]:
        getattr(fitted, method)(X)
    fitted.sample(3), fitted.paths(2, [0, 1]), fitted.at(0.5)
    assert joblib.hash(vars(fitted)) == before


def test_fit_is_idempotent():
    model = estimator().fit(bowl)
    first = [getattr(model, method)(X) for method in METHODS]
    model.fit(bowl)
    for method, result in zip(METHODS, first, strict=True):
        np.testing.assert_array_equal(getattr(model, method)(X), result)


@pytest.mark.parametrize("method", METHODS + ["inverse_transform"])
def test_rows_are_independent_of_each_other(fitted, method):
    whole = getattr(fitted, method)(X)
    order = np.random.default_rng(1).permutation(len(X))
    np.testing.assert_allclose(getattr(fitted, method)(X[order]), whole[order], atol=1e-12)
    parts = np.concatenate([getattr(fitted, method)(X[k : k + 1]) for k in range(len(X))])
    np.testing.assert_allclose(parts, whole, atol=1e-12)


@pytest.mark.parametrize("method", METHODS + ["inverse_transform"])
def test_every_kind_of_rows(fitted, method):
    whole = getattr(fitted, method)(X)
    readonly = X.copy()
    readonly.flags.writeable = False
    for points in (X.tolist(), np.asfortranarray(X), readonly, pd.DataFrame(X)):
        np.testing.assert_allclose(getattr(fitted, method)(points), whole, rtol=1e-12)
    single = getattr(fitted, method)(X.astype(np.float32))
    assert single.dtype == np.float64
    np.testing.assert_allclose(single, whole, rtol=1e-4, atol=1e-4)


def test_clone_forgets_the_fit(fitted):
    fresh = clone(fitted)
    assert not hasattr(fresh, "thetas_") and not hasattr(fresh, "n_features_in_")
    np.testing.assert_array_equal(fresh.fit(bowl).thetas_, fitted.thetas_)


def test_refitting_in_another_dimension(fitted):
    model = estimator(n_features=None).fit(Quadratic([0.0, 0.0, 0.0]))
    assert model.n_features_in_ == 3
    model.fit(Quadratic([0.0]))
    assert model.n_features_in_ == 1 and model.sample(2).shape == (2, 1)


def test_feature_names_out(fitted):
    assert list(fitted.get_feature_names_out()) == ["x0", "x1"]
    out = clone(fitted).set_output(transform="pandas").fit(bowl).transform(X)
    assert list(out.columns) == ["x0", "x1"]


def test_repr_with_components():
    text = repr(estimator(flow=AffineFlow(diagonal=True)))
    assert "AffineFlow(diagonal=True)" in text and "RungeKutta()" in text
    assert "AffineFlow" in estimator(flow=AffineFlow())._repr_html_()


# ------------------------------------------------- composition


def test_nested_parameters():
    model = estimator(flow=ElementwiseFlow(), from_samples=KernelDensity())
    model.set_params(flow__n_intervals=8, scheme__n_steps=4, from_samples__bandwidth=0.3)
    assert model.flow.n_intervals == 8 and model.scheme.n_steps == 4
    assert model.get_params()["from_samples__bandwidth"] == 0.3
    layers = estimator(flow=Composition([ElementwiseFlow(), AffineFlow()]))
    layers.set_params(flow__0__n_intervals=12)
    assert layers.flow.layers[0].n_intervals == 12
    swapped = estimator(flow=AffineFlow()).set_params(flow=ElementwiseFlow(), flow__n_intervals=10)
    assert swapped.flow.n_intervals == 10


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_grid_search(n_jobs):
    draws = [1.0, 0.0] + 0.7 * np.random.default_rng(0).normal(size=(60, 2))
    grid = {"beta": [0.5, 1.0], "flow": [AffineFlow(), AffineFlow(diagonal=True)], "t_final": [1.0]}
    scheme = RungeKutta(8) if n_jobs == 1 else None  # workers import the package, not the tests
    search = GridSearchCV(
        ParametricFokkerPlanck(scheme=scheme, random_state=0), grid, cv=3, n_jobs=n_jobs
    )
    search.fit(draws)
    assert set(search.best_params_) == set(grid)
    assert search.best_estimator_.sample(4).shape == (4, 2)
    # over a horizon of two relaxation times, the larger beta is the one closer to equilibrium
    assert search.best_params_["beta"] == 1.0


def test_a_pipeline_scores_the_scaled_data():
    """The log density of the data is that of the scaled data minus the log of the scales."""
    draws = np.random.default_rng(0).normal(size=(200, 2)) * [10.0, 0.1]
    pipeline = make_pipeline(StandardScaler(), estimator(scheme=RungeKutta(32), t_final=3.0))
    pipeline.fit(draws)
    corrected = pipeline.score(draws) - np.log(pipeline[0].scale_).sum()
    assert corrected == pytest.approx(GaussianDensity(0.0).fit(draws).score(draws), abs=1e-2)
    np.testing.assert_allclose(
        pipeline.inverse_transform(pipeline.transform(draws)), draws, rtol=1e-8, atol=1e-10
    )


def test_metadata_routing_of_the_time():
    draws = np.random.default_rng(0).normal(size=(30, 2))
    with sklearn.config_context(enable_metadata_routing=True):
        model = estimator().set_score_request(t=True).set_transform_request(t=True)
        model.set_fit_request(t_final=True, sample_weight=True)
        pipeline = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), model)
        pipeline.fit(draws, t_final=0.5, sample_weight=np.ones(30))
        assert pipeline[-1].t_final_ == 0.5
        scaled = pipeline[0].transform(draws)
        assert pipeline.score(draws, t=0.25) == pipeline[-1].log_density(scaled, 0.25).mean()
        np.testing.assert_array_equal(
            pipeline.transform(draws, t=0.25), pipeline[-1].transform(scaled, 0.25)
        )
