"""The ways to run a model on arrays: the one place of prediction for code of a single backend.

All read the model's weights at each call, and hold nothing of their values.
"""

import functools
import threading
from collections.abc import Callable
from typing import NamedTuple

import keras
from keras import ops, tree

from keras_multiweight.copies import all_layers
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.lowerings import on_cpu
from keras_multiweight.layers.mapping import StatelessCall, constants_from_weights
from keras_multiweight.prediction.batches import put_together


class Way(NamedTuple):
    """A way to run a model.

    Attributes:
        name: What `repr` calls it.
        fixed_rows: Whether a program serves one number of rows only.
        build: `build(call, arrays) -> run`: from a `ModelCall` and example arrays a function from a list of such arrays to
            the list of output tensors. Thread-safe once it has run.
    """

    name: str
    fixed_rows: bool
    build: Callable


class ModelCall:
    """A model as a function from a list of tensors to a list of tensors.

    Args:
        model: A Keras model.
        form: The structure that the model is called with, as `Arrays.form`.

    Attributes:
        structure: The nesting of the model's outputs, known once it has been called.
    """

    def __init__(self, model, form):
        self.model = model
        self.form = form
        self.structure = None

    def __call__(self, tensors):
        with constants_from_weights(self.model):
            outputs = self.model(put_together(self.form, iter(tensors)), training=False)
        self.structure = tree.map_structure(lambda _: 0, outputs)
        return tree.flatten(outputs)


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


def patience():
    """How many batches run as the model stands in the time in which a program is made of it."""
    return 20 if keras.backend.backend() == "torch" else 0


def batch_numbers():
    """How many numbers a layer may give for one batch, measured by `benchmarks/batch_sizes.py`.

    On a CPU what one layer gives and the next one takes should stay in the caches; torch keeps more of it, because it writes
    down what the compilers of the others fuse. On a GPU batches should be as large as the memory allows.
    """
    return _CPU_NUMBERS[keras.backend.backend()] if on_cpu() else 2**26


# ---- any backend ----


def _eager(call, arrays):
    lock = threading.Lock()  # layers may set attributes as they run

    def run(arrays):
        with lock, _without_gradients():
            return call([ops.convert_to_tensor(a) for a in arrays])

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

    stateless = _Stateless(call)
    function = jax.jit(stateless)

    def run(arrays):
        sync = getattr(call.model, "jax_state_sync", None)  # in the middle of `fit` the weights are elsewhere
        if sync:
            sync()
        return stateless.assign(function(stateless.values(), arrays))

    return run


# ---- torch ----


def _torch(call, arrays, inductor):
    """The operations of torch alone, one after another, as a call of the model left them: no layer of Keras is run again."""
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    stateless = _Stateless(call)
    count = len(stateless.variables)
    device = ops.zeros(()).device

    def flat(*tensors):
        return stateless(tensors[:count], tensors[count:])

    def inputs(arrays):
        return *stateless.values(), *(torch.as_tensor(a if a.flags.writeable else a.copy(), device=device) for a in arrays)

    with torch.inference_mode():
        traced = make_fx(flat)(*inputs(arrays))
        function = torch.compile(traced, dynamic=False) if inductor else traced.forward

    def run(arrays):
        with torch.inference_mode():
            return stateless.assign(function(*inputs(arrays)))

    return run


# ---- functions without side effects ----


class _Stateless:
    """A `ModelCall` as a function of the values of the model's variables too, for backends whose programs hold no variables.

    A call gives the outputs, and the new values of the variables that the model assigns when it predicts.
    """

    def __init__(self, call):
        self.variables = call.model.variables
        self._call = StatelessCall(call, self.variables)
        self._lock = threading.Lock()

    def values(self):
        """The values of the variables as they are now."""
        return [v.value for v in self.variables]

    def __call__(self, values, tensors):
        outputs, updates, _ = self._call([tensors, values])
        return outputs, updates

    def assign(self, results):
        """Assign the new values; returns the outputs."""
        outputs, updates = results
        if updates:
            with self._lock:
                for index, update in zip(self._call.assigned, updates):
                    self.variables[index].assign(update)
        return outputs


_EAGER = Way("eager", False, _eager)
_GRAPH = Way("graph", False, functools.partial(_tensorflow, xla=False))
_XLA = Way("XLA", True, functools.partial(_tensorflow, xla=True))
_JIT = Way("jit", True, _jax)
_TRACED = Way("traced", True, functools.partial(_torch, inductor=False))
_INDUCTOR = Way("torch.compile", True, functools.partial(_torch, inductor=True))

_WAYS = {  # by whether to compile
    "tensorflow": {True: (_XLA, _GRAPH), False: (_GRAPH,)},
    "jax": {True: (_JIT, _EAGER), False: (_EAGER,)},
    "torch": {True: (_INDUCTOR, _TRACED, _EAGER), False: (_TRACED, _EAGER)},
}

_CPU_NUMBERS = {"tensorflow": 2**22, "jax": 2**22, "torch": 2**21}
