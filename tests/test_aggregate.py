"""EnsembleAverage, EnsembleVote and EnsembleSpread against NumPy and scikit-learn."""

import keras
import numpy as np
import pytest

from keras_multiweight.layers.aggregate import CLASS_MEASURES, MEASURES, EnsembleAverage, EnsembleSpread, EnsembleVote

B, N, C = 6, 5, 3
RNG = np.random.default_rng(0)


def array(x):
    return keras.ops.convert_to_numpy(x)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


def predicted(layer, x):
    """By `predict`, in two batches, which Keras joins along axis 0."""
    inputs = keras.Input(x.shape[1:], dtype=x.dtype.name)
    model = keras.Model(inputs, layer(inputs))
    outputs = model.predict(x, batch_size=4, verbose=0)
    assert model.output_shape[1:] == outputs.shape[1:]
    assert keras.backend.standardize_dtype(model.outputs[0].dtype) == outputs.dtype.name
    return outputs


# ---- EnsembleAverage ----


@pytest.mark.parametrize("shape, axis", [((B, N, C), 1), ((B, N, 2, C), 1), ((B, 2, N, C), -2), ((N, B, C), 0)])
def test_average_is_the_mean_over_members(shape, axis):
    x = normal(*shape)
    layer = EnsembleAverage(axis=axis)
    np.testing.assert_allclose(array(layer(x)), x.mean(axis), atol=1e-6)
    assert layer.compute_output_shape(shape) == x.mean(axis).shape


def test_average_of_members_without_channels():
    x = normal(B, N)
    np.testing.assert_allclose(predicted(EnsembleAverage(), x), x.mean(1), atol=1e-6)


def test_fixed_weights_are_divided_by_their_sum():
    x, weights = normal(B, N, C), [1, 2, 0, 4, 1]
    layer = EnsembleAverage(member_weights=weights)
    np.testing.assert_allclose(predicted(layer, x), np.average(x, axis=1, weights=weights), atol=1e-6)
    assert layer.weights == []


@pytest.mark.parametrize("channels", [1, C])
def test_from_logits_averages_probabilities(channels):
    x = 3 * normal(B, N, channels)
    each = softmax(x) if channels > 1 else 1 / (1 + np.exp(-x))
    np.testing.assert_allclose(predicted(EnsembleAverage(from_logits=True), x), each.mean(1), atol=1e-6)
    weighted = EnsembleAverage(from_logits=True, member_weights=[3, 1, 1, 1, 1])
    np.testing.assert_allclose(predicted(weighted, x), np.average(each, axis=1, weights=[3, 1, 1, 1, 1]), atol=1e-6)


@pytest.mark.parametrize("weights", [None, [1, 2, 3, 4, 5]])
def test_trainable_weights_start_as_given_and_take_an_exact_step(weights):
    """One SGD step at rate 1 subtracts the gradient by the logits, p * (g - sum(p * g))."""
    layer = EnsembleAverage(member_weights=weights, trainable_member_weights=True)
    model = keras.Sequential([keras.Input((N, C)), layer])
    x, y = normal(B, N, C), normal(B, C)
    p = np.array(weights or [1] * N) / np.sum(weights or [1] * N)
    average = np.einsum("bnc,n->bc", x, p)
    np.testing.assert_allclose(model.predict(x, verbose=0), average, atol=1e-6)
    before = array(layer.member_logits)
    g = np.einsum("bnc,bc->n", x, 2 * (average - y) / y.size)
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.train_on_batch(x, y)
    np.testing.assert_allclose(array(layer.member_logits), before - p * (g - (p * g).sum()), atol=1e-6)


def test_half_precision_is_summed_in_float32():
    x = np.full((1, 3000, 1), 1.0, "float16")
    x[:, 0] = 3000.0
    y = EnsembleAverage(dtype="float16")(x)
    assert keras.backend.standardize_dtype(y.dtype) == "float16"
    np.testing.assert_allclose(array(y), [[np.float16(5999 / 3000)]], rtol=1e-3)
    large = np.full((1, 4, 1), 60000.0, "float16")  # their sum is above the largest float16
    np.testing.assert_array_equal(array(EnsembleAverage(dtype="float16")(large)), [[np.float16(60000)]])


def test_place_is_masked_if_it_is_masked_in_every_member():
    x = normal(2, N, 4, C)
    x[0, :, 1] = 0
    x[1, 0, 2] = 0
    y = EnsembleAverage()(keras.layers.Masking()(x))
    np.testing.assert_array_equal(array(keras.ops.any(y._keras_mask, -1) * 1), [1, 1])
    np.testing.assert_array_equal(array(y._keras_mask * 1), [[1, 0, 1, 1], [1, 1, 1, 1]])


