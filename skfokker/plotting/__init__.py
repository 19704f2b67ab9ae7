"""Pictures of a fit, in scikit-learn's Display style; matplotlib is imported when one is drawn.

>>> from skfokker import ParametricFokkerPlanck
>>> from skfokker.plotting import MarginalDensityDisplay
>>> from skfokker.potentials import Quadratic
>>> fit = ParametricFokkerPlanck(random_state=0).fit(Quadratic([3.0, 0.0]), t_final=1.0)
>>> display = MarginalDensityDisplay.from_estimator(fit, times=[0.0, 1.0])
>>> display.axes_[0].get_xlabel()
'$x_1$'
"""

from .animation import animate
from .certificate import CertificateDisplay
from .duals import DualPotentialDisplay, InnerLossDisplay
from .free_energy import FreeEnergyDisplay
from .history import HistoryDisplay
from .marginals import MarginalDensityDisplay
from .moments import MomentsDisplay
from .overview import OverviewDisplay, overview
from .pairs import PairDensityDisplay
from .pareto import ParetoKDisplay
from .paths import PathsDisplay
from .plane import PlaneDensityDisplay
from .samples import SampleProjectionDisplay

__all__ = [
    "CertificateDisplay",
    "DualPotentialDisplay",
    "FreeEnergyDisplay",
    "HistoryDisplay",
    "InnerLossDisplay",
    "MarginalDensityDisplay",
    "MomentsDisplay",
    "OverviewDisplay",
    "PairDensityDisplay",
    "ParetoKDisplay",
    "PathsDisplay",
    "PlaneDensityDisplay",
    "SampleProjectionDisplay",
    "animate",
    "overview",
]
