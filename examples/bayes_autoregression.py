"""
Autoregression: the flow of the Nile
====================================

Annual flow at Aswan, 1871 to 1970 (10^8 cubic metres): a stationary AR(2) about an unknown mean,
by its partial autocorrelations in (-1, 1), which makes every draw stationary. Mean about 900,
partial autocorrelations about 0.3: scales far apart.
"""

import math
import time

import torch
from bayes_comparison import ensemble, report
from torch.distributions import HalfNormal, Normal, constraints

from skfokker.bayes import sample_posterior

nile = torch.tensor([float(v) for v in """
1120 1160 963 1210 1160 1160 813 1230 1370 1140 995 935 1110 994 1020 960 1180 799 958 1140 1100
1210 1150 1250 1260 1220 1030 1100 774 840 874 694 940 833 701 916 692 1020 1050 969 831 726 456 824
702 1120 1100 832 764 821 768 845 864 862 698 845 744 796 1040 759 781 865 845 944 984 897 822 1010
771 676 649 846 812 742 801 1040 860 874 848 890 744 749 838 1050 918 986 797 923 975 815 1020 906
901 1170 912 746 919 718 714 740""".split()]).double()  # fmt: skip


def log_posterior(p):
    first, second = p["partial"].unbind(1)
    a, b = first * (1 - second), second  # y_t = a y_{t-1} + b y_{t-2} + noise
    y, scale = nile - p["mean"][:, None], p["noise"]
    inner = Normal(a[:, None] * y[:, 1:-1] + b[:, None] * y[:, :-2], scale[:, None])
    variance = scale.square() / ((1 - first.square()) * (1 - second.square()))
    start = Normal(0.0, variance.sqrt()).log_prob(y[:, 0])
    start = start + Normal(first * y[:, 0], (variance * (1 - first.square())).sqrt()).log_prob(
        y[:, 1]
    )
    prior = Normal(900.0, 300.0).log_prob(p["mean"]) + HalfNormal(300.0).log_prob(scale)
    return prior - 2 * math.log(2) + start + inner.log_prob(y[:, 2:]).sum(1)


named = {
    "mean": constraints.real,
    "noise": constraints.positive,
    "partial": (constraints.interval(-1.0, 1.0), (2,)),
}
before = time.perf_counter()
posterior = sample_posterior(log_posterior, constraints=named, random_state=0, n_draws=20000)
seconds = time.perf_counter() - before
posterior.forward_check()
report("autoregression", posterior, seconds, *ensemble(posterior, 16000))
