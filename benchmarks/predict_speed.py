"""How close is packed prediction to the machine, and to what one would write by hand?

    KERAS_BACKEND=jax python benchmarks/predict_speed.py            # minutes
    KERAS_BACKEND=jax python benchmarks/predict_speed.py --whole    # hours

Every variant takes NumPy arrays and gives NumPy arrays of the same numbers, which is checked. The variants of a line ran in
turn, in one process: compare within a line. A ratio is a peer's time over that of `multi.predictor()`: above 1 the packed
model is faster; a comment says which peer does not run. "first call" is what tracing and compiling takes, "memory" by how
many MB the process grew at most in it. "of GEMM" is the rate of the model's multiplications relative to that of one square
matrix product in the same run: at 100 % no lowering could be faster.
"""

import argparse
import json
import logging
import pathlib
import time

import keras
import numpy as np
from predict import header
from predict_models import MODELS, flops, mlp
from predict_peers import BACKEND, PEERS, gemm_rate
from timing import interleaved, peak_memory

import keras_multiweight as kmw

QUICK = {"members": (10, 50), "widths": (64,), "rows": (1, 32, 1024)}
WHOLE = {"members": (10, 50, 200, 1000), "widths": (16, 64, 256), "rows": (1, 32, 1024, 16384)}
MOST_NUMBERS = 500_000_000  # of an array that a peer holds at once; above, the peer is left out
COLUMNS = ("predictor, ms", "first call, s", "memory, MB", "predict", *PEERS, "torch.compile", "of GEMM")


def data(model, rows):
    rng = np.random.default_rng(0)

    def draw(x):
        shape = (rows, *x.shape[1:])
        return rng.integers(0, 100, shape).astype("int32") if "int" in x.dtype else rng.normal(size=shape).astype("float32")

    arrays = [draw(x) for x in model.inputs]
    return arrays if len(arrays) > 1 else arrays[0]


def variants(models, multi, x, names, compiled):
    """Functions without arguments, and how long the predictor's first call took and how much memory."""
    ask = multi.predictor()
    start = time.perf_counter()
    expected, memory = peak_memory(lambda: ask(x))
    first = time.perf_counter() - start
    calls = {"predictor": ask, "predict": multi.predict}
    calls |= {name: peer for name, peer in ((name, running(PEERS[name], models, x)) for name in names) if peer}
    if BACKEND == "torch" and compiled:
        calls["torch.compile"] = multi.predictor(jit_compile=True)
    for name, call in calls.items():
        difference = np.abs(call(x) - expected).max() / np.abs(expected).max()
        assert difference < 1e-4, f"{name} gives other numbers: {difference}"
    return {name: lambda call=call: call(x) for name, call in calls.items()}, first, memory


def running(peer, models, x):
    """A peer's call, or None where the backend cannot map a layer of the model."""
    try:
        call = peer(models, x)
        return call and call(x) is not None and call
    except (RuntimeError, NotImplementedError, ValueError) as error:
        print(f"<!-- {peer.__name__}: {str(error).splitlines()[0]} -->")
        return None


def line(models, multi, rows, options, widest=0):
    """One line of the table, as a dict of plain values."""
    x = data(models[0], rows)
    names = [name for name in PEERS if widest * len(models) * rows < MOST_NUMBERS or name == "loop of compiled calls"]
    calls, first, memory = variants(models, multi, x, names, options.compiled)
    seconds = interleaved(calls, options.repeats)
    rate = gemm_rate(lambda f: interleaved({"gemm": f}, options.repeats)["gemm"])
    limit = flops(models[0]) * rows * len(models) / rate
    return {"members": len(models), "rows": rows, "seconds": seconds, "limit": limit, "first": first, "memory": memory}


def cells(measured):
    """The cells of a line, by column."""
    others = dict(measured["seconds"])
    mine = others.pop("predictor")
    memory = measured["memory"]
    return {
        "predictor, ms": f"{1e3 * mine:,.3f}",
        "first call, s": f"{measured['first']:.2f}",
        "memory, MB": "" if memory is None else f"{memory:,.0f}",
        "of GEMM": f"{100 * measured['limit'] / mine:.0f} %",
        **{name: f"{other / mine:,.2f}" for name, other in others.items()},
    }


def lines(options):
    """Pairs of a name and what was measured."""
    sizes = WHOLE if options.whole else QUICK
    for num_members in options.members or sizes["members"] if "MLP" in options.models else ():
        for width in options.widths or sizes["widths"]:
            models, multi = members(lambda width=width: mlp(width), num_members)
            for rows in options.rows or sizes["rows"]:
                yield f"MLP {width}", line(models, multi, rows, options, width)
    for name in [name for name in MODELS if name in options.models]:
        build, numbers, all_rows = MODELS[name]
        for num_members in numbers:
            models, multi = members(build, num_members)
            for rows in all_rows:
                yield name, line(models, multi, rows, options)


def members(build, num_members):
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    models = [build() for _ in range(num_members)]
    return models, kmw.pack(models, verify=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--whole", action="store_true", help="all sizes of the MLP")
    for name, what in (("members", "N"), ("widths", "units of a layer"), ("rows", "rows")):
        parser.add_argument(f"--{name}", type=int, nargs="+", help=f"{what} of the MLPs, in place of those of the table")
    parser.add_argument(
        "--models", nargs="+", choices=["MLP", *MODELS], default=["MLP", "digits CNN", "LSTM", "Transformer"]
    )
    parser.add_argument("--compiled", action="store_true", help="torch: torch.compile too, on both sides")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=pathlib.Path, help="write what was measured to this file too")
    options = parser.parse_args()
    if not options.compiled:
        PEERS.pop("vmap, torch.compile")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    print(f"{header('several', options.repeats)}\n\n| | {' | '.join(COLUMNS)} |\n|---|{'---:|' * len(COLUMNS)}")
    found = []
    for name, measured in lines(options):
        found.append({"model": name, **measured})
        shown = cells(measured)
        title = f"{name}, N={measured['members']:,}, {measured['rows']:,} rows"
        print(f"| {title} | {' | '.join(shown.get(column, '') for column in COLUMNS)} |", flush=True)
        if options.json:
            options.json.write_text(json.dumps({"measured": header("several", options.repeats), "lines": found}, indent=1))


if __name__ == "__main__":
    main()
