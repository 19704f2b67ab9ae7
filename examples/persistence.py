"""
Models on disk
==============

Fit, write, read in a fresh interpreter, compare the bits: plain, compressed and memory-mapped
joblib files, a pickle, and safetensors, which run no code when they are read. Pickles and joblib
files run whatever their author wanted: load only your own.
"""

import pickle
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import joblib
import numpy as np

from skfokker import ParametricFokkerPlanck
from skfokker.potentials import StyblinskiTang

READ = """
import sys, time
import joblib, numpy as np, pickle
from skfokker import ParametricFokkerPlanck
path, way, points = sys.argv[1:]
read = {
    "pickle": lambda: pickle.load(open(path, "rb")),
    "joblib": lambda: joblib.load(path),
    "joblib, compressed": lambda: joblib.load(path),
    "joblib, memory-mapped": lambda: joblib.load(path, mmap_mode="r"),
    "safetensors": lambda: ParametricFokkerPlanck.load(path),
}[way]
read()  # the second time the modules are imported already
before = time.perf_counter()
model = read()
seconds = time.perf_counter() - before
x = np.load(points)
bits = model.sample(100, 0.05).tobytes() + model.log_density(x, 0.08).tobytes()
print(seconds, bits.hex())
"""


def write(model, way, path):
    if way == "pickle":
        path.write_bytes(pickle.dumps(model))
    elif way == "safetensors":
        model.save(path)
    else:
        joblib.dump(model, path, compress=3 if "compressed" in way else 0)


model = ParametricFokkerPlanck(random_state=0, tol=1.0)
model.fit(StyblinskiTang(30), t_final=0.1)
numbers = model.times_.size + model.thetas_.size + model.velocities_.size
print(
    f"30-D fit: {len(model.times_)} times, {model.thetas_.shape[1]} parameters, {numbers} numbers"
)
print(f"{'way':<24}{'size / kB':>10}{'write / ms':>12}{'read / ms':>11}  same bits")
with tempfile.TemporaryDirectory() as folder:
    points = Path(folder) / "points.npy"
    np.save(points, model.sample(50, 0.08, random_state=1))
    bits = model.sample(100, 0.05).tobytes()
    bits += model.log_density(np.load(points), 0.08).tobytes()
    for way in ("pickle", "joblib", "joblib, compressed", "joblib, memory-mapped", "safetensors"):
        path = Path(folder) / "model"
        before = time.perf_counter()
        write(model, way, path)
        seconds = time.perf_counter() - before
        arguments = [sys.executable, "-c", READ, str(path), way, str(points)]
        out = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.split()
        same = out[1] == bits.hex()
        size = path.stat().st_size
        read = 1e3 * float(out[0])
        print(f"{way:<24}{size / 1e3:>10.0f}{1e3 * seconds:>12.1f}{read:>11.1f}  {same}")
        if not same:
            raise SystemExit(f"{way}: the bits differ")
