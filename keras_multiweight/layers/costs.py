"""Which lowering a layer takes: the cheapest in a table of measurements.

`costs.json` holds, for each backend and device kind, what `benchmarks/lowerings.py` measured: pieces of work, each with its
kind, its sizes and the milliseconds of every lowering. A layer names its own piece of work in the same words, and takes
the lowering that was the cheapest at the nearest measured sizes. Backends and devices that nobody measured take the first
lowering that a layer names, as do layers that train: what was measured is prediction.
"""

import functools
import importlib.resources
import json
import math

import keras

from keras_multiweight.layers.lowerings import device_kind

FILE = "costs.json"
MARGIN = math.log(1.05)  # a lowering must be better than the first by more than the noise of measurements


def cheapest(names, kind, **sizes):
    """One of the lowerings `names`.

    Args:
        names: Tuple of the lowerings that are possible, of which the first is taken where nothing was measured.
        kind: What is computed, such as `"dense"`.
        **sizes: Ints, or None for what is not known yet, such as the rows of a batch.
    """
    if len(names) < 2:
        return names[0] if names else None
    return _cheapest(tuple(names), kind, tuple(sorted(sizes.items())))


@functools.lru_cache(maxsize=4096)
def _cheapest(names, kind, sizes):
    measured = [row for row in _measured() if row["kind"] == kind and set(names) & set(row["ms"])]
    if not measured:
        return names[0]
    distances = [_distance(row, sizes) for row in measured]
    nearest = [row["ms"] for row, distance in zip(measured, distances) if distance <= min(distances) + 1e-9]
    costs = {name: _mean_log(row[name] for row in nearest) for name in names if all(name in row for row in nearest)}
    best = min(costs, key=costs.get, default=names[0])
    return names[0] if costs.get(names[0], math.inf) < costs.get(best, 0) + MARGIN else best


def _distance(row, sizes):
    """How many doublings lie between measured sizes and those of a layer; what is not known counts for nothing."""
    return sum(abs(math.log2(row[key] / size)) for key, size in sizes if size and row.get(key))


def _mean_log(numbers):
    logs = [math.log(number) for number in numbers]
    return sum(logs) / len(logs)


@functools.cache
def _measured():
    """The rows of this backend and device kind."""
    table = json.loads(importlib.resources.files(__package__).joinpath(FILE).read_text())
    return table.get(f"{keras.backend.backend()}, {device_kind()}", {}).get("rows", [])
