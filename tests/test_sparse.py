"""SparseLinear and MultiSparseLinear against dense layers with a mask, written in NumPy."""

import keras
import numpy as np
import pytest

from keras_multiweight.layers.dense import MultiDense
from keras_multiweight.layers.sparse import MultiSparseLinear, SparseLinear

N, B = 3, 5
RNG = np.random.default_rng(0)
BLOCKS = np.kron(np.eye(3, dtype=bool), np.ones((2, 4), bool))  # (6, 12)
SCATTERED = np.zeros((7, 5), bool)
SCATTERED[[0, 0, 2, 5, 6, 3], [1, 4, 4, 0, 2, 2]] = True  # output 3 and inputs 1, 4 have no connection
RARE = np.zeros((40, 30), bool)
RARE[[0, 3, 3, 39], [29, 0, 29, 7]] = True
OWN = np.stack([np.roll(SCATTERED, i, axis=0) for i in range(N)])
RARE_OWN = np.stack([np.roll(RARE, i, axis=1) for i in range(N)])
SHUFFLED = RNG.permutation(np.argwhere(BLOCKS))
SHUFFLED_DIAGONAL = np.array([[2, 2], [0, 0], [1, 1]])

CASES = {  # connectivity, units, features, lowering
    "diagonal": (None, None, 4, "diagonal"),
    "diagonal of pairs in any order": (SHUFFLED_DIAGONAL, 3, 3, "diagonal"),
    "full": (np.ones((4, 3), bool), None, 4, "block_diagonal"),
    "blocks": (BLOCKS, None, 6, "block_diagonal"),
    "blocks of pairs in any order": (SHUFFLED, 12, 6, "block_diagonal"),
    "scattered": (SCATTERED, None, 7, "dense"),
    "rare": (RARE, None, 40, "gathered"),
    "one each": (OWN, None, 7, "dense"),
    "one each, equal": ([SCATTERED] * N, None, 7, "dense"),
    "one each, rare": (RARE_OWN, None, 40, "gathered"),
    "one each, of pairs": ([[(0, 1), (2, 0)], [(1, 1), (0, 0)], [(2, 1), (0, 1)]], 2, 3, "dense"),
}
FEW = {name: CASES[name] for name in ("diagonal", "blocks of pairs in any order", "one each", "rare")}  # one a lowering
ARGUMENTS = "connectivity, units, features, lowering"
case = pytest.mark.parametrize(ARGUMENTS, CASES.values(), ids=CASES.keys())
few_cases = pytest.mark.parametrize(ARGUMENTS, FEW.values(), ids=FEW.keys())


def pairs_of(layer, features, i):
    if layer.connectivity is None:
        return np.stack([np.arange(features)] * 2, 1)
    return layer.connectivity if layer.connectivity.ndim == 2 else layer.connectivity[i]


def dense_kernel(layer, features, units):
    """(N, in, units) with zeros where there is no connection."""
    dense = np.zeros((N, features, units), "float32")
    for i in range(N):
        for (a, b), weight in zip(pairs_of(layer, features, i), array(layer.kernel)[i]):
            dense[i, a, b] = weight
    return dense


def randomize(layer):
    layer.set_weights([RNG.normal(size=w.shape).astype("float32") for w in layer.get_weights()])


def built(connectivity, units, features, **options):
    layer = MultiSparseLinear(units, connectivity=connectivity, num_members=N, kernel_initializer="zeros", **options)
    layer.build((None, features) if layer.shared_input else (None, N, features))
    randomize(layer)
    return layer


def array(x):
    return keras.ops.convert_to_numpy(x)


def compiled(layer, x):
    return keras.Sequential([keras.Input(x.shape[1:]), layer]).predict_on_batch(x)


# ---- values ----


def test_reference_case_of_two_samples_and_two_members():
    layer = MultiSparseLinear(num_members=2, shared_input=True)
    model = keras.Sequential([keras.Input((2,)), layer])
    layer.set_weights([np.array([[2, 9], [8, 6]]), np.array([[7, 5], [6, 3]])])
    samples = np.array([[3, 7], [9, 4]], "float32")
    expected = [[[13, 68], [25, 41]], [[30, 45], [78, 27]]]  # members first
    assert model.count_params() == 8
    np.testing.assert_array_equal(np.swapaxes(model.predict(samples, verbose=0), 0, 1), expected)
    np.testing.assert_array_equal(np.swapaxes(model.predict(samples, batch_size=1, verbose=0), 0, 1), expected)


