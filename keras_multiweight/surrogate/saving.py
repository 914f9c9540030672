"""An optimizer in one `.npz` file: arrays, and plain values as JSON. No pickles. Code is given again at loading."""

import dataclasses
import json
import os

import numpy as np

from keras_multiweight.surrogate.space import Categorical, Integer, Real, keys

VERSION = 5
DIMENSIONS = {cls.__name__: cls for cls in (Real, Integer, Categorical)}
ARGUMENTS = ("num_members", "seed", "maximize", "n_init", "batch_size", "noise", "member_update", "acquisitions")


def save(optimizer, path):
    """Write the file whole, or not at all."""
    pool = optimizer.pool
    search, arrays = optimizer._search.state()
    plain = {
        "version": VERSION,
        "bounds": [_dimension(dim) for dim in optimizer.space.dims],
        "arguments": {name: getattr(optimizer, name) for name in ARGUMENTS},
        "points": pool.points.tolist(),
        "pending": [[list(key), origin] for key, origin in pool.pending.items()],
        "designed": optimizer._designed,
        "rng": optimizer.rng.bit_generator.state,
        "search": search,
    }
    text = np.frombuffer(json.dumps(plain, default=_plain).encode(), np.uint8)
    half = f"{path}.part"
    with open(half, "wb") as file:
        np.savez(file, plain=text, values=pool.values, origins=pool.origins, **arrays)
    os.replace(half, path)


def load(cls, path, **code):
    """See `SurrogateOptimizer.load`."""
    with np.load(path, allow_pickle=False) as file:
        arrays = dict(file)
    plain = json.loads(arrays.pop("plain").tobytes())
    if plain["version"] != VERSION:
        raise ValueError(f"The file must be of version {VERSION}. Received: version {plain['version']} in '{path}'.")
    optimizer = cls([_restored(d) for d in plain["bounds"]], **plain["arguments"], **code)
    values, origins = arrays.pop("values"), arrays.pop("origins")
    pool, space = optimizer.pool, optimizer.space
    if len(values):
        points = np.array(plain["points"], space.dtype).reshape(-1, space.num_dims)
        pool.tell(points, values)
        pool.origins = origins
    pool.pending = {key: origin for keys_of, origin in plain["pending"] for key in keys(np.array([keys_of], space.dtype))}
    optimizer._designed = plain["designed"]
    optimizer.rng.bit_generator.state = plain["rng"]
    optimizer._search.restore(plain["search"], arrays, pool.unit)
    return optimizer


def _dimension(dim):
    fields = {f.name: getattr(dim, f.name) for f in dataclasses.fields(dim) if f.init}
    return {"class": type(dim).__name__, **fields}


def _restored(fields):
    return DIMENSIONS[fields.pop("class")](**fields)


def _plain(value):
    """NumPy's numbers, which JSON does not know."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"A saved optimizer holds plain numbers and words. Received: {value!r}.")
