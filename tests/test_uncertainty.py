"""What answers say: against formulas written out, and by counting how often promises hold."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from scipy import special

import keras_multiweight as kmw
from keras_multiweight import bagging


@pytest.fixture(scope="module")
def logits():
    """Too confident by a factor of 3: logits, and classes that come by the softmax of a third of them."""
    rng = np.random.default_rng(0)
    calm = rng.normal(size=(4000, 3))
    y = np.array([rng.choice(3, p=p) for p in special.softmax(calm, axis=1)])
    return 3 * calm, y


def test_measures_are_their_formulas():
    p = special.softmax(np.random.default_rng(0).normal(size=(7, 4, 3)), axis=-1).astype("float32")
    found = bagging.uncertainty(p, "classes", quantiles=(0.25, 0.5))
    mean = p.mean(axis=1)
    whole = -(mean * np.log(mean)).sum(axis=-1)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
    np.testing.assert_allclose(found.std, np.sqrt(((p - mean[:, None]) ** 2).mean(axis=1)), rtol=1e-4)
    np.testing.assert_allclose(found.quantiles[1], np.median(p, axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.predictive_entropy, whole, rtol=1e-5)
    expected = whole + (p * np.log(p)).sum(axis=-1).mean(axis=1)
    np.testing.assert_allclose(found.mutual_information, expected, atol=1e-5)
    choices = p.argmax(axis=-1)
    pairs = [(i, j) for i in range(4) for j in range(4) if i != j]
    at_odds = np.mean([choices[:, i] != choices[:, j] for i, j in pairs], axis=0)
    np.testing.assert_allclose(found.disagreement, at_odds, atol=1e-6)
    assert bagging.uncertainty(p, "numbers").predictive_entropy is None
    by_logits = bagging.uncertainty(np.log(p), "classes", from_logits=True)
    np.testing.assert_allclose(by_logits.mean, mean, rtol=1e-5)


def test_scores_of_probabilities_are_their_formulas(logits):
    p, y = special.softmax(logits[0], axis=1), logits[1]
    assert bagging.negative_log_likelihood(p, y) == pytest.approx(np.mean([-np.log(row[c]) for row, c in zip(p, y)]))
    assert bagging.brier_score(p, y) == pytest.approx(np.mean([((row - np.eye(3)[c]) ** 2).sum() for row, c in zip(p, y)]))
    total = 0.0
    for low in np.arange(10) / 10:
        rows = (p.max(axis=1) > low) & (p.max(axis=1) <= low + 0.1)
        if rows.any():
            total += rows.sum() * abs((p.argmax(axis=1) == y)[rows].mean() - p.max(axis=1)[rows].mean())
    assert bagging.expected_calibration_error(p, y, bins=10) == pytest.approx(total / len(y))


def test_one_probability_stands_for_two_classes():
    p, y = np.array([[0.9], [0.2], [0.4]]), np.array([1, 0, 1])
    both = np.concatenate([1 - p, p], axis=1)
    for score in (bagging.negative_log_likelihood, bagging.brier_score, bagging.expected_calibration_error):
        assert score(p, y) == pytest.approx(score(both, y))


def test_temperature_finds_the_factor_and_mends_the_confidence(logits):
    scaled = bagging.Temperature().fit(*logits)
    assert scaled.temperature == pytest.approx(3.0, rel=0.06)
    before, after = special.softmax(logits[0], axis=1), scaled.probabilities(logits[0])
    assert (
        bagging.expected_calibration_error(after, logits[1]) < 0.03 < bagging.expected_calibration_error(before, logits[1])
    )
    losses = [
        bagging.negative_log_likelihood(special.softmax(logits[0] / t, axis=1), logits[1]) for t in np.arange(1, 5, 0.01)
    ]
    assert bagging.negative_log_likelihood(after, logits[1]) <= min(losses) + 1e-9
    np.testing.assert_array_equal(after.argmax(axis=1), before.argmax(axis=1))


def test_each_member_has_a_temperature(logits):
    members = np.stack([logits[0], 2 * logits[0]], axis=1)
    found = bagging.Temperature(per_member=True).fit(members, logits[1])
    one = bagging.Temperature().fit(*logits).temperature
    np.testing.assert_allclose(found.temperature, [one, 2 * one], rtol=1e-4)
    p = found.probabilities(members)
    np.testing.assert_allclose(p[:, 0], p[:, 1], atol=1e-5)
    two = (logits[0][:, 1:2] - logits[0][:, :1]), (logits[1] == 1)
    both = np.concatenate([np.zeros_like(two[0]), two[0]], axis=1)
    one_logit, two_logits = (bagging.Temperature().fit(x, two[1]).temperature for x in (two[0], both))
    assert one_logit == pytest.approx(two_logits)


@pytest.mark.parametrize("alpha", [0.1, 0.3])
def test_intervals_hold_the_truth_as_often_as_was_asked(alpha):
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        scale = rng.uniform(0.5, 3, size=(51, 2))
        mean = rng.normal(size=(51, 2))
        y = mean + scale * rng.standard_t(3, size=(51, 2))
        intervals = bagging.ConformalIntervals(alpha).fit(mean[:-1], y[:-1], scale=scale[:-1])
        low, high = intervals.predict(mean[-1:], scale=scale[-1:])
        held.append((low <= y[-1:]) & (y[-1:] <= high))
    assert abs(np.mean(held) - (1 - alpha)) < 0.03


@pytest.mark.parametrize("alpha", [0.05, 0.25])
def test_sets_hold_the_truth_as_often_as_was_asked(logits, alpha):
    p, y = special.softmax(logits[0], axis=1), logits[1]
    sets = bagging.ConformalSets(alpha).fit(p[:2000], y[:2000]).predict(p[2000:])
    held = sets[np.arange(2000), y[2000:]].mean()
    assert abs(held - (1 - alpha)) < 0.03
    assert sets.sum(axis=1).mean() < 3


def test_the_quantile_is_the_one_that_the_promise_needs():
    from keras_multiweight.bagging.conformal import conformal_quantile

    scores = np.arange(1.0, 10.0)  # 9 of them
    assert conformal_quantile(scores, 0.1) == 9.0  # ceil(10 * 0.9) = 9
    assert conformal_quantile(scores, 0.5) == 5.0
    assert conformal_quantile(scores, 0.05) == np.inf  # ceil(10 * 0.95) = 10
    p = np.full((3, 2), 0.5)
    assert bagging.ConformalSets(0.05).fit(p, [0, 1, 0]).predict(p).all()  # too few rows: all classes


# ---- votes in blocks ----


@pytest.fixture(scope="module", params=[1, 3])
def voters(request):
    def network():
        x = keras.Input((2,))
        activation = "sigmoid" if request.param == 1 else "softmax"
        return keras.Model(x, k.Dense(request.param, activation=activation)(k.Dense(4, activation="tanh")(x)))

    return kmw.pack(oracle.members(network, 9), verify=False)


@pytest.mark.parametrize("block_size", [2, 4, 20])
def test_votes_in_blocks_are_votes_of_all(voters, block_size):
    x = np.random.default_rng(0).normal(size=(150, 2)).astype("float32")
    expected = np.asarray(kmw.layers.EnsembleVote()(voters.predict(x)))
    vote = bagging.VoteInBlocks(voters, block_size)
    np.testing.assert_array_equal(vote.predict(x), expected)
    if block_size == 2:
        assert vote.asked.mean() < 9 and vote.asked.max() == 9 and vote.asked.min() >= 5
    else:
        assert set(vote.asked) <= {8, 9}


def test_a_tie_to_come_goes_to_the_first_class():
    settled = bagging.VoteInBlocks._is_settled(np.array([[3, 1, 0], [1, 3, 0], [3, 1, 1]]), np.array([2, 2, 3]))
    assert settled.tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bagging.uncertainty(np.zeros((3, 2)), "classes"), r"answers \(B, N, C\). Received: kind='classes'"),
        (lambda: bagging.uncertainty(np.zeros((3, 2)), "words"), "kind must be"),
        (lambda: bagging.uncertainty(np.zeros((3, 2)), "numbers", quantiles=[2]), "quantiles must be numbers from 0 to 1"),
        (lambda: bagging.brier_score([[0.5, 0.5]], [2]), "integer classes from 0 to 1. Received: numbers from 2"),
        (lambda: bagging.brier_score([[1.5, -0.5]], [0]), "from 0 to 1"),
        (lambda: bagging.negative_log_likelihood([[0.5, 0.5]], [0, 1]), "one for each of the 1 rows. Received: 2"),
        (lambda: bagging.Temperature().fit(np.zeros((2, 2, 2)), [0, 1]), r"Logits must be \(B, C\)"),
        (lambda: bagging.Temperature().fit(np.zeros((2, 2)), [0, 5]), "integer classes"),
        (lambda: bagging.Temperature().probabilities(np.zeros((2, 2))), "Call fit"),
        (lambda: bagging.ConformalIntervals(0), "alpha must be a number between 0 and 1"),
        (lambda: bagging.ConformalIntervals().fit([1.0, 2.0], [1.0, np.nan]), "Targets must not be NaN"),
        (lambda: bagging.ConformalIntervals().fit([1.0], [1.0], scale=[0.0]), "scale must be positive"),
        (lambda: bagging.ConformalIntervals().fit([1.0], [1.0]).predict([1.0], scale=[1.0]), "both fit and predict"),
        (lambda: bagging.ConformalIntervals().predict([1.0]), "Call fit"),
        (lambda: bagging.ConformalIntervals().fit([[1.0, 2.0]], [1]), r"shape of the answers, \(1, 2\).*ConformalSets"),
        (lambda: bagging.ConformalSets().predict([[1.0]]), "Call fit"),
        (lambda: bagging.ConformalSets().fit([[2.0, -1.0]], [0]), "Probabilities must be from 0 to 1.*keras.ops.softmax"),
        (lambda: bagging.ConformalSets().fit([[0.5, 0.5]], [0]).predict([[2.0, -1.0]]), "Probabilities must be from 0"),
        (lambda: bagging.brier_score([[[0.5, 0.5]]], [0]), r"Probabilities must be \(B, C\), of one model"),
    ],
)
def test_wrong_data_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