def test_reference_case_with_members_first_inputs_of_their_own():
    layer = MultiSparseLinear(num_members=2, member_axis=0)
    samples = np.stack([[[3, 7], [9, 4]]] * 2).astype("float32")
    layer(samples)
    layer.set_weights([np.array([[2, 9], [8, 6]]), np.array([[7, 5], [6, 3]])])
    np.testing.assert_array_equal(array(layer(samples)), [[[13, 68], [25, 41]], [[30, 45], [78, 27]]])


def test_fifty_members_of_the_reference_case_count_their_weights():
    layer = MultiSparseLinear(num_members=50, shared_input=True)
    assert layer(np.ones((2, 2))).shape == (2, 50, 2)
    assert layer.count_params() == 50 * 4


@case
@pytest.mark.parametrize("shared_input", [False, True])
def test_outputs_are_those_of_masked_dense_layers(connectivity, units, features, lowering, shared_input):
    layer = built(connectivity, units, features, shared_input=shared_input, activation="tanh")
    assert layer.wiring.lowering == lowering
    x = RNG.normal(size=(B, features) if shared_input else (B, N, features)).astype("float32")
    kernel, bias = dense_kernel(layer, features, layer.wiring.units), array(layer.bias)
    expected = np.stack([np.tanh((x if shared_input else x[:, i]) @ kernel[i] + bias[i]) for i in range(N)], 1)
    np.testing.assert_allclose(compiled(layer, x), expected, atol=1e-5)
    assert layer.compute_output_shape(x.shape) == expected.shape


@few_cases
def test_inputs_may_have_more_axes_and_members_first(connectivity, units, features, lowering):
    layer = built(connectivity, units, features)
    first = MultiSparseLinear.from_config({**layer.get_config(), "member_axis": 0})
    x = RNG.normal(size=(B, N, 2, 3, features)).astype("float32")
    y = compiled(layer, x)
    expected = np.einsum("bntsi,nio->bntso", x, dense_kernel(layer, features, layer.wiring.units))
    np.testing.assert_allclose(y, expected + array(layer.bias)[:, None, None], atol=1e-5)
    first(np.swapaxes(x, 0, 1))
    first.set_weights(layer.get_weights())
    np.testing.assert_allclose(array(first(np.swapaxes(x, 0, 1))), np.swapaxes(y, 0, 1), atol=1e-6)


@case
def test_training_step_is_that_of_masked_dense_layers(connectivity, units, features, lowering):
    """One SGD step at rate 1 subtracts the gradient: of the kernel, of the bias, and of the inputs (a layer before)."""
    layer = built(connectivity, units, features)
    before = MultiSparseLinear(kernel_initializer="zeros", num_members=N)
    model = keras.Sequential([keras.Input((N, features)), before, layer])
    randomize(before)
    scale, kernel = array(before.kernel), dense_kernel(layer, features, layer.wiring.units)
    x = RNG.normal(size=(B, N, features)).astype("float32")
    y = RNG.normal(size=(B, N, layer.wiring.units)).astype("float32")
    h = x * scale + array(before.bias)
    error = 2 * (np.einsum("bni,nio->bno", h, kernel) + array(layer.bias) - y) / y.size
    expected_bias = array(layer.bias) - error.sum(0)
    expected_kernel = kernel - np.einsum("bni,bno->nio", h, error)
    expected_scale = scale - (np.einsum("bno,nio->bni", error, kernel) * x).sum(0)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch(x, y)
    mask = dense_kernel_mask(layer, features)
    np.testing.assert_allclose(array(layer.bias), expected_bias, atol=1e-5)
    np.testing.assert_allclose(dense_kernel(layer, features, layer.wiring.units), expected_kernel * mask, atol=1e-5)
    np.testing.assert_allclose(array(before.kernel), expected_scale, atol=1e-5)


def dense_kernel_mask(layer, features):
    mask = np.zeros((N, features, layer.wiring.units), bool)
    for i in range(N):
        mask[i][tuple(pairs_of(layer, features, i).T)] = True
    return mask


def test_full_mask_is_a_multi_dense():
    layer = built(np.ones((4, 3), bool), None, 4)
    dense = MultiDense(3, num_members=N)
    x = RNG.normal(size=(B, N, 4)).astype("float32")
    dense(x)
    dense.set_weights([array(layer.kernel).reshape(N, 4, 3), array(layer.bias)])
    np.testing.assert_allclose(array(layer(x)), array(dense(x)), atol=1e-6)


