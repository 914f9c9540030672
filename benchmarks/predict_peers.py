"""What `predict_speed.py` times a packed model against: each peer as a function from NumPy arrays to NumPy arrays.

A peer is `peer(models, x) -> call`, with `call(x)` the answers of all models, `(B, N, ...)`; None where there is none.
"""

import os
import tempfile

import keras
import numpy as np
from keras import ops, tree

from keras_multiweight.prediction import Predictor

MOST_BRANCHES = 50  # models side by side: more take minutes to trace
BACKEND = keras.backend.backend()


def loop(models, x):
    """One compiled program a member, called one after another."""
    asks = [Predictor(model) for model in models]
    return lambda x: np.stack([ask(x) for ask in asks], axis=1)


def branches(models, x):
    """The models side by side on the same inputs, in one Functional model, compiled."""
    if len(models) > MOST_BRANCHES:
        return None
    ask = Predictor(_joined(models))
    return lambda x: np.stack(ask(x), axis=1)


def _joined(models):
    inputs = [keras.Input(i.shape[1:], dtype=i.dtype) for i in models[0].inputs]
    inputs = inputs if len(inputs) > 1 else inputs[0]
    return keras.Model(inputs, [model(inputs) for model in models])


def vmap(models, x):
    """One member's call, mapped over stacked weights by hand: `jax.jit(jax.vmap(...))`, `torch.vmap`."""
    mapped = {"jax": _jax_vmap, "torch": _torch_vmap}.get(BACKEND)
    return mapped and mapped(models)


def by_hand(models, x):
    """The arithmetic of the MLP written down for the backend, members first: on TensorFlow a concrete XLA function."""
    if BACKEND != "tensorflow" or not _is_mlp(models[0]):
        return None
    import tensorflow as tf

    stacked = [tf.Variable(np.stack(values)) for values in zip(*(model.get_weights() for model in models))]

    def answers(*x):
        h = tf.concat(x, -1)
        for kernel, bias in zip(stacked[::2], stacked[1::2]):
            h = tf.matmul(h, kernel) + bias[:, None]
            h = h if kernel is stacked[-2] else tf.nn.relu(h)
        return tf.transpose(h, (1, 0, 2))

    specs = [tf.TensorSpec(a.shape, a.dtype) for a in x]
    concrete = tf.function(answers, jit_compile=True, autograph=False).get_concrete_function(*specs)
    return lambda x: concrete(*map(tf.constant, x)).numpy()


def _is_mlp(model):
    return {type(layer).__name__ for layer in model.layers} == {"InputLayer", "Concatenate", "Dense"}


def _member_call(model):
    """The model as a function of its weights' values."""

    def call(values, x):
        with keras.StatelessScope(list(zip(model.variables, values))):
            return model(x, training=False)

    return call


def _stacked(models):
    pairs = zip(*(model.variables for model in models))
    return [ops.stack([ops.convert_to_tensor(v.value) for v in variables]) for variables in pairs]


def _jax_vmap(models):
    import jax

    stacked = _stacked(models)
    mapped = jax.jit(jax.vmap(_member_call(models[0]), in_axes=(0, None), out_axes=1))
    return lambda x: np.array(mapped(stacked, x))


def _torch_vmap(models):
    """`torch.func`: `stack_module_state` and `vmap` over `functional_call`, of plain torch modules where there are such."""
    import torch

    if not _is_mlp(models[0]):
        with torch.inference_mode():
            stacked = _stacked(models)
        mapped = torch.vmap(_member_call(models[0]), in_dims=(0, None), out_dims=1, randomness="different")
        return _torch_call(lambda x: mapped(stacked, x))
    modules = [_TorchMlp.of(model) for model in models]
    parameters, buffers = torch.func.stack_module_state(modules)

    def one(parameters, buffers, x):
        return torch.func.functional_call(modules[0], (parameters, buffers), (x,))

    mapped = torch.vmap(one, in_dims=(0, 0, None), out_dims=1)
    return _torch_call(lambda x: mapped(parameters, buffers, torch.cat(x, -1)))


def torch_compiled(models, x):
    """The `torch.func` map of plain torch modules, compiled by `torch.compile`."""
    if BACKEND != "torch" or not _is_mlp(models[0]):
        return None
    import torch

    modules = [_TorchMlp.of(model) for model in models]
    parameters, buffers = torch.func.stack_module_state(modules)

    def one(parameters, buffers, x):
        return torch.func.functional_call(modules[0], (parameters, buffers), (x,))

    compiled = torch.compile(torch.vmap(one, in_dims=(0, 0, None), out_dims=1), dynamic=False)
    return _torch_call(lambda x: compiled(parameters, buffers, torch.cat(x, -1)))


def onnx(models, x):
    """The branches in ONNX Runtime, exported by torch, on as many threads as there are cores to run on."""
    if BACKEND != "torch" or len(models) > MOST_BRANCHES or _has(models[0], "LSTM"):  # which exports for minutes
        return None
    import onnxruntime

    joined = _joined(models)
    joined(x)  # Keras exports models that were called
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "branches.onnx")
        joined.export(path, format="onnx", verbose=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # or its threads slow whoever comes next
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    return lambda x: np.stack(session.run(None, dict(zip(names, tree.flatten(x)))), axis=1)


def _has(model, class_name):
    return any(type(layer).__name__ == class_name for layer in model.layers)


def _torch_call(function):
    import torch

    def call(x):
        with torch.no_grad():
            return function(tree.map_structure(torch.from_numpy, x)).numpy()

    return call


class _TorchMlp:
    """A plain torch module with the weights of an MLP."""

    @staticmethod
    def of(model):
        import torch

        parts = []
        weights = [torch.from_numpy(w) for w in model.get_weights()]
        for kernel, bias in zip(weights[::2], weights[1::2]):
            linear = torch.nn.Linear(*kernel.shape)
            linear.weight.data, linear.bias.data = kernel.T.contiguous(), bias
            parts += [linear, torch.nn.ReLU()]
        return torch.nn.Sequential(*parts[:-1])


def gemm_rate(seconds):
    """A function without arguments that multiplies two square matrices as the backend does, and its operations."""
    size = 2048
    a = ops.convert_to_tensor(np.random.default_rng(0).normal(size=(size, size)).astype("float32"))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        multiply = tf.function(lambda: tf.matmul(a, a))
    elif BACKEND == "jax":
        import jax

        jitted = jax.jit(lambda a: a @ a)
        multiply = lambda: jitted(a).block_until_ready()  # noqa: E731
    else:
        multiply = lambda: a @ a  # noqa: E731
    return 2 * size**3 / seconds(multiply)


PEERS = {
    "loop of compiled calls": loop,
    "branches, compiled": branches,
    "vmap": vmap,
    "by hand": by_hand,
    "vmap, torch.compile": torch_compiled,
    "ONNX Runtime": onnx,
}
