"""The ways to run a model on arrays: the one place of prediction for code of a single backend.

All answer with the weights that the model has at the call, and keep none of their values alive, but where they are few.
"""

import functools
import math
import os
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from keras import ops

from keras_multiweight.copies import all_layers
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.lowerings import MOST_SIDE_BY_SIDE, keep_freed_memory, on_cpu
from keras_multiweight.prediction.calls import PureCall
from keras_multiweight.prediction.steady import SteadyCall


class Way(NamedTuple):
    """A way to run a model.

    Attributes:
        name: What `repr` calls it.
        fixed_rows: Whether a program serves one number of rows only.
        compiles: Whether a compiler beside the backend's own operations is at work.
        build: `build(call, arrays) -> run`: from a `ModelCall` or `ChunkedCall` and example arrays a function from a list of
            such arrays to the list of outputs as NumPy arrays, the caller's own. Thread-safe once it has run.
    """

    name: str
    fixed_rows: bool
    compiles: bool
    build: Callable


def ways(model, jit_compile):
    """The ways to run a model on this backend, the best first; the last runs whatever the backend runs.

    Args:
        model: A Keras model.
        jit_compile: bool or "auto": compile, by XLA on TensorFlow, `jax.jit` on JAX, `torch.compile` on torch.
    """
    backend = keras.backend.backend()
    if jit_compile == "auto":  # on CPUs XLA's convolutions are no faster than TensorFlow's own, grouped ones slower
        jit_compile = backend == "jax" or (backend == "tensorflow" and not _has(model, "Conv"))
    return list(_WAYS[backend][bool(jit_compile)])


def compiles_in_predict(model, asked):
    """The `jit_compile` of `predict`: Keras's, which leaves XLA out on TensorFlow's CPUs, where "auto" knows better.

    It stays so in half precision, which XLA rounds at fewer places.
    """
    is_left_out = asked == "auto" and keras.backend.backend() == "tensorflow" and on_cpu()
    halves = {"float16", "bfloat16"}.intersection(layer.compute_dtype for layer in all_layers(model))
    return "auto" if is_left_out and not halves else model.jit_compile


def _has(model, *names):
    """Whether a part of a class's name, such as "Conv", is in that of a layer, or of a member's layer."""
    return any(name in cls for name in names for cls in _classes(model))


def _classes(model):
    """The names of the classes of all layers, those of a member's in the place of those of all members."""
    layers = [all_layers(x.template()) if isinstance(x, MultiLayer) else [x] for x in all_layers(model)]
    return [type(inner).__name__ for parts in layers for inner in parts]


def num_lookups(model):
    """How many layers of a model look up ids."""
    return sum("Embedding" in name for name in _classes(model))


def worth_trying():
    """The values of `jit_compile` that `tune` tries: `torch.compile` takes long, and must be asked for."""
    return {"tensorflow": (True, False), "jax": (True,), "torch": (False,)}[keras.backend.backend()]


def patience():
    """How many batches run as the model stands in the time in which a program is made of it."""
    return 20 if keras.backend.backend() == "torch" else 0


class Dealt(NamedTuple):
    """Where batches are dealt to the cores, to be computed at once: XLA keeps one core busy with small products, in which it
    computes all members, and in loops over chunks of them.

    Attributes:
        rows: How many rows a core takes at a time, at most.
        least: How many numbers a layer of one member gives for them at least, or a call for each costs too much.
        all: How many numbers a layer of all members should give for them; a core takes more rows for it.
        large: Of how many multiplications a member's product is at least, where a core takes all its rows at once: XLA
            splits products of a medium size, which takes longer than it saves.
        chunk: As that of `Cached`, for one core; None: the same.
        product: Of how many multiplications for a batch a member's product may be at most: larger ones XLA deals itself.
    """

    rows: int
    least: int
    chunk: int | None = None
    product: float = math.inf
    all: int = 0
    large: float = math.inf


class Cached(NamedTuple):
    """What stays in the caches of a CPU.

    Attributes:
        chunk: How many numbers a layer may give for a chunk of members, with the chunk's weights.
        whole: How many it may give for all members, beside a part for the copies of weights, before these are cut into
            chunks.
        members: How many a chunk should have at least; batches are made smaller for it.
        rows: For how many chunks pay, at least.
        batch: How many numbers a layer may give for the smallest chunk of a batch; None: as many as `chunk`.
        few: Of so many members at most a chunk is not worth its while: then they run one by one.
        beside: How many chunks a step of the loop over them computes.
        copies: How many numbers out of the caches cost what the copy of a weight for its chunk does.
        shared: Whether the cores share the members of a chunk.
        dealt: Where rows too many for `whole` are dealt to the cores, else None.
        fused: Up to how many rows XLA is to compute products together with what is around them.
    """

    chunk: int
    whole: int
    members: int
    rows: int
    batch: int | None = None
    few: int = 0
    beside: int = 1
    copies: float = 1 / 8
    shared: bool = False
    dealt: Dealt | None = None
    fused: int = 0


