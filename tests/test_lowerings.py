"""Every lowering of every layer against the loop over members, and how layers choose among them."""

import importlib.resources
import json

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from keras import ops

import keras_multiweight as kmw
from keras_multiweight.layers import MultiConv2D, MultiDense, MultiLayer, costs
from keras_multiweight.layers.lowerings import batched_matmul, gradients_in_order

ROWS, MEMBERS = 4, 3
VALUES = 3 if keras.backend.backend() == "jax" else 2  # Keras's own layer takes no other size than that of the keys on JAX
TOLERANCE = {"float32": oracle.TOLERANCE, "mixed_bfloat16": 2**-3}  # halves round in each of several layers, and back


def products(dtype):
    inputs = keras.Input((6, 4))
    x = k.Dense(5, activation="tanh", dtype=dtype)(inputs)  # on a shared input, then on each member's own
    return keras.Model(inputs, k.Dense(3, activation="softmax", dtype=dtype)(x))


def convolutions(dtype):
    inputs = keras.Input((7, 6, 2))
    x = k.Conv2D(4, 3, padding="same", activation="relu", dtype=dtype)(inputs)
    x = k.Conv2D(4, 1, dtype=dtype)(x)
    y = k.Conv2D(3, (2, 3), strides=2, padding="same", dtype=dtype)(x)
    outputs = [
        k.Conv2D(3, (3, 2), padding="same", activation="softmax", dtype=dtype)(x),
        k.Conv2D(4, 3, groups=2, use_bias=False, dtype=dtype)(x),
        k.Conv2D(2, 2, dilation_rate=2, dtype=dtype)(x),
        k.SeparableConv2D(3, 2, dtype=dtype)(x),
        k.Conv1D(3, 2, padding="causal", dtype=dtype)(k.Reshape((-1, 3), dtype=dtype)(y)),
    ]
    return keras.Model(inputs, outputs)


def recurrences(dtype):
    inputs = keras.Input((5, 3))
    whole = {"return_sequences": True, "dtype": dtype}
    x = k.LSTM(4, **whole)(k.Masking(0.0, dtype=dtype)(inputs))
    y, *states = k.LSTM(4, return_state=True, dtype=dtype)(inputs)
    outputs = [
        k.GRU(3, go_backwards=True, dtype=dtype)(x),
        k.GRU(3, reset_after=False, use_bias=False, **whole)(inputs),
        k.LSTM(4, dtype=dtype)(inputs, initial_state=states),
        k.SimpleRNN(3, dtype=dtype)(x),
    ]
    return keras.Model(inputs, [y, *outputs])


def attentions(dtype):
    inputs = keras.Input((5, 4))
    x = k.Dense(4, dtype=dtype)(k.Masking(0.0, dtype=dtype)(inputs))
    y = k.MultiHeadAttention(2, 3, dtype=dtype)(x, x, use_causal_mask=True)
    z = k.Dense(4, dtype=dtype)(inputs)
    outputs = [
        k.MultiHeadAttention(2, 3, value_dim=VALUES, output_shape=6, dropout=0.1, dtype=dtype)(inputs, inputs),
        k.MultiHeadAttention(2, 3, use_bias=False, dtype=dtype)(y, inputs, key=inputs, use_causal_mask=True),
        k.MultiHeadAttention(1, 2, dropout=0.1, dtype=dtype)(z, z, use_causal_mask=True),
    ]
    return keras.Model(inputs, outputs)


MODELS = {
    products: ("batched", "side_by_side", "wide"),
    convolutions: ("grouped", "side_by_side", "patches"),
    recurrences: ("projected", "stepwise"),
    attentions: ("batched", "vectorized", "unrolled"),
}


CASES = [
    pytest.param((build, dtype), id=f"{build.__name__}-{dtype}", marks=[] if dtype == "float32" else [pytest.mark.slow])
    for dtype in TOLERANCE
    for build in MODELS
]

slow_on_jax = pytest.mark.slow if keras.backend.backend() == "jax" else lambda test: test  # which compiles for minutes


@pytest.fixture(scope="module", params=CASES)
def packed(request):
    """The members, their pack, inputs with a step that masks leave out, and each member's own answers."""
    build, dtype = request.param
    models = oracle.members(lambda: build(dtype), MEMBERS)
    x = np.random.default_rng(0).normal(size=(ROWS, *models[0].inputs[0].shape[1:])).astype("float32")
    x[1, -1] = 0.0
    multi = kmw.pack(models, verify=False)
    return models, multi, x, oracle.stacked_predictions(oracle.each_in(models[0], models), x, ROWS), build, dtype


def choosers(multi):
    """The layers that have a choice."""
    return [layer for layer in multi.layers if isinstance(layer, MultiLayer) and len(layer.lowerings()) > 1]


def force(multi, name):
    """Tell each layer that can to take a lowering; the names of those."""
    found = [layer for layer in choosers(multi) if name in layer.lowerings()]
    for layer in choosers(multi):
        layer.lowering = name if layer in found else None
    return [layer.name for layer in found]


def test_every_lowering_gives_each_members_own_answers(packed):
    _, multi, x, expected, build, dtype = packed
    for name in MODELS[build]:
        assert force(multi, name), f"no layer can take '{name}'"
        received = multi.predictor()(x)
        for output, pair in enumerate(zip(keras.tree.flatten(received), expected, strict=True)):
            oracle.assert_close(*pair, f"{name}, output {output}", TOLERANCE[dtype])


