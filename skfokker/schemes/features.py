"""Features of triangular layers trained on the velocity that they have to carry.

A triangular layer whose outer weights are zero is the identity whatever its hidden units are,
and moves with a velocity that is linear in its outer weights. The units are then free, and worth
choosing: trained by variable projection (the outer weights eliminated by least squares, the
inner ones by L-BFGS) they fit the velocity of a nonlinear potential hundreds of times better
than random ones.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..flows.base import Flow
from ..flows.composition import Composition
from .normal_equations import InnerProblem, damped_solve


def train_dormant(
    flow: Flow, problem: InnerProblem, n_iterations: int, residual: Tensor | None = None
) -> Tensor:
    """theta with the hidden units of all dormant layers trained on -g; T is unchanged.

    Parameters
    ----------
    flow : Flow
        Layers are looked for in a :class:`~skfokker.flows.Composition`; any other flow is left
        alone.
    problem : InnerProblem
        At the theta to start from.
    n_iterations : int
        L-BFGS iterations, at most.
    residual : Tensor (n, d), optional
        What the awake layers leave of g: then the units are trained on that, and alone. Without
        it they are trained beside what affine maps and splines can do.

    Returns
    -------
    theta : Tensor (m,)
    """
    theta = problem.theta.clone()
    if not isinstance(flow, Composition) or n_iterations == 0:
        return theta
    d = problem.x.shape[1]
    parts = flow.split(theta, d)
    asleep = [i for i, layer in enumerate(flow.layers) if layer.is_dormant(parts[i].detach(), d)]
    if not asleep:
        return theta
    linearizations = problem.linearization.layers
    target = -problem.g if residual is None else -residual
    for linearization in reversed(linearizations[asleep[-1] + 1 :]):
        target = linearization.solve(target)
    x = linearizations[asleep[-1]].y
    alone = residual is not None
    base = [torch.ones_like(x[:, :1])] if alone else [torch.ones_like(x[:, :1]), x]
    units = {i: flow.layers[i].feature_parameters(parts[i], d) for i in asleep}
    variables = [u.detach().clone().requires_grad_() for u in units.values()]
    size = target.square().mean()

    def misfit() -> Tensor:
        total = torch.zeros(())
        features = [flow.layers[i].features(u, x) for i, u in zip(asleep, variables, strict=True)]
        for i in range(d):
            splines = [] if alone else [spline_features(x[:, i])]
            columns = torch.cat([*base, *splines, *[f[i] for f in features]], 1)
            with torch.no_grad():
                gram, rhs = columns.T @ columns, columns.T @ target[:, i, None]
                weights = damped_solve(gram / len(x), rhs / len(x), 1e-9)
            total = total + (columns @ weights - target[:, i, None]).square().mean()
        return total / (d * size)

    optimizer = torch.optim.LBFGS(
        variables, max_iter=n_iterations, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = misfit()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    for i, u in zip(asleep, variables, strict=True):
        flow.layers[i].set_feature_parameters(parts[i], d, u.detach())
    return theta


def spline_features(x: Tensor, n: int = 9) -> Tensor:
    """Bumps over the bulk of one coordinate (n_points, n): what elementwise layers can do."""
    centres = torch.linspace(-1, 1, n).to(x) * 2.5 * x.std() + x.mean()
    return torch.exp(-0.5 * ((x[:, None] - centres) / (0.6 * x.std())) ** 2)
