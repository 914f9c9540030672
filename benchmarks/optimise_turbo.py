"""TuRBO-1 (Eriksson et al., NeurIPS 2019) of BoTorch's parts, as its tutorial puts them together, in batches of 10.

A Gaussian process with a Matern kernel sees the points since the last restart; a batch is drawn by Thompson sampling in a
box round the best, whose sides follow the kernel's length scales, and which grows with success and shrinks without.
"""

import math
import warnings

import numpy as np

BATCH = 10
SMALLEST, LARGEST, FIRST = 0.5**7, 1.6, 0.8  # sides of the box


def turbo(f, dim, seed, budget):
    """A peer of `optimise_peers.PEERS`: minimises by maximising -f, and starts anew where its box becomes too small."""
    import torch

    torch.manual_seed(seed)
    rng, points, values = np.random.default_rng(seed), [], []
    while len(points) < budget:
        _one_box(f, dim, rng, budget, points, values)
    return np.array(points[:budget]), None


def _evaluate(f, batch, budget, points, values):
    for point in batch[: budget - len(points)]:
        points.append(point)
        values.append(-f(point))


def _one_box(f, dim, rng, budget, points, values):
    first, side, successes, failures = len(points), FIRST, 0, 0
    _evaluate(f, rng.random((2 * dim, dim)), budget, points, values)
    while len(points) < budget and side >= SMALLEST:
        seen, best = len(points), max(values[first:])
        batch = _batch(np.array(points[first:]), np.array(values[first:]), side)
        _evaluate(f, batch, budget, points, values)
        is_better = max(values[seen:]) > best + 1e-3 * abs(best)
        successes, failures = (successes + 1, 0) if is_better else (0, failures + 1)
        if successes == 10:
            side, successes = min(2 * side, LARGEST), 0
        if failures == math.ceil(max(4.0, dim) / BATCH):
            side, failures = side / 2, 0


def _batch(points, values, side):
    import torch
    from botorch.generation import MaxPosteriorSampling

    x, y = torch.tensor(points), torch.tensor((values - values.mean()) / (values.std() + 1e-12))[:, None]
    model, dim = _fitted(x, y), x.shape[1]
    scales = model.covar_module.base_kernel.lengthscale.detach().reshape(-1)
    scales = scales / scales.mean()
    scales = scales / torch.prod(scales ** (1.0 / dim))
    centre = x[y.argmax()]
    low, high = ((centre + sign * scales * side / 2).clamp(0.0, 1.0) for sign in (-1, 1))
    count = min(5000, max(2000, 200 * dim))
    drawn = low + (high - low) * torch.quasirandom.SobolEngine(dim, scramble=True).draw(count).double()
    moved = torch.rand(count, dim) <= min(20.0 / dim, 1.0)
    moved[~moved.any(dim=1), torch.randint(0, dim, ((~moved.any(dim=1)).sum(),))] = True
    candidates = torch.where(moved, drawn, centre)
    with torch.no_grad():
        return MaxPosteriorSampling(model=model, replacement=False)(candidates, num_samples=BATCH).numpy()


def _fitted(x, y):
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from gpytorch.constraints import Interval
    from gpytorch.kernels import MaternKernel, ScaleKernel
    from gpytorch.likelihoods import GaussianLikelihood
    from gpytorch.mlls import ExactMarginalLogLikelihood

    kernel = ScaleKernel(MaternKernel(nu=2.5, ard_num_dims=x.shape[1], lengthscale_constraint=Interval(0.005, 4.0)))
    likelihood = GaussianLikelihood(noise_constraint=Interval(1e-8, 1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SingleTaskGP(x, y, covar_module=kernel, likelihood=likelihood, outcome_transform=None)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(likelihood, model))
    return model