@slow_on_jax
def test_every_lowering_gives_each_members_own_gradients(packed):
    models, multi, x, expected, build, dtype = packed
    if dtype != "float32":
        pytest.skip("the gradients of halves are noise against noise in models of several layers")
    x = ops.convert_to_tensor(x)
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=y.shape).astype("float32") for y in expected]
    single = oracle.Gradients(models[0])
    own = [single(x, [w[:, i] for w in weights]) for i, _ in enumerate(oracle.each_in(models[0], models))]
    scale = max(np.abs(g).max() for gradients in own for g in gradients.values())
    for name in MODELS[build]:
        force(multi, name)
        gradients = oracle.Gradients(multi)(x, weights)
        for weight, (layer, index) in zip(models[0].weights, multi.weight_places()):
            stacked = gradients.get(id(multi.get_layer(layer).stacked_weights[index]))
            for i in range(MEMBERS) if id(weight) in own[0] else ():
                received = np.reshape(stacked, (MEMBERS, *weight.shape))[i]
                oracle.assert_close(received, own[i][id(weight)], f"{name}, member {i}, {weight.path}", scale=scale)


def small():
    inputs = keras.Input((4,))
    return keras.Model(inputs, k.Dense(1, name="out")(k.Dense(3, name="hidden")(inputs)))


@pytest.fixture
def multi():
    return kmw.pack([small() for _ in range(MEMBERS)], verify=False)


def test_a_forced_lowering_is_saved_and_stays_with_the_members(multi, tmp_path):
    multi.get_layer("multi_hidden").lowering = "wide"
    multi.save(tmp_path / "multi.keras")
    for other in (keras.models.load_model(tmp_path / "multi.keras"), multi.select([2, 0]), keras.models.clone_model(multi)):
        assert other.get_layer("multi_hidden").lowering == "wide" and other.get_layer("multi_out").lowering is None


def test_a_lowering_that_no_layer_knows_is_refused(multi):
    with pytest.raises(ValueError, match=r"MultiDense must be None or one of \('batched', .*Received: lowering='grouped'"):
        multi.get_layer("multi_out").lowering = "grouped"
    with pytest.raises(ValueError, match="Received: lowering='fast'"):
        MultiConv2D(4, 3, num_members=2, lowering="fast")


def test_a_lowering_that_is_not_possible_here_is_kept_but_not_followed(multi):
    layer = multi.get_layer("multi_out")  # whose input is not shared
    layer.lowering = "wide"
    assert layer.lowering == "wide" and layer.choose_for((5, 3)) in layer.lowerings()


def test_the_plan_shows_lowerings_and_marks_those_that_are_forced(multi, monkeypatch):
    monkeypatch.setattr(costs, "_measured", list)
    costs._cheapest.cache_clear()
    multi.get_layer("multi_hidden").lowering = "wide"
    assert [row["lowering"] for row in multi.plan()] == ["wide!", "batched"]
    assert "wide!" in str(multi.plan(rows=32))


@pytest.fixture
def measured(monkeypatch):
    """A table of costs: side by side is cheaper for 1,000 rows, much cheaper for 2 members."""
    work = {"kind": "product", "members": 8, "in": 4, "out": 4}
    table = [
        {**work, "rows": 1, "ms": {"batched": 1.0, "side_by_side": 2.0}},
        {**work, "rows": 1000, "ms": {"batched": 3.0, "side_by_side": 2.0}},
        {**work, "rows": 1000, "members": 2, "ms": {"batched": 9.0, "side_by_side": 2.0}},
    ]
    monkeypatch.setattr(costs, "_measured", lambda: table)
    costs._cheapest.cache_clear()
    yield
    costs._cheapest.cache_clear()


def dense(num_members=8, **options):
    return MultiDense(4, num_members=num_members, **options)


def test_a_layer_takes_what_was_the_cheapest_at_the_nearest_sizes(measured):
    assert dense().choose_for((3, 4)) == "batched"
    assert dense().choose_for((500, 4)) == "side_by_side"
    assert dense(lowering="batched").choose_for((500, 4)) == "batched"


def test_sizes_that_are_not_known_count_for_nothing(measured):
    assert dense().choose_for((None, 4)) == "batched"  # 1 * 3 against 2 * 2
    assert dense(2).choose_for((None, 4)) == "side_by_side"


def test_what_nobody_measured_takes_the_first(measured):
    assert dense(shared_input=True).choose_for((500, 4)) == "batched"


def test_training_takes_the_first(measured):
    assert dense().choose_for((500, 4), training=True) == "batched"


def test_members_too_many_to_lie_side_by_side_are_batched():
    assert dense(1000).lowerings() == ("batched",) and dense(1000, shared_input=True).lowerings() == ("batched", "wide")


def test_the_table_of_the_package_names_lowerings_that_layers_have():
    names = {name for known in MODELS.values() for name in known}
    table = json.loads(importlib.resources.files("keras_multiweight.layers").joinpath(costs.FILE).read_text())
    for device in table.values():
        assert all(set(row["ms"]) <= names and min(row["ms"].values()) > 0 for row in device["rows"])


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="elsewhere the backend derives the product itself")
def test_the_product_of_a_shared_input_is_derived_in_every_way():
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    x, kernel = (jnp.array(rng.standard_normal(shape), "float32") for shape in ((4, 3), (MEMBERS, 3, 2)))

    def derived(product):
        def loss(x, kernel):
            return jnp.sum(product(x, kernel) ** 3)

        tangents = jax.jvp(product, (x, kernel), (jnp.cos(x), jnp.sin(kernel)))
        many = jax.vmap(jax.grad(loss, (0, 1)), (None, 0))(x, jnp.stack([kernel, -kernel]))
        return tangents, jax.grad(loss, (0, 1))(x, kernel), many, jax.hessian(loss, (0, 1))(x, kernel)

    expected = derived(lambda x, kernel: jnp.stack([x @ own for own in kernel]))
    for inside in (False, True):
        with gradients_in_order(inside):
            received = derived(batched_matmul)
        for one, other in zip(jax.tree.leaves(received), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(other).max())
