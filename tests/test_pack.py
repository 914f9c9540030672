"""Packed models against the loop over members, for every case."""

import keras
import numpy as np
import oracle
import pytest
from cases import CASES
from keras import layers as k
from keras import tree

import keras_multiweight as kmw
from keras_multiweight.copies import all_layers, matching_weights
from keras_multiweight.packing import table
from keras_multiweight.packing.verify import random_inputs

ROWS, BATCH_SIZE, MEMBERS = 7, 3, 3
TOLERANCE = {"float64": 1e-12, "float32": oracle.TOLERANCE, "float16": 2**-7, "bfloat16": 2**-4}  # 8 roundings of a half
NOT_IN_CASES = {k.Lambda, k.FlaxLayer, k.JaxLayer, k.TFSMLayer, k.TorchModuleWrapper}  # refused, in test_bad_input.py
if keras.backend.backend() != "tensorflow":  # the others have no tensors of strings
    NOT_IN_CASES |= {k.StringLookup, k.TextVectorization}
if keras.backend.backend() == "jax":  # Keras's own models with boxes do not compile
    NOT_IN_CASES |= {k.MaxNumBoundingBoxes}


@pytest.fixture(scope="module", params=CASES)
def packed(request):
    """The members, their pack, and inputs of one case."""
    keras.utils.clear_session()
    models = oracle.members(CASES[request.param], MEMBERS)
    return models, kmw.pack(models, verify=False), inputs_for(models[0])  # what `verify` does, the tests do


def inputs_for(model):
    batch = [random_inputs(model, size=8, seed=seed) for seed in range(ROWS)]
    return tree.map_structure(lambda *rows: np.concatenate([keras.ops.convert_to_numpy(r) for r in rows])[:ROWS], *batch)


def a_batch_of(x):
    return tree.map_structure(lambda rows: rows[:BATCH_SIZE], x)


def tolerance_of(model, passes=1):
    """That of the coarsest dtype that a model computes in; halves round in each pass, forward and back."""
    named = {layer.compute_dtype for layer in all_layers(model)} & set(TOLERANCE)
    dtypes = map(keras.backend.result_type, named)  # which is float32 for float64 on JAX and torch
    return max(TOLERANCE[dtype] * (passes if "16" in dtype else 1) for dtype in dtypes)


def test_predictions_equal_each_members_own(packed):
    models, multi, x = packed
    expected = oracle.stacked_predictions(oracle.each_in(models[0], models), x, BATCH_SIZE)
    predicted = multi.predict(x, batch_size=BATCH_SIZE)
    tree.assert_same_structure(predicted, models[0].predict_on_batch(a_batch_of(x)))
    for output, (received, wanted) in enumerate(zip(tree.flatten(predicted), expected, strict=True)):
        oracle.assert_close(received, wanted, f"output {output}", tolerance_of(multi))


def test_gradients_equal_each_members_own(packed):
    models, multi, x = packed
    x, rng = a_batch_of(x), np.random.default_rng(0)
    weights = [rng.normal(size=y.shape).astype("float32") for y in tree.flatten(multi.predict(x))]
    x = tree.map_structure(keras.ops.convert_to_tensor, x)
    tolerance = tolerance_of(multi, passes=2)
    packed_gradients, single = oracle.Gradients(multi)(x, weights), oracle.Gradients(models[0])
    for i, model in enumerate(oracle.each_in(models[0], models)):
        own = single(x, [w[:, i] for w in weights])
        scale = max((np.abs(g).max() for g in own.values()), default=1.0)  # some are zero but for rounding
        for weight, (layer, index) in zip(model.weights, multi.weight_places()):
            if id(weight) in own:
                stacked = packed_gradients[id(multi.get_layer(layer).stacked_weights[index])]
                received = np.reshape(stacked, (MEMBERS, *weight.shape))[i]
                where = f"member {i}, {weight.path}"
                oracle.assert_close(received, own[id(weight)], where, tolerance, scale=scale)


def test_members_come_out_bit_equal(packed):
    models, multi, _ = packed
    for model, member in zip(models, kmw.unpack(multi), strict=True):
        for before, after in zip(matching_weights(model, member), member.weights, strict=True):
            np.testing.assert_array_equal(before.numpy(), after.numpy())


def test_a_saved_pack_predicts_the_same_bits(packed, tmp_path):
    _, multi, x = packed
    oracle.assert_saves_the_same(multi, a_batch_of(x), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_packing_verifies_itself(name):
    keras.utils.clear_session()
    kmw.pack(oracle.members(CASES[name], MEMBERS))


def layers_of(build):
    """The classes of the layers of a case, those within others included."""
    return {type(layer) for layer in all_layers(build())}


def test_every_layer_of_the_table_has_a_case():
    keras.utils.clear_session()
    covered = set().union(*map(layers_of, CASES.values()))
    missing = {cls for classes in table.LAYERS.values() for cls in classes} - covered - NOT_IN_CASES
    assert not {cls.__name__ for cls in missing}


def test_every_public_layer_has_a_rule_or_a_reason():
    public = {x for x in vars(k).values() if isinstance(x, type) and issubclass(x, k.Layer)}
    named = [cls for classes in (*table.LAYERS.values(), *table.NO_LAYERS_OF_A_GRAPH.values()) for cls in classes]
    assert len(public) > 140
    assert not {cls.__name__ for cls in public - set(named)}
    assert len(named) == len(set(named))
