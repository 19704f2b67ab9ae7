"""The record of a march as a data frame."""

import sys

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from stand_in import estimator

from skfokker import ParametricFokkerPlanck
from skfokker.history import history_frame
from skfokker.potentials import Quadratic

QUADRATIC = Quadratic([2.0, 0.0], 0.5)


def test_history_as_a_data_frame():
    model = ParametricFokkerPlanck(random_state=0).fit(QUADRATIC, 0.1)
    frame = model.history_frame()
    assert list(frame.columns[:2]) == ["t", "wall_time"] and frame.index.name == "step"
    assert len(frame) == len(model.history_) == len(model.times_)
    np.testing.assert_array_equal(frame["t"], model.times_)
    np.testing.assert_array_equal(frame["residual"], [r["residual"] for r in model.history_])
    assert frame["wall_time"].dtype == float


def test_history_frame_keeps_repeated_times_and_gaps():
    frame = history_frame([{"t": 0.0, "h": 0.1}, {"t": 0.1}, {"t": 0.1, "inner": [1, 2]}])
    assert frame["t"].tolist() == [0.0, 0.1, 0.1]
    assert np.isnan(frame["h"][1]) and frame["inner"][2] == [1, 2]


def test_history_frame_without_pandas(monkeypatch):
    model = estimator().fit(QUADRATIC, 0.1)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas.*history_"):
        model.history_frame()


def test_history_frame_needs_a_fit():
    with pytest.raises(NotFittedError):
        estimator().history_frame()