@pytest.mark.parametrize("weights", [[], [[1, 2]], [1, -1, 3], [0, 0], [1, float("nan")], [1, float("inf")]])
@pytest.mark.parametrize("cls", [EnsembleAverage, EnsembleVote])
def test_unusable_weights_are_refused(cls, weights):
    with pytest.raises(ValueError, match="member_weights must be a list of finite numbers, at least 0, not all 0"):
        cls(member_weights=weights)


@pytest.mark.parametrize("cls", [EnsembleAverage, EnsembleVote])
def test_weights_of_another_number_of_members_are_refused(cls):
    with pytest.raises(ValueError, match=r"one weight for each of the 5 members.*Received: 2"):
        cls(member_weights=[1, 2])(normal(B, N, C))


def test_trainable_weight_of_zero_is_refused():
    with pytest.raises(ValueError, match=r"must be positive.*member_weights=\[0, 1\]"):
        EnsembleAverage(member_weights=[0, 1], trainable_member_weights=True)


def test_trainable_weights_of_unknown_members_are_refused():
    with pytest.raises(ValueError, match="known number of members"):
        EnsembleAverage(trainable_member_weights=True)(keras.Input((None, C)))


@pytest.mark.parametrize("cls", [EnsembleAverage, EnsembleVote, EnsembleSpread])
def test_axis_outside_the_inputs_is_refused(cls):
    with pytest.raises(ValueError, match=r"axis must be an axis of the inputs. .*axis=3 and inputs of rank 3"):
        cls(axis=3)(normal(B, N, C))


@pytest.mark.parametrize(
    "layer",
    [EnsembleAverage(from_logits=True), EnsembleVote(), EnsembleSpread(measure="disagreement")],
    ids=lambda layer: type(layer).__name__,
)
def test_members_where_the_classes_must_be_are_refused(layer):
    with pytest.raises(ValueError, match="last axis of the inputs must hold the classes"):
        layer(normal(B, N))


# ---- EnsembleVote ----


def by_bincount(labels, weights=None):
    """What `VotingClassifier(voting="hard").predict` does with the members' labels, `(B, N)`."""
    return np.apply_along_axis(lambda row: np.bincount(row, weights=weights).argmax(), 1, labels)


@pytest.mark.parametrize("weights", [None, [1, 2, 1, 1, 3]])
def test_vote_over_probabilities_is_the_majority_with_ties_to_the_first(weights):
    p = softmax(normal(60, N, C))
    labels = p.argmax(-1)
    tied = [np.sort(np.bincount(row, weights, minlength=C))[-2:] for row in labels]
    assert any(first == second for first, second in tied)
    votes = predicted(EnsembleVote(member_weights=weights), p)
    assert votes.dtype == "int32"
    np.testing.assert_array_equal(votes, by_bincount(labels, weights))


def test_vote_over_labels_is_the_majority_with_ties_to_the_first():
    labels = RNG.integers(0, 4, (60, N)).astype("int32")
    votes = predicted(EnsembleVote(num_classes=4), labels)
    assert votes.dtype == "int32"
    np.testing.assert_array_equal(votes, by_bincount(labels))


def test_vote_over_one_probability_is_above_one_half():
    p = np.array([[0.9, 0.5, 0.6], [0.5, 0.5, 0.9], [0.51, 0.51, 0.0]], "float32")[..., None]
    np.testing.assert_array_equal(predicted(EnsembleVote(), p), [1, 0, 1])


def test_vote_at_every_place_of_a_map():
    p = softmax(normal(B, 2, N, C))
    expected = [[by_bincount(p[b, t].argmax(-1)[None])[0] for t in range(2)] for b in range(B)]
    np.testing.assert_array_equal(predicted(EnsembleVote(axis=2), p), expected)


def test_vote_is_that_of_a_scikit_learn_voting_classifier():
    ensemble = pytest.importorskip("sklearn.ensemble")
    tree = pytest.importorskip("sklearn.tree")
    x, y = normal(200, 4), RNG.integers(0, C, 200)
    estimators = [(str(i), tree.DecisionTreeClassifier(max_depth=i + 1, random_state=i)) for i in range(N)]
    voting = ensemble.VotingClassifier(estimators, voting="hard", weights=[2, 1, 1, 1, 1]).fit(x, y)
    p = np.stack([e.predict_proba(x) for e in voting.estimators_], 1).astype("float32")
    layer = EnsembleVote(member_weights=[2, 1, 1, 1, 1])
    np.testing.assert_array_equal(array(layer(p)), voting.predict(x))


def test_votes_are_counted_before_half_precision_makes_ties():
    p = np.array([[[0.49999, 0.50001], [0.49999, 0.50001]]], "float32")
    np.testing.assert_array_equal(array(EnsembleVote(dtype="mixed_float16")(p)), [1])


