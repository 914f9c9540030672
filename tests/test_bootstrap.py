"""Which rows and features each member draws, and weights for streams."""

import keras
import numpy as np
import oracle
import pytest

import keras_multiweight as kmw


def test_counts_weights_and_masks_are_those_of_the_indices():
    bootstrap = kmw.Bootstrap(30, 4, max_samples=0.7, seed=0)
    assert [len(rows) for rows in bootstrap.indices] == [21] * 4
    for i, rows in enumerate(bootstrap.indices):
        expected = np.array([np.sum(rows == r) for r in range(30)])
        np.testing.assert_array_equal(bootstrap.counts[:, i], expected)
        np.testing.assert_allclose(bootstrap.weights[:, i], expected * 30 / 21, rtol=1e-6)
        assert set(np.flatnonzero(bootstrap.oob_mask[:, i])) == set(range(30)) - set(rows)
    assert bootstrap.weights.dtype == "float32" and bootstrap.features is None


def test_mean_loss_by_weights_is_the_mean_loss_over_the_rows_drawn():
    bootstrap, losses = kmw.Bootstrap(30, 5, max_samples=11, seed=1), np.random.default_rng(0).random(30)
    expected = [losses[rows].mean() for rows in bootstrap.indices]
    np.testing.assert_allclose((losses[:, None] * bootstrap.weights).mean(axis=0), expected, rtol=1e-6)


def test_draws_are_of_the_seed_and_of_each_member_alone():
    first, more = kmw.Bootstrap(50, 3, seed=7), kmw.Bootstrap(50, 5, seed=7, num_features=9, max_features=4)
    for a, b in zip(first.indices, more.indices):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(first.indices[0], first.indices[1])
    assert not np.array_equal(kmw.Bootstrap(50, 1).indices[0], kmw.Bootstrap(50, 1).indices[0])


def test_a_share_of_all_rows_without_replacement_is_a_permutation():
    bootstrap = kmw.Bootstrap(20, 3, replace=False, seed=0)
    assert all(sorted(rows) == list(range(20)) for rows in bootstrap.indices)
    half = kmw.Bootstrap(20, 3, max_samples=0.5, replace=False, seed=0)
    assert (half.counts.max(axis=0) == 1).all() and (half.counts.sum(axis=0) == 10).all()


def test_about_a_third_of_the_rows_is_out_of_bag():
    assert kmw.Bootstrap(2000, 20, seed=0).oob_mask.mean() == pytest.approx((1 - 1 / 2000) ** 2000, abs=0.01)


@pytest.mark.parametrize("replace", [True, False])
def test_strata_keep_their_shares(replace):
    labels = np.array(list("aaaaaaaaaabbbbbc"))
    bootstrap = kmw.Bootstrap(16, 40, max_samples=8, replace=replace, stratify=labels, seed=0)
    drawn = np.array([[(labels[rows] == c).sum() for c in "abc"] for rows in bootstrap.indices])
    assert (drawn[:, 0] == 5).all() and (drawn.sum(axis=1) == 8).all()
    assert set(drawn[:, 1]) == {2, 3} and set(drawn[:, 2]) == {0, 1}  # the half row is given by chance


def test_groups_are_drawn_whole():
    groups = np.array([3, 1, 1, 2, 3, 3])
    bootstrap = kmw.Bootstrap(6, 30, groups=groups, seed=0)
    for counts in bootstrap.counts.T:
        assert all(len(set(counts[groups == g])) == 1 for g in (1, 2, 3))
        assert sum(counts[np.array([1, 3, 0])]) == 3
    one = kmw.Bootstrap(6, 10, max_samples=1, groups=groups, seed=0)
    assert all(len(set(groups[rows])) == 1 for rows in one.indices)


def test_blocks_are_runs_of_rows():
    for rows in kmw.Bootstrap(50, 20, block=7, seed=0).indices:
        assert len(rows) == 50
        assert all((np.diff(rows[at : at + 7]) == 1).all() for at in range(0, 50, 7))


