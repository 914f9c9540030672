"""Random Functional graphs of the table's layers, packed, against the loop over members.

A graph is drawn as a `Recipe`: lines of code. A recipe that fails is printed as such, ready to be run.
"""

import re

import keras
import numpy as np
import oracle
import pytest
from hypothesis import HealthCheck, Phase, assume, given, reject, settings
from hypothesis import strategies as st
from keras import layers as k  # noqa: F401  for the lines of a recipe
from keras import (
    ops,  # noqa: F401  for the lines of a recipe
    tree,
)

import keras_multiweight as kmw

ROWS, BATCH_SIZE = 5, 3
SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "print_blob": False}

# What may follow a tensor of rank 2 to 4, rows included. `{c}` is its channels, `{x}` the tensor itself.
LAYERS = {
    2: [
        "k.Dense(3, activation='relu')", "k.Dense({c})", "k.Dense(4, activation='softmax', use_bias=False)",
        "k.BatchNormalization()", "k.LayerNormalization()", "k.RMSNormalization()", "k.UnitNormalization()", "k.PReLU()",
        "k.Dropout(0.3)", "k.ELU()", "k.Softmax()", "k.Activation('swish')", "k.RepeatVector(3)", "k.Reshape(({c}, 1))",
        "k.GaussianNoise(0.2)", "k.Rescaling(0.5, offset=1.0)", "k.LeakyReLU()", "k.EinsumDense('ab,bc->ac', 3)",
    ],
    3: [
        "k.Dense(3, activation='tanh')", "k.Conv1D(3, 2, padding='same')", "k.Conv1D({c}, 3, padding='causal')",
        "k.DepthwiseConv1D(2, padding='same')", "k.SeparableConv1D(3, 2, padding='same')", "k.LSTM(3)",
        "k.GRU(3, return_sequences=True)", "k.SimpleRNN({c}, return_sequences=True)", "k.Bidirectional(k.GRU(2))",
        "k.TimeDistributed(k.Dense(2))", "k.BatchNormalization()", "k.LayerNormalization()", "k.GroupNormalization(1)",
        "k.GlobalAveragePooling1D()", "k.GlobalMaxPooling1D()", "k.AveragePooling1D(2, padding='same')", "k.Flatten()",
        "k.MaxPooling1D(2, padding='same')", "k.UpSampling1D(2)", "k.ZeroPadding1D(1)", "k.Cropping1D((0, 1))",
        "k.SpatialDropout1D(0.2)", "k.Permute((2, 1))", "k.Softmax(axis=1)", "k.PReLU(shared_axes=[1])", "k.ReLU()",
        "k.Masking()", "k.Conv1DTranspose(2, 2, strides=2)", "k.Reshape((-1, {c}, 1))", "k.Activation('gelu')",
        "k.EinsumDense('abc,cd->abd', (None, 2), bias_axes='d')",
    ],
    4: [
        "k.Conv2D(3, 3, padding='same', activation='relu')", "k.Conv2D({c}, 2, padding='same', use_bias=False)",
        "k.Conv2D(4, 2, strides=2, padding='same', activation='softmax')", "k.DepthwiseConv2D(2, padding='same')",
        "k.SeparableConv2D(3, 2, padding='same')", "k.Conv2DTranspose(2, 2, strides=2)", "k.Dense(3, activation='elu')",
        "k.BatchNormalization()", "k.BatchNormalization(axis=1)", "k.LayerNormalization()", "k.GroupNormalization(1)",
        "k.ReLU(max_value=2.0)", "k.PReLU()", "k.Softmax()", "k.SpatialDropout2D(0.2)", "k.Activation('log_softmax')",
        "k.GlobalAveragePooling2D()", "k.GlobalMaxPooling2D(keepdims=True)", "k.AveragePooling2D(2, padding='same')",
        "k.MaxPooling2D(2, padding='same')", "k.UpSampling2D(2)", "k.ZeroPadding2D(1)", "k.Cropping2D(((0, 1), (0, 0)))",
        "k.Flatten()", "k.Reshape((-1, {c}))", "k.Permute((2, 1, 3))", "k.ConvLSTM1D(2, 2, padding='same')",
    ],
}  # fmt: skip
OPERATIONS = [
    "ops.relu({x}) * 2.0", "{x} - ops.mean({x}, axis=-1, keepdims=True)", "ops.softmax({x}, axis=-1)", "1.0 - {x}",
    "{x} / (1.0 + ops.abs({x}))", "ops.flip({x}, axis=-1)", "ops.concatenate([{x}, ops.sin({x})], axis=-1)",
    "ops.cumsum({x}, axis=1)", "ops.where({x} > 0, {x}, -0.5)", "{x}[..., :1]", "{x}[:, ::-1]", "ops.max({x}, axis=1)",
    "ops.swapaxes({x}, 1, -1)", "ops.sum({x}, axis=-1, keepdims=True) + {x}", "ops.ones_like({x}) * {x}",
    "ops.clip({x}, -1.0, 1.0)", "ops.expand_dims({x}, 1)", "ops.sort({x}, axis=-1)", "ops.roll({x}, 1, axis=-1)",
]  # fmt: skip
MERGES = [
    "k.Add()([{x}, {y}])", "k.Multiply()([{x}, {y}])", "k.Maximum()([{x}, {y}])", "k.Average()([{y}, {x}])", "{x} - {y}",
    "k.Concatenate()([{x}, {y}])", "ops.maximum({x}, {y})", "ops.stack([{x}, {y}], axis=1)",
]  # fmt: skip
JOINS = {
    3: ["k.Attention()([{x}, {y}])", "k.MultiHeadAttention(2, 2)({x}, {y})", "k.AdditiveAttention()([{x}, {y}])"],
    4: [],
    2: ["k.Dot(1)([{x}, {y}])"],
}
INPUTS = ["(3,)", "(4, 3)", "(4, 4, 2)"]
MOST = 400  # numbers a row, or a graph of growing layers takes for ever