def test_vote_shapes_follow_what_the_inputs_hold():
    assert EnsembleVote().compute_output_shape((None, N, C)) == (None,)
    assert EnsembleVote(num_classes=9).compute_output_shape((None, N)) == (None,)
    assert EnsembleVote(num_classes=9).compute_output_shape((None, N, 7)) == (None, 7)


def test_labels_without_number_of_classes_are_refused():
    with pytest.raises(ValueError, match="Integer labels need num_classes"):
        EnsembleVote()(np.zeros((B, N), "int32"))


def test_probabilities_of_another_number_of_classes_are_refused():
    with pytest.raises(ValueError, match=r"must have num_classes=7 in their last axis. Received: shape \(6, 5, 3\)"):
        EnsembleVote(num_classes=7)(normal(B, N, C))


# ---- EnsembleSpread ----


def entropy(p):
    return -sum(q * np.log(q) for q in p if q > 0)


def pairs_that_differ(labels):
    pairs = [(i, j) for i in range(len(labels)) for j in range(i)]
    return np.mean([labels[i] != labels[j] for i, j in pairs])


CLASS_LOOPS = {  # of one row's (N, C) probabilities
    "predictive_entropy": lambda p: entropy(p.mean(0)),
    "mutual_information": lambda p: entropy(p.mean(0)) - np.mean([entropy(q) for q in p]),
    "disagreement": lambda p: pairs_that_differ(p.argmax(-1)),
}


@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("measure, function", [("std", np.std), ("variance", np.var)])
def test_spread_of_numbers(measure, function, ddof):
    x = normal(B, N, 2, C)
    spread = predicted(EnsembleSpread(measure=measure, ddof=ddof), x)
    np.testing.assert_allclose(spread, function(x, axis=1, ddof=ddof), atol=1e-5)


@pytest.mark.parametrize("from_logits", [False, True])
@pytest.mark.parametrize("measure", CLASS_MEASURES)
def test_spread_of_class_probabilities(measure, from_logits):
    x = 2 * normal(B, N, C)
    p = softmax(x)
    spread = predicted(EnsembleSpread(measure=measure, from_logits=from_logits), x if from_logits else p)
    np.testing.assert_allclose(spread, [CLASS_LOOPS[measure](row) for row in p], atol=1e-5)


@pytest.mark.parametrize("measure", CLASS_MEASURES)
def test_spread_of_one_probability_is_that_of_two_classes(measure):
    x = normal(B, N, 1)
    p = 1 / (1 + np.exp(-x))
    both = np.concatenate([1 - p, p], -1)
    expected = [CLASS_LOOPS[measure](row) for row in both]
    np.testing.assert_allclose(array(EnsembleSpread(measure=measure)(p)), expected, atol=1e-5)
    np.testing.assert_allclose(array(EnsembleSpread(measure=measure, from_logits=True)(x)), expected, atol=1e-5)


@pytest.mark.parametrize("measure", CLASS_MEASURES)
def test_spread_is_at_every_place_of_a_map(measure):
    p = softmax(normal(2, N, 4, C))
    expected = [[CLASS_LOOPS[measure](p[b, :, t]) for t in range(4)] for b in range(2)]
    np.testing.assert_allclose(predicted(EnsembleSpread(measure=measure), p), expected, atol=1e-5)


@pytest.mark.parametrize(
    "measure, agreed, split",
    [("predictive_entropy", 0, np.log(2)), ("mutual_information", 0, np.log(2)), ("disagreement", 0, 2 / 3)],
)
def test_certain_members_agree_or_differ(measure, agreed, split):
    p = np.zeros((2, 4, 3), "float32")
    p[0, :, 1] = 1
    p[1, :2, 0] = p[1, 2:, 2] = 1
    np.testing.assert_allclose(array(EnsembleSpread(measure=measure)(p)), [agreed, split], atol=1e-6)


def test_mutual_information_is_never_negative():
    p = np.repeat(softmax(normal(500, 1, C)), N, 1)
    information = array(EnsembleSpread(measure="mutual_information")(p))
    assert (information >= 0).all() and information.max() < 1e-6


@pytest.mark.parametrize("measure", ["std", "variance", "mutual_information", "disagreement"])
def test_single_member_has_no_spread(measure):
    np.testing.assert_allclose(array(EnsembleSpread(measure=measure)(softmax(normal(B, 1, C)))), 0, atol=1e-6)


@pytest.mark.parametrize("measure", ["std", "variance", "predictive_entropy", "mutual_information"])
def test_gradients_are_finite_where_members_agree_with_certainty(measure):
    scale = keras.layers.EinsumDense("abc,c->abc", output_shape=(N, C), kernel_initializer="ones")
    model = keras.Sequential([keras.Input((N, C)), scale, EnsembleSpread(measure=measure)])
    p = np.zeros((B, N, C), "float32")
    p[..., 0] = 1
    model.compile(keras.optimizers.SGD(1.0), loss=lambda y_true, y_pred: keras.ops.mean(y_pred))
    model.train_on_batch(p, np.zeros(model.compute_output_shape(p.shape), "float32"))
    assert np.isfinite(array(scale.kernel)).all()