def test_features_are_drawn_per_member():
    x = np.random.default_rng(0).random((5, 8))
    bootstrap = kmw.Bootstrap(5, 3, num_features=8, max_features=0.5, seed=0)
    assert bootstrap.features.shape == (3, 4) and all(len(set(f)) == 4 for f in bootstrap.features)
    taken = bootstrap.take_features(x)
    for i in range(3):
        np.testing.assert_array_equal(taken[:, i], x[:, bootstrap.features[i]])
    repeated = kmw.Bootstrap(5, 50, num_features=8, max_features=8, bootstrap_features=True, seed=0).features
    assert repeated.shape == (50, 8) and any(len(set(f)) < 8 for f in repeated)
    assert kmw.Bootstrap(5, 3, seed=0).take_features(x) is x


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_rows": -3}, "num_rows must be an int of at least 1. Received: num_rows=-3"),
        ({"num_members": 2.5}, "num_members must be an int"),
        ({"max_samples": 0}, "max_samples must be an int of at least 1"),
        ({"max_samples": -0.5}, "max_samples as a float must be a positive fraction"),
        ({"max_samples": 1.5, "replace": False}, "at most 1 without replacement"),
        ({"max_samples": 11, "replace": False}, "max_samples must be at most 10"),
        ({"stratify": [0, 1]}, r"stratify must have one label for each of the 10 rows. Received: shape \(2,\)"),
        ({"groups": [0] * 11}, "groups must have one label"),
        ({"groups": [0] * 10, "block": 2}, "Rows are drawn in one way. Received: groups and block"),
        ({"block": 11}, "runs of at most num_rows=10"),
        ({"block": 2, "replace": False}, "with replacement"),
        ({"max_features": 0.5}, "num_features must be given"),
        ({"num_features": 3, "max_features": 4}, "max_features must be at most 3"),
        ({"num_rows": np.zeros((10, 3))}, r"num_rows must be an int of at least 1. Received: an array of shape \(10, 3\)"),
        ({"seed": -1}, "seed must be an int of at least 0, or None. Received: seed=-1"),
        ({"seed": 0.5}, "seed must be an int of at least 0"),
    ],
)
def test_wrong_sizes_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        kmw.Bootstrap(**{"num_rows": 10, "num_members": 2, **arguments})


# ---- streams ----


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, weights=None):
        super().__init__()
        self.x, self.y, self.weights = x, y, weights

    def __len__(self):
        return 3

    def __getitem__(self, k):
        part = slice(4 * k, 4 * k + 4)
        own = () if self.weights is None else (self.weights[part],)
        return {"a": self.x[part]}, self.y[part], *own


@pytest.fixture(scope="module")
def stream():
    rng = np.random.default_rng(0)
    return rng.random((10, 2), "float32"), rng.random((10, 1), "float32"), rng.random(10, "float32")


def batches_of(kind, x, y, weights):
    if kind == "PyDataset":
        return Batches(x, y, weights)
    if kind == "generator":
        return (Batches(x, y, weights)[k] for k in range(3))
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(({"a": x}, y, weights) if weights is not None else ({"a": x}, y)).batch(4)


@pytest.mark.parametrize("kind", ["PyDataset", "tf.data", "generator"])
@pytest.mark.parametrize("weighted", [False, True])
def test_streams_get_the_weights_of_their_batches(stream, kind, weighted):
    x, y, given = stream
    poisson = kmw.PoissonWeights(3, rate=2.0, seed=0)
    data = poisson.weigh(batches_of(kind, x, y, given if weighted else None))
    for epoch in range(1 if kind == "generator" else 2):
        batches = [data[k] for k in range(3)] if kind == "PyDataset" else list(data)
        for k, (got_x, got_y, got) in enumerate(batches):
            part = slice(4 * k, 4 * k + 4)
            np.testing.assert_array_equal(got_x["a"], x[part])
            np.testing.assert_array_equal(got_y, y[part])
            expected = poisson.batch_weights(k, len(x[part])) * (given[part][:, None] if weighted else 1)
            np.testing.assert_array_equal(got, expected, f"epoch {epoch}, batch {k}")


def test_poisson_weights_have_mean_and_variance_of_their_rate():
    weights = kmw.PoissonWeights(50, rate=1.5, seed=0).batch_weights(3, 2000)
    assert weights.mean() == pytest.approx(1.5, abs=0.02) and weights.var() == pytest.approx(1.5, abs=0.05)


def test_a_stream_trains_as_arrays_with_the_same_weights(stream):
    x, y, _ = stream
    multis = [
        kmw.replicate(keras.Sequential([keras.Input((2,), name="a"), keras.layers.Dense(1)]), 3, seed=0) for _ in range(2)
    ]
    poisson = kmw.PoissonWeights(3, seed=0)
    for multi in multis:
        multi.compile("sgd", "mse")
    multis[0].fit(poisson.weigh(Batches(x, y)), epochs=2, shuffle=False, verbose=0)
    weights = np.concatenate([poisson.batch_weights(k, n) for k, n in enumerate((4, 4, 2))])
    multis[1].fit({"a": x}, y, sample_weight=weights, batch_size=4, epochs=2, shuffle=False, verbose=0)
    for expected, received in zip(multis[1].get_weights(), multis[0].get_weights()):
        oracle.assert_close(received, expected)


def test_wrong_streams_are_named(stream):
    with pytest.raises(ValueError, match="Received: a ndarray"):
        kmw.PoissonWeights(3).weigh(stream[0])
    with pytest.raises(ValueError, match="rate must be a positive number"):
        kmw.PoissonWeights(3, rate=0)
