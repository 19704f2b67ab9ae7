"""Regenerate state_1.joblib, the golden file of state version 1: python tests/data/make_state_1.py

Run it only while version 1 is the current one; the tests read the file as later versions would.
"""

from pathlib import Path

import joblib
import numpy as np

from skfokker import ParametricFokkerPlanck
from skfokker.persistence import STATE_VERSION
from skfokker.potentials import Quadratic


def write():
    if STATE_VERSION != 1:
        raise SystemExit(
            f"The current state version is {STATE_VERSION}: write a script for that one."
        )
    here = Path(__file__).parent
    model = ParametricFokkerPlanck(random_state=0, t_final=0.5, initial=([0.0, 1.0], 0.5))
    model.fit(Quadratic(np.array([1.0, 0.0]), np.array([[1.0, 0.3], [0.3, 0.5]])))
    joblib.dump(model, here / "state_1.joblib", compress=3)
    np.savez(
        here / "state_1.npz",
        samples=model.sample(4, 0.2),
        log_density=model.log_density([[0.0, 0.0], [1.0, -1.0]], 0.3),
    )


if __name__ == "__main__":  # who collects doctests imports every file
    write()
