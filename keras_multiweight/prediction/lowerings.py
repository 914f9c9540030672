"""The ways to run a model on arrays: the one place of prediction for code of a single backend.

All read the model's weights at each call, and hold nothing of their values.
"""

import functools
import threading
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import ops

from keras_multiweight.copies import all_layers
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.lowerings import on_cpu
from keras_multiweight.prediction.calls import PureCall


class Way(NamedTuple):
    """A way to run a model.

    Attributes:
        name: What `repr` calls it.
        fixed_rows: Whether a program serves one number of rows only.
        compiles: Whether a compiler beside the backend's own operations is at work.
        build: `build(call, arrays) -> run`: from a `ModelCall` or `ChunkedCall` and example arrays a function from a list of
            such arrays to the list of output tensors. Thread-safe once it has run.
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
    if jit_compile == "auto":
        jit_compile = backend == "jax" or (backend == "tensorflow" and not _convolves(model))
    return list(_WAYS[backend][bool(jit_compile)])


def _convolves(model):
    """Whether there are convolutions in a model: on CPUs XLA's are no faster than TensorFlow's own, grouped ones slower."""
    layers = [layer.template() if isinstance(layer, MultiLayer) else layer for layer in all_layers(model)]
    return any("Conv" in type(inner).__name__ for layer in layers for inner in all_layers(layer))


def worth_trying():
    """The values of `jit_compile` that `tune` tries: `torch.compile` takes long, and must be asked for."""
    return {"tensorflow": (True, False), "jax": (True,), "torch": (False,)}[keras.backend.backend()]


def patience():
    """How many batches run as the model stands in the time in which a program is made of it."""
    return 20 if keras.backend.backend() == "torch" else 0


def cached_numbers():
    """How many numbers all that is computed at once may be, measured by `benchmarks/batch_sizes.py`; None: do not mind.

    On a CPU what one layer gives and the next one takes should stay in the caches. A GPU has none of that size.
    """
    return 2**18 if on_cpu() else None


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


def _eager(call, arrays):
    lock = threading.Lock()  # layers may set attributes as they run

    def run(arrays):
        with lock, _without_gradients():
            return call.eagerly([ops.convert_to_tensor(a) for a in arrays])

    return run


def _without_gradients():
    if keras.backend.backend() == "torch":
        import torch

        return torch.inference_mode()
    return keras.name_scope("predictor")


# ---- TensorFlow ----


def _tensorflow(call, arrays, xla):
    """A concrete function of flat arguments: calling a `tf.function`, or one of nested arguments, takes longer."""
    import tensorflow as tf

    def spec(a):
        a = tf.constant(a)
        return tf.TensorSpec(a.shape if xla else (None, *a.shape[1:]), a.dtype)

    function = tf.function(lambda *tensors: call(tensors), jit_compile=xla, autograph=False)
    concrete = function.get_concrete_function(*map(spec, arrays))
    return lambda arrays: concrete(*map(tf.constant, arrays))


# ---- JAX ----


def _jax(call, arrays):
    import jax

    pure = PureCall(call)
    function = jax.jit(pure)

    def run(arrays):
        sync = getattr(call.model, "jax_state_sync", None)  # in the middle of `fit` the weights are elsewhere
        if sync:
            sync()
        return pure.assign(function(pure.values(), arrays))

    return run


# ---- torch ----


def _torch(call, arrays, inductor):
    """The operations of torch alone, one after another, as a call of the model left them: no layer of Keras is run again.

    Chunks are slices of the weights, which cost nothing: one program runs for each of them.
    """
    import torch

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
            return pure.assign(results[0]) if chunks is None else call.joined(results)

    return run


def _traced(flat, values, tensors, inductor):
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    traced = make_fx(lambda *flattened: flat(flattened[: len(values)], flattened[len(values) :]))(*values, *tensors)
    return torch.compile(traced, dynamic=False) if inductor else traced.forward


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

_CPU_NUMBERS = {"tensorflow": 2**22, "jax": 2**22, "torch": 2**21}