def cached(model):
    """What stays in the caches, measured by `benchmarks/batch_sizes.py`; None on a GPU, which has none of that size.

    Chunks cost a copy of their weights on TensorFlow and JAX. On torch they cost calls, and gain sooner: it writes down what
    the compilers of the others fuse. TensorFlow's graphs run chunks beside each other, one on each core; JAX the
    convolutions of a chunk. Where a row has many places, of an image or a text, one member keeps the cores busy: rows gain
    more than members. What a recurrent layer on JAX holds from step to step should stay in the caches, with its weights.
    """
    if not on_cpu():
        return None
    backend = keras.backend.backend()
    return next(table[backend] for names, table in _CACHED if backend in table and _has(model, *names))


def cores():
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def settings_of_thread():
    """What scopes such as `with jax.default_matmul_precision("float32")` set, in the thread that they are in alone."""
    if keras.backend.backend() != "jax":
        return None
    import jax

    return jax.config.values


def batch_numbers():
    """How many numbers a layer may give for one batch of all members, where members are not computed in chunks."""
    return _CPU_NUMBERS[keras.backend.backend()] if on_cpu() else 2**26


def free_memory():
    """Bytes that the device has free, or None where nothing tells."""
    backend = keras.backend.backend()
    return _free_on_host() if on_cpu() else _FREE_ON_DEVICE[backend]()


def _free_on_host():
    try:
        with open("/proc/meminfo") as lines:  # what could be freed counts too
            return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None


def _free_by_jax():
    import jax

    stats = jax.devices()[0].memory_stats() or {}
    return stats["bytes_limit"] - stats["bytes_in_use"] if "bytes_limit" in stats else None


def _free_by_torch():
    import torch

    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None


_FREE_ON_DEVICE = {"jax": _free_by_jax, "torch": _free_by_torch, "tensorflow": lambda: None}


# ---- any backend ----


def _syncing(model):
    """A function that brings the weights to the variables: on JAX they are elsewhere in the middle of `fit`."""
    trained = model.packed() if hasattr(model, "packed") else model
    return getattr(trained, "jax_state_sync", lambda: None)


def _eager(call, arrays):
    lock, sync = threading.Lock(), _syncing(call.model)  # layers may set attributes as they run

    def run(arrays):
        sync()
        with lock, _without_gradients():
            return _numpy(call.unrolled([ops.convert_to_tensor(a) for a in arrays]))

    return run


def _numpy(tensors):
    return list(map(ops.convert_to_numpy, tensors))


def _without_gradients():
    if keras.backend.backend() == "torch":
        import torch

        return torch.inference_mode()
    return keras.name_scope("predictor")


# ---- TensorFlow ----


def _tensorflow(call, arrays, xla):
    """A concrete function of flat arguments: calling a `tf.function`, or one of nested arguments, takes longer.

    Without XLA the chunks of members stand side by side in it, as TensorFlow runs them on several cores.
    """
    import tensorflow as tf

    def spec(a):
        a = tf.constant(a)
        return tf.TensorSpec(a.shape if xla else (None, *a.shape[1:]), a.dtype)

    flat = call if xla or call.num_chunks > MOST_SIDE_BY_SIDE else call.unrolled
    function = tf.function(lambda *tensors: flat(tensors), jit_compile=xla, autograph=False)
    concrete = function.get_concrete_function(*map(spec, arrays))
    return lambda arrays: _numpy(concrete(*map(tf.constant, arrays)))


# ---- JAX ----


def _jax(call, arrays):
    import jax

    sync = _syncing(call.model)
    sync()
    pure, rows, caches = PureCall(call), len(arrays[0]), cached(call.model)
    jit = _jit_fused() if caches and rows <= caches.fused else jax.jit
    function = jit(pure)
    is_steady = call.is_steady and on_cpu() and SteadyCall.pays(pure, rows)
    steady = SteadyCall(pure, jit) if is_steady else None

    def values():
        sync()
        return pure.values()

    _, updates = jax.eval_shape(steady.function, arrays) if steady else jax.eval_shape(function, values(), arrays)
    if updates:  # the model assigns variables as it predicts
        return lambda arrays: _numpy(pure.assign(function(values(), arrays)))
    watch = _Watch()

    def run(arrays):  # in microseconds, of which each counts where a program takes fifty
        nonlocal steady
        sync()
        known = steady
        if known and not known.serves():
            known = steady = None
        outputs, _ = known.function(arrays) if known else function(pure.values(), arrays)
        if not outputs[-1].is_ready():
            watch(outputs[-1])
        return [np.array(y) for y in outputs]

    return run


@functools.cache
def _jit_fused():
    """`jax.jit` that has XLA's library for CPUs compute products with the biases and activations around them in one pass.

    As it comes XLA gives that library products alone, and reductions with all before them. Where this version of XLA knows
    no such option, it is `jax.jit` itself.
    """
    import jax

    fused = functools.partial(jax.jit, compiler_options={"xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_DOT"})
    try:
        fused(lambda: 0.0)()
    except jax.errors.JaxRuntimeError:
        return jax.jit
    return fused


