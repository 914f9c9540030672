"""A three-dimensional picture of the method: the distance from the maximum against calls and the number of networks.

    python benchmarks/optimise_picture.py docs/pictures/optimise.png

It draws what `optimise.py` wrote to `optimise.json` for Hartmann-6: a line for every number of networks, 0 being networks
off. Medians over the seeds.
"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from optimise import FIRST_SEED, read

FLOOR = 1e-5  # distances below it are drawn as if they were it


def lines(rows, budget):
    """For every number of networks `(calls, median distances)`, the fewest networks first."""
    found = {}
    for row in rows:
        if (
            row["problem"] == "hartmann"
            and row["method"].startswith("members-")
            and row["budget"] == budget
            and not row["noise"]
            and row["seeds"][0] == FIRST_SEED  # of one search
        ):
            distances = {int(n): np.median(values) for n, values in row["distance"].items()}
            found[int(row["method"].removeprefix("members-"))] = tuple(map(np.array, zip(*sorted(distances.items()))))
    return dict(sorted(found.items()))


def draw(found, axes):
    """A line for every number of networks, at places of equal width, and walls under them that make the heights legible."""
    for place, (calls, distances) in enumerate(found.values()):
        x, z = np.log10(calls), np.log10(np.maximum(distances, FLOOR))
        colour = plt.cm.viridis(place / max(len(found) - 1, 1))
        axes.plot(x, np.full(len(x), place), z, "o-", color=colour, linewidth=2, markersize=3)
        for at in zip(x, z):
            axes.plot([at[0]] * 2, [place] * 2, [np.log10(FLOOR), at[1]], color=colour, alpha=0.25, linewidth=1)
    ticks = [50, 100, 200, 500, 1000, 2300]
    ticks = [t for t in ticks if t <= max(calls)]
    axes.set_xticks(np.log10(ticks), ticks)
    axes.set_yticks(range(len(found)), ["off" if n == 0 else n for n in found])
    axes.set_zticks(range(-5, 1), ["0.00001", "0.0001", "0.001", "0.01", "0.1", "1"])
    (
        axes.set_xlabel("calls", labelpad=9),
        axes.set_ylabel("networks"),
        axes.set_zlabel("distance from the maximum", labelpad=12),
    )
    axes.view_init(elev=22, azim=-52)


def main(path, budget=1000):
    figure = plt.figure(figsize=(7, 5.5))
    axes = figure.add_subplot(projection="3d")
    draw(lines(read(), budget), axes)
    axes.set_box_aspect((1.3, 1.0, 0.8), zoom=0.9)
    figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.3)


if __name__ == "__main__":
    main(sys.argv[1])
