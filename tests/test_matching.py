"""Matching of hidden units: permutations that were planted are found again, and nothing else changes."""

import keras
import numpy as np
import pytest
from keras import layers as k
from oracle import assert_close, randomized

import keras_multiweight as kmw
from keras_multiweight import merging
from keras_multiweight.merging import cycle
from keras_multiweight.merging.members import open_for_merging
from keras_multiweight.merging.terms import weight_terms


def mlp(units=24):
    hidden = [k.Dense(units, activation="tanh") for _ in range(3)]
    return keras.Sequential([keras.Input((10,)), *hidden, k.Dense(3)])


def cnn_with_batch_norm():
    x = inputs = keras.Input((9, 9, 2))
    for filters in (8, 12):
        x = k.Activation("swish")(k.BatchNormalization()(k.Conv2D(filters, 3, use_bias=False)(x)))
    x = k.Conv2D(8, 1, groups=4)(k.DepthwiseConv2D(2, depth_multiplier=2)(x))
    return keras.Model(inputs, k.Dense(3)(k.Flatten()(x)))


def residual():
    inputs = keras.Input((10,))
    x = k.Dense(16)(inputs)
    for _ in range(3):
        x = k.Add()([x, k.Dense(16)(k.Dense(24, activation="tanh")(k.LayerNormalization()(x)))])
    return keras.Model(inputs, k.Dense(3)(x))


def recurrent():
    return keras.Sequential([keras.Input((5, 4)), k.LSTM(12, return_sequences=True), k.GRU(8), k.Dense(3)])


def transformer():
    x = inputs = keras.Input((6, 5))
    x = k.Dense(16)(x)
    x = k.Add()([x, k.MultiHeadAttention(3, 4)(*[k.LayerNormalization()(x)] * 2)])
    x = k.Add()([x, k.Dense(16)(k.Dense(24, activation="gelu")(k.LayerNormalization()(x)))])
    return keras.Model(inputs, k.Dense(3)(k.GlobalAveragePooling1D()(x)))


ARCHITECTURES = [mlp, cnn_with_batch_norm, residual, recurrent, transformer]


def planted(build, count, noise=0.0):
    """A model with random weights, and others that are it with its units permuted, and with noise."""
    keras.utils.set_random_seed(0)
    first = randomized(build(), 0)
    spec, rng = merging.PermutationSpec.from_model(first), np.random.default_rng(0)
    models = [first]
    for seed in range(1, count):
        model, moved = build(), spec.permute(first.get_weights(), spec.random(seed))
        model.set_weights([w + noise * rng.normal(size=w.shape) * w.std() for w in moved])
        models.append(model)
    return models, spec


def assert_alike(alignment):
    for array in alignment.arrays():
        for i in range(1, len(array)):
            np.testing.assert_array_equal(array[i], array[0])


def rows(model, count=64):
    return np.random.default_rng(3).normal(size=(count, *model.input_shape[1:])).astype("float32")


@pytest.mark.parametrize("build", ARCHITECTURES)
def test_planted_permutation_is_recovered_by_weights(build):
    models, spec = planted(build, 2)
    found = merging.weight_matching(models, spec=spec)
    assert_alike(found)
    assert found.sweeps <= 4


@pytest.mark.parametrize("build", ARCHITECTURES)
def test_planted_permutation_is_recovered_by_activations(build):
    models, spec = planted(build, 2)
    # Two groups that share an axis, as those of a grouped convolution do, are matched in turn: uncentred products can end
    # such a descent early.
    for similarity in ("correlation", "inner_product", "l2")[: 1 if build is cnn_with_batch_norm else 3]:
        assert_alike(merging.activation_matching(models, rows(models[0]), similarity, spec=spec))


@pytest.mark.parametrize("method", ["mergemany", "reference", "cycle"])
def test_many_members_find_common_places(method):
    models, spec = planted(mlp, 4, noise=0.05)
    found = merging.weight_matching(models, method=method, spec=spec)
    for array in found.arrays():
        np.testing.assert_allclose(array, np.broadcast_to(array[0], array.shape), atol=0.5 * array.std())
    merged = merging.merge_members(models, align=found)
    x = rows(models[0])
    expected = np.mean([m.predict(x, verbose=0) for m in models], axis=0)
    assert_close(merged.predict(x, verbose=0), expected, tolerance=0.1)