def test_single_layer_is_a_masked_dense_layer():
    layer = SparseLinear(connectivity=SCATTERED, activation="relu", use_bias=False)
    x = RNG.normal(size=(B, 2, 7)).astype("float32")
    layer(x)
    kernel = np.zeros((7, 5), "float32")
    kernel[SCATTERED] = array(layer.kernel)
    np.testing.assert_allclose(array(layer(x)), np.maximum(x @ kernel, 0), atol=1e-6)


def test_half_precision_policy_computes_in_half_and_keeps_weights_in_float32():
    layer = MultiSparseLinear(connectivity=RARE, num_members=N, shared_input=True, dtype="mixed_float16")
    x = RNG.normal(size=(B, 40)).astype("float32")
    y = layer(x)
    assert keras.backend.standardize_dtype(y.dtype) == "float16" and layer.kernel.dtype == "float32"
    expected = np.einsum("bi,nio->bno", x, dense_kernel(layer, 40, 30))
    np.testing.assert_allclose(array(y), expected, atol=1e-2)


# ---- members ----


def single_layers(connectivities, units, features):
    layers = [SparseLinear(units, "tanh", connectivity=c, kernel_initializer="zeros") for c in connectivities]
    for layer in layers:
        layer.build((None, features))
        randomize(layer)
    return layers


@pytest.mark.parametrize(
    "connectivities, units, features",
    [([None] * N, None, 4), ([BLOCKS] * N, None, 6), (list(OWN), None, 7), (list(RARE_OWN), None, 40)],
    ids=["diagonal", "blocks", "one each", "one each, rare"],
)
def test_members_go_in_and_come_out_unchanged(connectivities, units, features):
    layers = single_layers(connectivities, units, features)
    multi = MultiSparseLinear.from_member_layers(layers, shared_input=True)
    x = RNG.normal(size=(B, features)).astype("float32")
    y = array(multi(x))
    for i, layer in enumerate(layers):
        np.testing.assert_allclose(y[:, i], array(layer(x)), atol=1e-6)
        member = multi.member_layer(i)
        assert type(member) is SparseLinear
        np.testing.assert_array_equal(array(member(x)), array(layer(x)))
        for mine, theirs in zip(member.get_weights(), layer.get_weights()):
            np.testing.assert_array_equal(mine, theirs)


@few_cases
def test_saved_model_answers_alike(connectivity, units, features, lowering, tmp_path):
    layer = built(connectivity, units, features, shared_input=True)
    model = keras.Sequential([keras.Input((features,)), layer])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = RNG.normal(size=(B, features)).astype("float32")
    np.testing.assert_array_equal(model.predict(x, verbose=0), loaded.predict(x, verbose=0))


@few_cases
def test_config_makes_the_same_layer(connectivity, units, features, lowering):
    layer = MultiSparseLinear(
        units,
        "relu",
        connectivity=connectivity,
        kernel_initializer=keras.initializers.HeNormal(seed=3),
        kernel_regularizer="l2",
        bias_constraint=keras.constraints.NonNeg(),
        activity_regularizer="l1",
        num_members=N,
        shared_input=True,
        trainable=False,
        name="hidden",
    )
    config = layer.get_config()
    again = MultiSparseLinear.from_config(config)
    assert again.get_config() == config
    x = np.ones((B, features), "float32")
    np.testing.assert_array_equal(array(layer(x)), array(again(x)))  # the seed makes the same kernels
    assert not again.trainable_weights and again.name == "hidden"


def test_regularizers_and_constraints_act_on_each_member_alone():
    layer = MultiSparseLinear(
        connectivity=SCATTERED, kernel_regularizer="l2", kernel_constraint=keras.constraints.UnitNorm(), num_members=N
    )
    layer(np.ones((B, N, 7), "float32"))
    kernel = array(layer.kernel)
    np.testing.assert_allclose(array(sum(layer.losses)), 0.01 * (kernel**2).reshape(N, -1).sum(1), rtol=1e-5)
    norms = np.linalg.norm(array(layer.kernel.constraint(layer.kernel)), axis=1)
    np.testing.assert_allclose(norms, np.ones(N), rtol=1e-5)


# ---- initial values ----


