"""Log densities of the data behind scalers."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, QuantileTransformer, RobustScaler, StandardScaler

from skfokker import GaussianDensity, ParametricFokkerPlanck
from skfokker.pipelines import score, score_samples

X = np.random.default_rng(0).normal(size=(80, 3)) * [10.0, 1.0, 0.01] + [0.0, 5.0, -3.0]


@pytest.mark.parametrize(
    "steps",
    [
        [StandardScaler()],
        [RobustScaler(), "passthrough", MinMaxScaler()],
        [StandardScaler(), PCA(whiten=True)],
    ],
    ids=str,
)
def test_the_density_does_not_depend_on_the_scaling(steps):
    pipeline = make_pipeline(*steps, GaussianDensity(0.0, 0.0)).fit(X)
    direct = GaussianDensity(0.0, 0.0).fit(X)
    np.testing.assert_allclose(score_samples(pipeline, X), direct.score_samples(X), rtol=1e-9)
    assert score(pipeline, X) == pytest.approx(direct.score(X))


def test_what_has_no_density():
    with pytest.raises(ValueError, match="'pca' maps 3 columns to 2"):
        score_samples(make_pipeline(PCA(2), GaussianDensity()).fit(X), X)
    steps = QuantileTransformer(n_quantiles=20), GaussianDensity()
    with pytest.raises(ValueError, match="quantiletransformer.*is not affine.*log_det"):
        score_samples(make_pipeline(*steps).fit(X), X)


def test_at_a_time_and_in_a_grid_search():
    pipeline = make_pipeline(StandardScaler(), ParametricFokkerPlanck(random_state=0))
    search = GridSearchCV(pipeline, {"parametricfokkerplanck__t_final": [0.5]}, scoring=score, cv=2)
    best = search.fit(X).best_estimator_
    scaled = best[0].transform(X)
    expected = best[-1].log_density(scaled, 0.2) - np.log(best[0].scale_).sum()
    np.testing.assert_allclose(score_samples(best, X, t=0.2), expected, rtol=1e-9)