def test_soft_permutations_step_as_matrices_do():
    """Frank-Wolfe's steps need no products of matrices, and the objective along each is exact."""
    models = [randomized(cnn_with_batch_norm(), seed) for seed in range(3)]
    spec, members = merging.PermutationSpec.from_model(models[0]), open_for_merging(models)
    terms, rng = weight_terms(spec, members), np.random.default_rng(0)
    names = [name for name, group in spec.groups.items() if not group.parent]
    starts, *ways = ([spec.random(seed) for seed in range(3 * k, 3 * k + 3)] for k in range(3))
    softened = [[cycle.Softened(*pair, start, names) for pair in zip(terms.blocks, own)]
                for own, start in zip(terms.parts, starts)]  # fmt: skip
    maps = [{name: np.eye(len(start[name]))[start[name]] for name in names} for start in starts]
    for ends in ways:
        at = int(rng.integers(1, 200))
        promised = cycle._objective(cycle._terms(softened, ends))[at]
        for own, of_member, end in zip(softened, maps, ends):
            for block in own:
                block.step(end, cycle.FINE[at])
            for name in names:
                of_member[name] = (1 - cycle.FINE[at]) * of_member[name] + cycle.FINE[at] * np.eye(len(end[name]))[end[name]]
        expected = [[block.mix(part, of_member) for block, part in zip(terms.blocks, own)]
                    for own, of_member in zip(terms.parts, maps)]  # fmt: skip
        for own, parts in zip(softened, expected):
            for block, part in zip(own, parts):
                np.testing.assert_allclose(block.whole, part, rtol=1e-4, atol=1e-5)
        pairs = [(0, 1), (0, 2), (1, 2)]
        direct = sum(np.vdot(a, b) for i, j in pairs for a, b in zip(expected[i], expected[j]))
        np.testing.assert_allclose(promised, direct, rtol=1e-4)


def test_aligned_members_compute_what_they_did():
    models = [randomized(transformer(), seed) for seed in range(3)]
    found, x = merging.weight_matching(models), rows(models[0])
    multi = found.pack()
    assert isinstance(multi, kmw.MultiModel)
    answers = multi.predict(x)
    for i, model in enumerate(models):
        assert_close(answers[:, i], model.predict(x, verbose=0), tolerance=1e-5)


def test_matching_brings_members_closer_and_leaves_them_as_they_are():
    models = [randomized(mlp(), seed) for seed in range(3)]
    before = [m.get_weights() for m in models]
    spec = merging.PermutationSpec.from_model(models[0])
    found = merging.weight_matching(kmw.pack(models, verify=False), spec=spec)
    plain = [np.stack(group) for group in zip(*before)]
    distances = [sum(np.square(a[i] - a[j]).sum() for a in arrays for i in range(3) for j in range(i))
                 for arrays in (plain, found.arrays())]  # fmt: skip
    assert distances[1] < 0.9 * distances[0]
    for weights, model in zip(before, models):
        assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights()))


def test_restarts_are_never_worse():
    models = [randomized(mlp(), seed) for seed in range(2)]
    one, more = (merging.weight_matching(models, restarts=restarts).objective for restarts in (0, 3))
    assert more >= one


def test_members_from_one_start_stay_where_they_are():
    models = [randomized(mlp(), 0) for _ in range(2)]
    models[1].set_weights([w + 0.01 for w in models[0].get_weights()])
    for init in ("identity", "forward"):
        found = merging.weight_matching(models, init=init)
        assert all(np.array_equal(p, np.arange(24)) for p in found.permutations[1].values())


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m, x: merging.weight_matching([m[0]]), "at least two members"),
        (lambda m, x: merging.weight_matching([m[0], mlp(8)]), "equal configs"),
        (lambda m, x: merging.weight_matching(m, method="best"), "method must be one of"),
        (lambda m, x: merging.weight_matching(m, init="best"), 'init "forward" or "identity"'),
        (lambda m, x: merging.weight_matching(m, reference=2), r"0 to 1. Received: reference=2"),
        (lambda m, x: merging.activation_matching(m, x, "cosine"), "similarity must be one of"),
        (lambda m, x: merging.activation_matching(m, x[:, :3]), r"must have shape \(None, 10\).*Received: shape \(64, 3\)"),
        (lambda m, x: merging.merge_members(m, align="names"), "align must be"),
        (lambda m, x: merging.merge_members(m, align="activations"), "needs data"),
        (lambda m, x: merging.merge_members(m, align=None, soft=merging.SoftMatching()), "soft without align"),
        (lambda m, x: merging.merge_members(m, repair=x[:0]), "at least one row"),
        (lambda m, x: merging.merge_members(m, repair=np.where(x == x[3, 2], np.nan, x)), "must be finite"),
        (lambda m, x: merging.activation_matching(m, np.where(x == x[3, 2], np.inf, x)), "must be finite"),
        (lambda m, x: merging.SoftMatching(temperature=-1), "temperature not below 0"),
        (lambda m, x: merging.SoftMatching(top_k=0), "top_k of at least 1"),
        (lambda m, x: merging.loss_barrier(*m, (x, x)), "loss must be given"),
        (lambda m, x: merging.loss_barrier(*m, (x, x), loss="mse", steps=2), "steps must be at least 3"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    models = [randomized(mlp(), seed) for seed in range(2)]
    with pytest.raises(ValueError, match=message):
        call(models, rows(models[0]))