class _Watch:
    """Waits with open eyes where the last answer came soon: to sleep and to be woken takes longer than a small program.

    It looks for a fraction of a millisecond at most, and lets other threads have the core between two looks.
    """

    looks = 200  # about as many microseconds
    soon = 2e-4  # seconds

    def __init__(self):
        self._is_worth_it = True

    def __call__(self, array):
        is_ready = array.is_ready
        for _ in range(self.looks if self._is_worth_it else 1):
            if is_ready():
                return
            _let_others()
        start = time.perf_counter()
        array.block_until_ready()
        self._is_worth_it = time.perf_counter() - start < self.soon


_let_others = getattr(os, "sched_yield", lambda: None)


# ---- torch ----


def _torch(call, arrays, inductor):
    """The operations of torch alone, one after another, as a call of the model left them: no layer of Keras is run again.

    Chunks are slices of the weights, which cost nothing: one program runs for each of them.
    """
    import torch

    keep_freed_memory()
    pure, chunks = PureCall(call), call.chunks
    device = ops.zeros(()).device

    def on_device(arrays):
        return [torch.as_tensor(a if a.flags.writeable else a.copy(), device=device) for a in arrays]

    def pieces(arrays):
        tensors = on_device(arrays)
        if chunks is None:
            return [(pure.values(), tensors)]
        values = [v.value for v in chunks.variables]
        return [(chunks.weights(values, start), chunks.inputs(tensors, start)) for start in chunks.starts]

    flat = pure if chunks is None else lambda values, tensors: call.part(tensors, values)
    with torch.inference_mode():
        function = _traced(flat, *pieces(arrays)[0], inductor)

    def run(arrays):
        with torch.inference_mode():
            results = [function(*values, *tensors) for values, tensors in pieces(arrays)]
            return _numpy(pure.assign(results[0]) if chunks is None else call.joined(results))

    return run


def _traced(flat, values, tensors, inductor):
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    from keras_multiweight.prediction.inplace import write_in_place

    traced = make_fx(lambda *flattened: flat(flattened[: len(values)], flattened[len(values) :]))(*values, *tensors)
    return torch.compile(traced, dynamic=False) if inductor else write_in_place(traced).forward


_EAGER = Way("eager", False, False, _eager)
_GRAPH = Way("graph", False, False, functools.partial(_tensorflow, xla=False))
_XLA = Way("XLA", True, True, functools.partial(_tensorflow, xla=True))
_JIT = Way("jit", True, True, _jax)
_TRACED = Way("traced", True, False, functools.partial(_torch, inductor=False))
_INDUCTOR = Way("torch.compile", True, True, functools.partial(_torch, inductor=True))

_WAYS = {  # by whether to compile
    "tensorflow": {True: (_XLA, _GRAPH), False: (_GRAPH,)},
    "jax": {True: (_JIT, _EAGER), False: (_EAGER,)},
    "torch": {True: (_INDUCTOR, _TRACED, _EAGER), False: (_TRACED, _EAGER)},
}

_ALONE = Dealt(512, 2**13, chunk=2**15, product=5 * 2**20, all=2**20, large=2**23)  # one member after another

_CONV_ON_JAX = Cached(2**21, 2**20, 1, 16, batch=2**19, few=4, dealt=Dealt(128, 2**16))

_CACHED = (  # what the names of a model's layers contain, and by backend what stays in the caches: the first counts
    (("Depthwise", "Separable"), {"jax": _CONV_ON_JAX._replace(fused=256)}),
    (
        ("Conv",),
        {
            "tensorflow": Cached(2**19, 2**18, 1, 1, copies=0),
            "jax": _CONV_ON_JAX,
            "torch": Cached(2**20, 2**19, 2, 16),
        },
    ),
    (
        ("Attention",),
        {
            "tensorflow": Cached(2**19, 2**20, 1, 16, dealt=Dealt(512, 2**17)),
            "jax": Cached(2**19, 2**20, 1, 16, beside=2, dealt=Dealt(128, 2**15)),
            "torch": Cached(2**20, 2**19, 2, 16),
        },
    ),
    (("LSTM", "GRU", "RNN"), {"jax": Cached(2**14, 2**12, 1, 16, batch=2**19, dealt=Dealt(128, 2**10))}),
    (
        ("",),
        {
            "tensorflow": Cached(2**20, 2**20, 2, 16, dealt=_ALONE),
            "jax": Cached(2**20, 2**20, 2, 16, dealt=_ALONE, fused=256),
            "torch": Cached(2**20, 2**20, 4, 16, shared=True),
        },
    ),
)
_CPU_NUMBERS = {"tensorflow": 2**22, "jax": 2**22, "torch": 2**21}