class Recipe:
    """A graph as lines of code; each line gives the next tensor, `t0`, `t1`, ..."""

    def __init__(self, seed):
        self.seed = seed
        self.lines = []
        self.names = []
        self.outputs = []

    def build(self):
        """The model of the lines, with fresh layers."""
        scope = {}
        exec(self.code(), globals(), scope)
        return scope["model"]

    def code(self):
        inputs = ", ".join(self.names)
        return "\n".join([*self.lines, f"model = keras.Model([{inputs}], [{', '.join(self.outputs)}])"])

    def __repr__(self):
        return f"Recipe, with weights of seed {self.seed}:\n\n{self.code()}\n"


@st.composite
def recipes(draw):
    """Draw a graph; each line is run as it is drawn, and left out where Keras itself refuses it."""
    recipe, scope, tensors, layers = Recipe(draw(st.integers(0, 99))), {}, [], []

    def add(name, expression):
        line = f"{name} = {expression}"
        try:
            exec(line, globals(), scope)
        except Exception:  # Keras does not know this join of shapes
            return False
        value = scope[name]
        if isinstance(value, keras.KerasTensor):
            if not _usable(value):
                return False
            tensors.append(name)
        recipe.lines.append(line)
        return True

    for shape in draw(st.lists(st.sampled_from(INPUTS), min_size=1, max_size=3)):
        recipe.names.append(f"t{len(tensors)}")
        add(f"t{len(tensors)}", f"keras.Input({shape})")
    for step in range(draw(st.integers(3, 12))):
        x = draw(st.sampled_from(tensors[-3:]))
        tensor = scope[x]
        alike = [name for name in tensors if len(scope[name].shape) == len(tensor.shape)]
        kind = draw(st.sampled_from(["layer"] * 6 + ["operation"] * 2 + ["merge"] * 3 + ["join", "again", "again", "model"]))
        layer = draw(st.sampled_from(LAYERS[len(tensor.shape)])).format(c=tensor.shape[-1])
        name = f"t{len(tensors)}"
        if kind == "layer":
            if add(f"layer{step}", layer) and add(name, f"layer{step}({x})"):
                layers.append(f"layer{step}")
        elif kind == "operation":
            add(name, draw(st.sampled_from(OPERATIONS)).format(x=x))
        elif kind in ("merge", "join"):
            choice = MERGES if kind == "merge" else JOINS[len(tensor.shape)] or MERGES
            add(name, draw(st.sampled_from(choice)).format(x=x, y=draw(st.sampled_from(alike))))
        elif kind == "again" and layers:
            add(name, f"{draw(st.sampled_from(layers))}({x})")
        elif kind == "model":
            inner = draw(st.sampled_from(["keras.Sequential([keras.Input({s}), {l}])", "keras.Sequential([keras.Input({s}), "
                                          "k.Dense({c}, activation='tanh'), {l}])"]))  # fmt: skip
            if add(f"layer{step}", inner.format(s=tuple(tensor.shape[1:]), l=layer, c=tensor.shape[-1])):
                layers.append(f"layer{step}")
                add(name, f"layer{step}({x})")
    used = set(re.findall(r"t\d+", "\n".join(line.split(" = ", 1)[1] for line in recipe.lines)))
    recipe.outputs = [name for name in tensors if name not in used and name not in recipe.names]
    recipe.names = [name for name in recipe.names if name in used]
    assume(recipe.outputs)
    return recipe


def _usable(x):
    return x.shape[0] is None and None not in x.shape[1:] and 2 <= len(x.shape) <= 4 and np.prod(x.shape[1:]) <= MOST


def check(recipe):
    keras.utils.clear_session()
    models = [oracle.randomized(recipe.build(), recipe.seed + i) for i in range(3)]
    rng = np.random.default_rng(recipe.seed)
    x = [rng.normal(size=(ROWS, *tensor.shape[1:])).astype("float32") for tensor in models[0].inputs]
    try:
        expected = oracle.stacked_predictions(oracle.each_in(models[0], models), x, BATCH_SIZE)
    except Exception:  # Keras builds some graphs that it cannot run, such as a Sequential on other shapes than its own
        reject()
    received = tree.flatten(kmw.pack(models, verify=False).predict(x, batch_size=BATCH_SIZE))
    for got, wanted in zip(received, expected, strict=True):
        oracle.assert_close(got, wanted, tolerance=1e-4)


@settings(max_examples=6, derandomize=True, phases=[Phase.generate], **SETTINGS)
@given(recipes())
def test_random_graphs_pack(recipe):
    check(recipe)


@pytest.mark.slow
@settings(max_examples=300, **SETTINGS)
@given(recipes())
def test_hundreds_of_random_graphs_pack(recipe):
    check(recipe)
