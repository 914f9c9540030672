"""Which lowering of a layer is the cheapest? Measures them all, and writes the table that layers choose by.

    KERAS_BACKEND=jax python benchmarks/lowerings.py            # prints a table
    KERAS_BACKEND=jax python benchmarks/lowerings.py --write    # and writes it to keras_multiweight/layers/costs.json

Milliseconds of a layer alone in a model, by `Predictor`: on TensorFlow convolutions run in a graph, all else by XLA. A
product has a second one behind it, as JAX runs programs of many kernels otherwise. The lowerings of a line ran in turn, in
one process; in brackets the one that is taken.
"""

import argparse
import itertools
import json
import pathlib

import keras
import numpy as np
from keras import layers as k
from predict import header
from timing import interleaved

from keras_multiweight import layers as multi
from keras_multiweight.layers import costs, plumbing
from keras_multiweight.layers.lowerings import device_kind
from keras_multiweight.prediction import Predictor

TABLE = pathlib.Path(costs.__file__).with_name(costs.FILE)
MOST_NUMBERS = 60_000_000  # that one lowering may give, or need for its patches
SHARED, OWN = True, False
BEHIND = "behind"  # the product behind another


def cases():
    """The layer for N members, how it is called, and a member's input, `(B, ..., C)`."""
    for num_members, rows, width, shared in itertools.product((5, 10, 50, 200), (1, 32, 1024), (16, 64, 256), (SHARED, OWN)):
        yield multi.MultiDense(width, num_members=num_members, **place(shared)), (rows, width)
    for num_members, rows, width, shared in itertools.product((5, 20), (1, 32, 256), (8, 64), (SHARED, OWN)):
        for cls in (multi.MultiLSTM, multi.MultiGRU)[: 1 + (rows == 32)]:
            yield cls(32 if width == 8 else 64, num_members=num_members, **place(shared)), (rows, 32, width)
    for num_members, rows, width in itertools.product((5, 20), (1, 32, 256), (32, 128)):
        yield multi.MultiMultiHeadAttention(4, width // 4, num_members=num_members, **place(OWN)), (rows, 16, width)
    sizes = [(8, 16), (24, 32), (12, 128), (3, 320), (3, 1024)]  # of an image's side, and channels
    for num_members, rows, (side, width), taps in itertools.product((3, 10, 50), (1, 16, 128), sizes, (1, 3)):
        layer = multi.MultiConv2D(width, taps, padding="same", num_members=num_members, member_axis=-1)
        yield layer, (rows, side, side, width)
    for num_members, rows, width in itertools.product((5, 20), (1, 32), (16, 64)):
        yield multi.MultiConv1D(width, 3, padding="same", num_members=num_members, member_axis=-1), (rows, 64, width)


def place(shared):
    return {"member_axis": 0, "shared_input": shared}


def model_of(layer, shape):
    """A layer as it is in a packed model: its members' inputs are moved, and the next layer reads what it gives.

    A product of one column reads it: what a maximum would read, XLA computes without ever holding it.
    """
    shape, n = shape[1:], layer.num_members
    if layer.member_axis == -1:
        x = inputs = keras.Input((*shape[:-1], shape[-1] * n))
    elif layer.shared_input:
        x = inputs = keras.Input(shape)
    else:
        inputs = keras.Input((n, *shape))
        x = plumbing.BatchToMembers(n)(inputs)
    x = layer(x, x) if isinstance(layer, multi.MultiMultiHeadAttention) else layer(x)
    if isinstance(layer, multi.MultiDense):
        x = multi.MultiDense(layer.units, num_members=n, member_axis=0, name=BEHIND)(keras.ops.relu(x))
    if layer.member_axis == -1:
        return keras.Model(inputs, k.GlobalMaxPooling2D()(x) if len(x.shape) == 4 else k.GlobalMaxPooling1D()(x))
    x = multi.MultiDense(1, num_members=n, member_axis=0, name="reads")(keras.ops.relu(x))
    return keras.Model(inputs, plumbing.MembersToBatch(n)(x))


def measure(layer, shape, repeats):
    """A line of the table: the work of a layer, and the milliseconds of each lowering."""
    model = model_of(layer, shape)
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(0, 0.1, w.shape) for w in model.get_weights()])  # equal members would be computed once
    x = rng.normal(size=(shape[0], *model.inputs[0].shape[1:])).astype("float32")
    runs = {}
    for name in layer.lowerings():
        for part in (part for part in model.layers if part is layer or part.name == BEHIND):
            part.lowering = name if name in part.lowerings() else part.lowerings()[0]
        ask = Predictor(model, batch_size=shape[0])
        ask(x)  # compiles
        runs[name] = lambda ask=ask: ask(x)
    layer.lowering = None
    seconds = interleaved(runs, repeats)
    return {**layer.work(shape), "ms": {name: float(f"{1e3 * s:.3g}") for name, s in seconds.items()}}


def fits(layer, shape):
    taps = layer.work(shape).get("taps", 1)
    patches, weights = np.prod(shape) * taps, taps * shape[-1] * layer.work(shape).get("out", 0)
    return layer.num_members * max(patches, weights) < MOST_NUMBERS and flops(layer, shape) < 2e10


def flops(layer, shape):
    """Roughly the multiplications and additions of a call."""
    work = layer.work(shape)
    return 2 * np.prod(shape) * layer.num_members * work.get("taps", 1) * work.get("out", shape[-1])


def show(row):
    work = ", ".join(f"{key} {value}" for key, value in row.items() if key not in ("kind", "ms"))
    best = min(row["ms"], key=row["ms"].get)
    cells = ", ".join(f"[{name} {ms:g}]" if name == best else f"{name} {ms:g}" for name, ms in row["ms"].items())
    print(f"{row['kind']}, {work}: {cells}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table of costs of the package")
    parser.add_argument("--kinds", nargs="+", help="only these kinds of work, by how they begin")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    for row in measured(options):
        show(row)
        if options.write:
            write(row, options.repeats)


def measured(options):
    for layer, shape in cases():
        if wanted(layer.work(shape)["kind"], options.kinds) and fits(layer, shape):
            keras.utils.clear_session()
            yield measure(layer, shape, options.repeats)


def write(row, repeats):
    """Put a line into the table, in the place of an earlier one of the same work: a run cut short leaves the rest."""
    table = json.loads(TABLE.read_text())
    entry = table.setdefault(f"{keras.backend.backend()}, {device_kind()}", {"rows": []})
    entry["measured"] = header("several", repeats)
    same = [other for other in entry["rows"] if {**other, "ms": 0} == {**row, "ms": 0}]
    entry["rows"] = [*(other for other in entry["rows"] if other not in same), row]
    TABLE.write_text(as_json(table))


def wanted(kind, kinds):
    return not kinds or any(kind.startswith(name) for name in kinds)


def as_json(table):
    """One row a line, so that a new measurement is a readable change."""
    parts = []
    for device, entry in sorted(table.items()):
        rows = ",\n".join(f"      {json.dumps(row)}" for row in entry["rows"])
        head = f'  {json.dumps(device)}: {{\n    "measured": {json.dumps(entry["measured"])},\n    "rows": [\n'
        parts.append(f"{head}{rows}\n    ]\n  }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    main()
