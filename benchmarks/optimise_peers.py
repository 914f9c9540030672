"""The peers of `optimise.py`: `method(f, dim, seed, budget) -> (points, recommended)`, f from one point to a number.

All begin at random points, and every call of `f` is counted. Points lie in the unit cube; `recommended` is the point that
the method itself would name in the end, or None for the best it saw.
"""

import numpy as np
from optimise_turbo import turbo
from scipy import optimize
from scipy.stats import qmc


class Spent(Exception):
    """The budget is used up."""


class Counted:
    """A function that records its calls, and ends the method at the last."""

    def __init__(self, f, budget):
        self.f, self.budget, self.points, self.values = f, budget, [], []

    def __call__(self, x):
        if len(self.points) >= self.budget:
            raise Spent
        self.points.append(np.clip(np.asarray(x, float), 0, 1))
        self.values.append(float(self.f(self.points[-1])))
        return self.values[-1]


def until_spent(run):
    """A peer from a function that calls `f` until it is stopped."""

    def method(f, dim, seed, budget):
        counted = Counted(f, budget)
        try:
            while True:
                run(counted, dim, np.random.default_rng([seed, len(counted.points)]))
        except Spent:
            return np.array(counted.points), None

    return method


def random_points(f, dim, rng):
    f(rng.random(dim))


def lbfgs(f, dim, rng):
    optimize.minimize(f, rng.random(dim), method="L-BFGS-B", bounds=[(0, 1)] * dim)


def annealing(f, dim, rng):
    optimize.dual_annealing(f, [(0, 1)] * dim, x0=rng.random(dim), rng=rng)


def differential_evolution(f, dim, rng):
    population = rng.random((max(20, 2 * dim), dim))
    optimize.differential_evolution(f, [(0, 1)] * dim, init=population, rng=rng, tol=0, polish=False, maxiter=10**6)


def sobol(f, dim, seed, budget):
    points = qmc.Sobol(dim, seed=seed).random(2 ** int(np.ceil(np.log2(budget))))[:budget]
    for point in points:
        f(point)
    return points, None


def cmaes(f, dim, seed, budget):
    """pycma from a random start with sigma 0.3, started again where it stops; it recommends the mean of the best run."""
    import cma

    counted, rng, means = Counted(f, budget), np.random.default_rng(seed), []
    try:
        while True:
            options = {"bounds": [0, 1], "verbose": -9, "seed": int(rng.integers(1, 2**31))}
            strategy = cma.CMAEvolutionStrategy(rng.random(dim), 0.3, options)
            while not strategy.stop():
                points = strategy.ask()
                strategy.tell(points, [counted(x) for x in points])
                means.append((float(np.median(strategy.fit.fit)), strategy.result.xfavorite))
    except Spent:
        return np.array(counted.points), min(means, key=lambda pair: pair[0])[1]


def optuna_sampler(name):
    """A sampler of Optuna, whose first trials are random."""

    def method(f, dim, seed, budget):
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        counted = Counted(f, budget)
        study = optuna.create_study(sampler=getattr(optuna.samplers, name)(seed=seed, **_options(name, dim, seed)))
        study.optimize(lambda t: counted([t.suggest_float(f"x{i}", 0, 1) for i in range(dim)]), n_trials=budget)
        return np.array(counted.points), None

    return method


def _options(name, dim, seed):
    """CMA-ES begins in the middle of the box if it is not told a point."""
    start = np.random.default_rng(seed).random(dim)
    return {"x0": {f"x{i}": float(v) for i, v in enumerate(start)}} if name == "CmaEsSampler" else {}


def nevergrad(f, dim, seed, budget):
    """Its optimizer that chooses by dimension and budget, from a random start; the next one where NumPy 2.4 breaks it."""
    import nevergrad as ng

    for name in ("NGOpt", "NgIohTuned", "TwoPointsDE"):
        counted, rng = Counted(f, budget), np.random.default_rng(seed)
        space = ng.p.Array(init=rng.random(dim)).set_bounds(0, 1)
        space.random_state.seed(seed)
        try:
            ng.optimizers.registry[name](parametrization=space, budget=budget).minimize(counted)
            return np.array(counted.points), None
        except TypeError:  # "only 0-dimensional arrays can be converted to Python scalars"
            continue
    raise RuntimeError("No optimizer of nevergrad runs here.")


PEERS = {
    "random": until_spent(random_points),
    "Sobol": sobol,
    "L-BFGS": until_spent(lbfgs),
    "dual annealing": until_spent(annealing),
    "differential evolution": until_spent(differential_evolution),
    "cma": cmaes,
    "nevergrad": nevergrad,
    "TPE": optuna_sampler("TPESampler"),
    "Optuna CMA-ES": optuna_sampler("CmaEsSampler"),
    "Optuna GP": optuna_sampler("GPSampler"),
    "TuRBO": turbo,
}
