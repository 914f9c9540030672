"""Layers that cannot hold members, or only if asked to: refused by name, with the way out."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from keras import ops

import keras_multiweight as kmw

BACKEND = keras.backend.backend()


def model_of(*layers, shape=(4, 3), batch_size=None):
    return keras.Sequential([keras.Input(shape, batch_size=batch_size), *layers])


@pytest.mark.parametrize(
    "make",
    [
        lambda: k.LSTM(2, stateful=True),
        lambda: k.RNN(k.GRUCell(2), stateful=True),
        lambda: k.Bidirectional(k.GRU(2, stateful=True)),
    ],
    ids=["lstm", "rnn", "bidirectional"],
)
def test_a_stateful_recurrent_layer_is_refused(make):
    with pytest.raises(ValueError, match=r"stateful recurrent layer .* Received: .* Pass the states as inputs and outputs"):
        kmw.pack([model_of(make(), batch_size=3)], verify=False)


def test_a_layer_with_lora_is_refused():
    model = model_of(k.Dense(3, name="adapted"))
    model.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match=r"quantized or LoRA .* Received: .*adapted.* merge its LoRA weights first"):
        kmw.pack([model])


def test_a_quantized_layer_is_refused():
    model = model_of(k.EinsumDense("abc,cd->abd", (None, 4), name="small"))
    model.layers[0].quantize("int8")
    with pytest.raises(ValueError, match=r"quantized or LoRA .* Received: .*small.* Pack the model before it is quantized"):
        kmw.pack([model], verify=False)


def doubled(x):
    return x * 2.0


@keras.saving.register_keras_serializable("tests")
def known(x):
    return ops.sin(x) - ops.mean(x, axis=0)


def with_lambda(function):
    inputs = keras.Input((3,))
    x = k.Lambda(function, name="mine")(k.Dense(3)(inputs))
    return keras.Model(inputs, k.Dense(2)(x))


@pytest.mark.parametrize("function", [doubled, lambda x: x * 3.0], ids=["function", "lambda"])
def test_a_lambda_layer_is_packed_only_if_it_is_trusted(function):
    models = oracle.members(lambda: with_lambda(function))
    with pytest.raises(ValueError, match=r"Received: 'mine'. Pass pack\(..., safe_mode=False\), register its function"):
        kmw.pack(models)
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    expected = oracle.stacked_predictions(models, x, 5)[0]
    oracle.assert_close(kmw.pack(models, safe_mode=False).predict(x), expected)


def test_a_lambda_layer_of_a_registered_function_packs():
    models = oracle.members(lambda: with_lambda(known))
    x = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    oracle.assert_close(kmw.pack(models).predict(x), oracle.stacked_predictions(models, x, 5)[0])


def test_lambda_layers_that_compute_other_things_are_told_apart():
    with pytest.raises(kmw.IncompatibleModelsError, match="mine"):
        kmw.pack([with_lambda(lambda x: x * 2.0), with_lambda(lambda x: x * 3.0)], safe_mode=False)


def test_a_lambda_layer_in_a_file_is_packed_only_as_a_model_that_the_user_loaded(tmp_path):
    path = str(tmp_path / "member.keras")
    with_lambda(lambda x: x * 2.0).save(path)
    for safe_mode in (True, False):
        with pytest.raises(ValueError, match=r"Lambda.*load it yourself.*pack\(models, safe_mode=False\)"):
            kmw.pack([path], safe_mode=safe_mode)
    model = keras.models.load_model(path, safe_mode=False)
    assert kmw.pack([model], safe_mode=False).num_members == 1


def foreign_layer(folder):
    """A layer around code of the backend's own framework."""
    if BACKEND == "torch":
        import torch

        return k.TorchModuleWrapper(torch.nn.Linear(3, 2), output_shape=(None, 2))
    if BACKEND == "jax":
        return k.JaxLayer(lambda params, inputs: inputs * params, params=np.ones((3,), "float32"))
    model_of(k.Dense(2), shape=(3,)).export(str(folder), verbose=False)
    return k.TFSMLayer(str(folder), call_endpoint="serve")


def test_a_layer_of_another_framework_is_refused(tmp_path):
    layer = foreign_layer(tmp_path / "exported")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, layer(inputs))
    with pytest.raises(ValueError, match=rf"A {type(layer).__name__} layer cannot be packed. Received: '{layer.name}'"):
        kmw.pack([model], verify=False)