def test_unknown_measure_is_refused():
    with pytest.raises(ValueError, match=r"measure must be one of .*'std', 'variance'.*Received: measure='range'"):
        EnsembleSpread(measure="range")


def test_as_many_members_as_ddof_are_refused():
    with pytest.raises(ValueError, match=r"more members than ddof=5.*Received: 5 members"):
        EnsembleSpread(ddof=5)(normal(B, N, C))


# ---- all ----

LAYERS = [
    EnsembleAverage(),
    EnsembleAverage(member_weights=[1, 2, 3, 4, 5], from_logits=True),
    EnsembleAverage(member_weights=[1, 2, 3, 4, 5], trainable_member_weights=True),
    EnsembleVote(num_classes=C, member_weights=[3, 1, 1, 1, 1]),
    *[EnsembleSpread(measure=measure, from_logits=True, ddof=1) for measure in MEASURES],
]


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.name)
def test_config_makes_the_same_layer(layer):
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    x = normal(B, N, C)
    np.testing.assert_array_equal(array(again(x)), array(layer(x)))


def test_saved_model_answers_alike(tmp_path):
    inputs = keras.Input((N, C))
    trained = EnsembleAverage(trainable_member_weights=True)
    outputs = [trained(inputs), EnsembleVote()(inputs), EnsembleSpread(measure="std", from_logits=True)(inputs)]
    model = keras.Model(inputs, outputs)
    trained.set_weights([normal(N)])
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = normal(B, N, C)
    for mine, theirs in zip(model.predict(x, verbose=0), loaded.predict(x, verbose=0)):
        np.testing.assert_array_equal(mine, theirs)


def test_vote_and_spread_beside_a_trained_average():
    inputs = keras.Input((N, C))
    p = keras.layers.Dense(C, activation="softmax")(inputs)
    average, vote = EnsembleAverage(name="average")(p), EnsembleVote(name="vote")(p)
    model = keras.Model(inputs, {"average": average, "vote": vote, "spread": EnsembleSpread(name="spread")(p)})
    model.compile("sgd", {"average": "categorical_crossentropy", "vote": None, "spread": None})
    history = model.fit(normal(B, N, C), {"average": np.eye(C, dtype="float32")[[0, 1, 2] * 2]}, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


# ---- members that answer NaN ----


def with_nan(channels):
    """Probabilities of which member 1 has none in row 2."""
    p = softmax(2 * normal(B, N, max(channels, 2)))[..., :channels]
    p[2, 1] = np.nan
    return p


@pytest.mark.parametrize("weights", [None, [1, 0, 2, 1, 1]])
def test_average_is_nan_where_a_member_is(weights):
    x = with_nan(C)
    received = predicted(EnsembleAverage(member_weights=weights), x)
    np.testing.assert_allclose(received, np.average(x, axis=1, weights=weights), atol=1e-6)
    assert np.isnan(received[2]).all() and np.isfinite(np.delete(received, 2, axis=0)).all()


@pytest.mark.parametrize("channels", [1, C])
@pytest.mark.parametrize("measure", MEASURES)
def test_spread_is_nan_where_a_member_is(measure, channels):
    x = with_nan(channels)
    multi = keras.Sequential([keras.Input(x.shape[1:]), EnsembleSpread(measure=measure)])
    for compiled in (False, True):
        multi.compile(jit_compile=compiled and keras.backend.backend() != "torch")
        received = multi.predict(x, verbose=0)
        assert np.isnan(received[2]).all() and np.isfinite(np.delete(received, 2, axis=0)).all()
        np.testing.assert_allclose(
            np.delete(received, 2, axis=0), predicted(EnsembleSpread(measure=measure), np.delete(x, 2, axis=0)), atol=1e-5
        )


@pytest.mark.parametrize("channels", [1, C])
def test_a_member_that_answers_nan_does_not_vote(channels):
    x = with_nan(channels)
    x[2, :, 0] = [0.1, np.nan, 0.2, 0.9, 0.3] if channels == 1 else x[2, :, 0]
    received = predicted(EnsembleVote(), x)
    np.testing.assert_array_equal(received[2], array(EnsembleVote()(np.delete(x[2:3], 1, axis=1)))[0])
    of_two = np.array([[[0.1, 0.9], [np.nan, np.nan]]], "float32")
    assert array(EnsembleVote()(of_two[..., 1:] if channels == 1 else of_two)).tolist() == [1]
