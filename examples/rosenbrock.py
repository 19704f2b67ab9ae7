"""
Coupled coordinates: Rosenbrock's valley
========================================

V(x) = (3/50) sum_k 10 (x_{k+1} - x_k^2)^2 + (x_k - 1)^2 in d = 10 dimensions (section 6.2.2), or as
many as `--dimension` says; beta = 1, from N(0, I) to t = 1. Every coordinate depends on its
neighbour through a square. There is no exact solution: the law is asked for the likelihood of
particles that it has not seen.
"""

import argparse
import time
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
import torch

from skfokker import ParametricFokkerPlanck, problems
from skfokker.reference import gaussian_log_density

parser = argparse.ArgumentParser()
parser.add_argument("--dimension", type=int, default=10, choices=[2, 10, 30, 100])
parser.add_argument("--particles", type=int, default=10_000)
parser.add_argument("--threads", type=int, default=1)
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)
problem = problems.load(f"rosenbrock-{arguments.dimension}d")
times = [0.1, 0.5, 1.0]

start = time.perf_counter()
fokker = ParametricFokkerPlanck(random_state=0, verbose=1, tol=1.0)
fokker.fit(problem.potential, t_final=1.0)
seconds = time.perf_counter() - start
print(f"\nfit: {seconds:.1f} s, {len(fokker.times_) - 1} steps")
print(fokker.plan_)
print(fokker.certificate_)

start = time.perf_counter()
particles = dict(zip(times, problem.particles(arguments.particles, times), strict=True))
print(f"\n{arguments.particles} particles: {time.perf_counter() - start:.1f} s")
print(f"{'t':>4} {'-log density of particles':>26} {'of a Gaussian':>14} {'entropy of the fit':>19}"
      f" {'certified TV':>13}")  # fmt: skip
for t, x in particles.items():
    mine = -fokker.log_density(x, t)
    gaussian = -gaussian_log_density(x, x.mean(0), np.cov(x.T))
    drawn = fokker.sample(arguments.particles, t, random_state=1)
    entropy = -fokker.log_density(drawn, t).mean()
    error = mine.std() / np.sqrt(len(x))
    print(f"{t:4.1f} {mine.mean():17.3f} +- {error:.3f} {gaussian.mean():15.3f} {entropy:19.3f} "
          f"{fokker.certificate_.total_variation(t):13.2g}")  # fmt: skip

# %%
# The last two coordinates: draws of the fit (blue) over particles (grey) it has never seen.

output = Path("output")
output.mkdir(exist_ok=True)
figure, axes = plt.subplots(1, 3, figsize=(9, 3.4), layout="tight", sharex=True, sharey=True)
for axis, (t, x) in zip(axes, particles.items(), strict=True):
    y = fokker.sample(3000, t, random_state=0)
    axis.plot(*x[:3000, -2:].T, ".", ms=3, alpha=0.35, color="0.6", mew=0, label="particles")
    axis.plot(*y[:, -2:].T, ".", ms=1.6, alpha=0.6, color="#30638e", mew=0, label="fit")
    axis.set(title=f"t = {t:g}", xlabel=f"$x_{{{problem.d - 1}}}$", xlim=(-3, 4), ylim=(-4, 9))
axes[0].set_ylabel(f"$x_{{{problem.d}}}$")
axes[0].legend(frameon=False, markerscale=4, loc="upper left", fontsize=8)
figure.savefig(output / f"rosenbrock_{problem.d}d.png", dpi=130)
print(f"picture: {output / f'rosenbrock_{problem.d}d.png'}")
