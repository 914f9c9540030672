"""Draw what `run_all.py` measured: the headline, and how the cost grows.

python benchmarks/pictures.py
"""

import matplotlib

matplotlib.use("Agg")  # no window
import matplotlib.pyplot as plt
from run_all import BACKENDS, GROWTH, HERE, MODELS, measured

FOLDER = HERE / "pictures"
LOOP = "loop of compiled calls"
COLOURS = dict(zip(BACKENDS, ("#e07b39", "#3b6fb6", "#4f9d69")))


def headline():
    """How many times faster than a loop of compiled calls, for each model at the rows that were measured first."""
    found = {}
    for backend in BACKENDS:
        for line in [line for part in MODELS for line in measured(backend, part)["lines"]]:
            if LOOP in line["seconds"]:
                title = f"{line['model']}, N={line['members']}"
                ratio = line["seconds"][LOOP] / line["seconds"]["predictor"]
                found.setdefault(title, {}).setdefault(backend, {})[line["rows"]] = ratio
    figure, axes = plt.subplots(figsize=(7, 0.5 + 0.42 * max(len(found), 1)))
    for y, (_, backends) in enumerate(reversed(found.items())):
        for i, (backend, ratios) in enumerate(backends.items()):
            at = y + 0.22 * (1 - i)
            axes.plot(list(ratios.values()), [at] * len(ratios), color=COLOURS[backend], linewidth=1, zorder=1)
            for j, (_, ratio) in enumerate(sorted(ratios.items())):
                label = backend if y == len(found) - 1 and j == 0 else None
                axes.scatter(ratio, at, s=46 - 14 * j, color=COLOURS[backend], label=label, zorder=2)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", yticks=range(len(found)), yticklabels=list(reversed(found)))
    axes.set_xlabel("times faster than a loop of compiled calls; large dots few rows, small dots many")
    axes.grid(axis="x", alpha=0.3)
    if found:
        axes.legend(frameon=False, fontsize=8)
    save(figure, "headline")


def growth():
    """Milliseconds against members, at 32 rows, and against rows, for 100 members."""
    figure, panels = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
    for axes, key, fixed in zip(panels, ("members", "rows"), (("rows", 32), ("members", 100))):
        for backend in BACKENDS:
            lines = [line for line in measured(backend, GROWTH)["lines"] if line[fixed[0]] == fixed[1]]
            for name, style in (("predictor", "-o"), (LOOP, "--")):
                points = [(line[key], 1e3 * line["seconds"][name]) for line in lines if name in line["seconds"]]
                axes.plot(*zip(*points), style, color=COLOURS[backend], markersize=3) if points else None
        axes.set(xscale="log", yscale="log", xlabel=f"{key}, {fixed[0]}={fixed[1]}")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("ms a call: packed; dashed: loop")
    for backend in BACKENDS:
        panels[1].plot([], [], color=COLOURS[backend], label=backend)
    panels[1].legend(frameon=False, fontsize=8)
    save(figure, "growth")


def save(figure, name):
    FOLDER.mkdir(exist_ok=True)
    figure.savefig(FOLDER / f"{name}.png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    headline()
    growth()