@pytest.mark.parametrize("initializer", ["glorot_uniform", "he_normal", "lecun_uniform"])
@pytest.mark.parametrize(
    "mask, shape",
    [(np.eye(600, dtype=bool), (1, 1)), (np.kron(np.eye(12, dtype=bool), np.ones((5, 20), bool)), (5, 20))],
    ids=["diagonal", "blocks"],
)
def test_kernel_is_drawn_with_the_fans_of_its_connections(initializer, mask, shape):
    layer = SparseLinear(connectivity=mask, kernel_initializer=initializer)
    layer.build((None, mask.shape[0]))
    draws = [array(keras.initializers.get(initializer)(shape)).ravel() for _ in range(-(-600 // (shape[0] * shape[1])))]
    np.testing.assert_allclose(np.std(array(layer.kernel)), np.std(np.concatenate(draws)), rtol=0.15)


def test_members_start_differently_and_alike_for_a_fixed_seed():
    first, second = [
        MultiSparseLinear(kernel_initializer=keras.initializers.GlorotUniform(seed=1), num_members=N) for _ in range(2)
    ]
    x = np.ones((B, N, 6), "float32")
    np.testing.assert_array_equal(array(first(x)), array(second(x)))
    kernel = array(first.kernel)
    assert (kernel[0] != kernel[1]).all() and (kernel[1] != kernel[2]).all()


# ---- errors ----


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"connectivity": [(0, 1)]}, "units must be given"),
        ({"connectivity": [(0, 3)], "units": 3}, r"outputs from 0 to units - 1 = 2. Received: pair \(0, 3\)"),
        ({"connectivity": [(-1, 0)], "units": 3}, r"Received: pair \(-1, 0\)"),
        ({"connectivity": [(0, 1), (2, 1), (0, 1)], "units": 3}, r"there once. Received: pair \(0, 1\) 2 times"),
        ({"connectivity": [(0, 1, 2)], "units": 3}, r"boolean mask \(in, units\) or integer pairs .* shape \(1, 3\)"),
        ({"connectivity": [(0.0, 1.0)], "units": 3}, "dtype float64"),
        ({"connectivity": np.zeros((2, 2), bool)}, "at least one connection"),
        ({"connectivity": SCATTERED, "units": 4}, r"column for each unit.*units=4 and a mask of shape \(7, 5\)"),
        ({"connectivity": [SCATTERED] * 2}, "one for each of the 3 members. Received: 2"),
        ({"connectivity": [BLOCKS, BLOCKS, SCATTERED]}, r"equal shapes.*\(6, 12\), \(6, 12\), \(7, 5\)"),
        ({"connectivity": [BLOCKS, BLOCKS, [(0, 0)]]}, "come without pairs among them"),
        (
            {"connectivity": [[(0, 0), (1, 1)], [(0, 0), (1, 0)], [(0, 0)]], "units": 2},
            "equally many connections. Received: 2 in member 0 and 1 in member 2",
        ),
    ],
)
def test_wrong_connectivity_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiSparseLinear(**arguments, num_members=N)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"units": 4}, "units must be None or 3. Received: inputs of 3 features .* and units=4"),
        ({"connectivity": SCATTERED}, "row for each feature. Received: inputs of 3 features .* mask of 7 rows"),
        ({"connectivity": [(0, 1), (3, 0)], "units": 2}, "below the number of features.*input 3, and inputs of 3"),
        ({"connectivity": [[(0, 1)], [(0, 0)], [(5, 0)]], "units": 2}, "below the number of features.*input 5"),
    ],
)
def test_wrong_inputs_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MultiSparseLinear(**arguments, num_members=N)(np.ones((B, N, 3), "float32"))


def test_members_with_unequally_many_connections_are_refused():
    layers = single_layers([[(0, 0), (1, 1)], [(0, 0)]], 2, 3)
    with pytest.raises(ValueError, match=r"equally many connections.*2 in member 0 and 1 in member 1"):
        MultiSparseLinear.from_member_layers(layers)


def test_members_that_differ_in_more_than_connectivity_are_refused():
    layers = single_layers([[(0, 0)], [(0, 1)]], 2, 3)
    layers[1].activation = keras.activations.relu
    with pytest.raises(ValueError, match=r"equal configs.*'tanh' in member 0 and .*'relu' in member 1"):
        MultiSparseLinear.from_member_layers(layers)
