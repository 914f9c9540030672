"""What a run looked like: history, data frame, plot."""

import numpy as np

from keras_multiweight.surrogate.pool import ORIGINS


def history(pool):
    """See `SurrogateOptimizer.history`."""
    heights = np.where(np.isnan(pool.values), -np.inf, pool.sign * pool.values)
    best = pool.sign * np.maximum.accumulate(heights)
    origin = np.array([ORIGINS.get(o, f"region {o}") for o in pool.origins.tolist()], object)
    return {
        "x": pool.points.copy(),
        "y": pool.values.copy(),
        "best": np.where(np.isinf(best), np.nan, best),
        "origin": origin,
    }


def to_dataframe(pool):
    """One row an evaluation: `x0` ..., `y`, `best`, `origin`."""
    import pandas

    columns = history(pool)
    points = columns.pop("x")
    return pandas.DataFrame({**{f"x{i}": points[:, i] for i in range(points.shape[1])}, **columns})


def plot_convergence(pool, ax=None, optimum=None):
    """See `SurrogateOptimizer.plot_convergence`."""
    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.subplots()[1]
    columns = history(pool)
    calls = np.arange(1, len(pool) + 1)
    if optimum is None:
        ax.plot(calls, columns["y"], ".", color="0.7", label="evaluations")
        ax.plot(calls, columns["best"], label="best")
    else:
        ax.semilogy(calls, np.maximum(np.abs(columns["best"] - optimum), 1e-12), label="distance from the optimum")
    ax.set_xlabel("evaluations")
    ax.legend()
    return ax
