"""The peers of `optimise.py`: `method(f, dim, seed, budget) -> (points, recommended)`, f from one point to a number.

All begin at random points, and every call of `f` is counted. Points lie in the unit cube; `recommended` is the point that
the method itself would name in the end, or None for the best it saw.
"""

import numpy as np
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


def tpe(f, dim, seed, budget):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    counted = Counted(f, budget)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(lambda t: counted([t.suggest_float(f"x{i}", 0, 1) for i in range(dim)]), n_trials=budget)
    return np.array(counted.points), None


PEERS = {
    "random": until_spent(random_points),
    "Sobol": sobol,
    "L-BFGS": until_spent(lbfgs),
    "dual annealing": until_spent(annealing),
    "differential evolution": until_spent(differential_evolution),
    "cma": cmaes,
    "TPE": tpe,
}
