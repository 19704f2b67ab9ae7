"""Studies: one axis at a time, each a function of ``StudyOptions`` to a list of tables."""

from __future__ import annotations

from .algorithm1 import algorithm1
from .certificates import certificates
from .common import StudyOptions, exponent
from .corrector import corrector
from .dimension import dimension
from .entropy import entropy
from .memory import memory
from .metric import metric
from .posteriors import posteriors
from .sampling import sampling
from .scaling import scaling
from .seeds import seeds
from .throughput import throughput
from .tolerance import tolerance

#: Every study, by the name that ``--study`` takes.
STUDIES = {
    "tolerance": tolerance,
    "dimension": dimension,
    "seeds": seeds,
    "throughput": throughput,
    "entropy": entropy,
    "algorithm1": algorithm1,
    "metric": metric,
    "sampling": sampling,
    "posteriors": posteriors,
    "corrector": corrector,
    "memory": memory,
    "scaling": scaling,
    "certificates": certificates,
}

__all__ = [
    "STUDIES",
    "StudyOptions",
    "algorithm1",
    "certificates",
    "corrector",
    "dimension",
    "entropy",
    "exponent",
    "memory",
    "metric",
    "posteriors",
    "sampling",
    "scaling",
    "seeds",
    "throughput",
    "tolerance",
]
