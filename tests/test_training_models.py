"""Models, metrics and callbacks that users bring train packed as they train alone, or are refused by name."""

import keras
import numpy as np
import oracle
import pytest
import training_cases as cases
from keras import layers as k
from keras import ops

import keras_multiweight as kmw
from keras_multiweight.testing import assert_trains_alike

X, Y = cases.data(cases.mlp)
SPARSE = "sparse_categorical_crossentropy"
FIT = {"batch_size": 10, "epochs": 2}  # the last batch has 4 rows


class Centred(k.Layer):
    """Reads what it has just assigned: alone no gradient flows through it, but on JAX."""

    def build(self, shape):
        self.seen = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="seen")
        self.mean = self.add_weight(shape=shape[1:], initializer="zeros", trainable=False, name="mean")

    def call(self, x, training=False):
        if training:
            self.seen.assign(self.seen + 1)
            self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(x, axis=0))
        return x - self.mean + 0.01 * ops.cast(self.seen, x.dtype)


class Network(keras.Model):
    """Sublayers whose weights have equal names, statistics, a loss of its own, and another path in training."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = k.Dense(5, activation="tanh"), k.Dense(3, activation="softmax")
        self.normal, self.centred = k.BatchNormalization(), Centred()

    def call(self, x, training=False):
        h = self.centred(self.normal(self.first(x), training=training), training=training)
        self.add_loss(0.1 * ops.mean(ops.square(h)))
        return self.second(h * 1.5 if training else h)


def network():
    model = Network()
    model(X[:2])
    return model


@pytest.mark.filterwarnings("ignore:.*has no rule")
def test_a_subclassed_model_trains_alike():
    assert_trains_alike(network, (X, Y), {"optimizer": "sgd", "loss": SPARSE}, {**FIT, "validation_split": 0.25})


@pytest.mark.filterwarnings("ignore:.*has no rule")
def test_weights_within_a_mapped_layer_have_names_of_their_own():
    """Of weights with one path Keras on torch clears the gradient of one."""
    paths = [v.path for v in kmw.pack([network(), network()], verify=False).variables]
    assert len(set(paths)) == len(paths) == 10


def twins():
    """A model within another, called twice, whose statistics move at each call."""
    x, step = keras.Input((4,)), k.Dense(4, activation="tanh")
    inner = keras.Sequential([keras.Input((4,)), k.Dense(4, activation="tanh"), k.BatchNormalization(momentum=0.7)])
    return keras.Model(x, k.Dense(3, activation="softmax")(inner(step(x)) + inner(step(step(x)))))


def test_layers_that_are_called_twice_move_their_statistics_in_the_same_order(tmp_path):
    """Keras calls those equally far from the outputs from left to right, or back; packed, others are equally far."""
    assert_trains_alike(twins, (X, Y), {"optimizer": keras.optimizers.SGD(0.5), "loss": SPARSE}, FIT, num_members=2)
    multi = kmw.replicate(twins, 2, seed=0)
    multi.save(tmp_path / "twins.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "twins.keras").predict(X), multi.predict(X))


def masked():
    """Normalisations of what all members share, over another axis, with a mask, and with renormalisation."""
    x = keras.Input((6, 2))
    swapped = k.BatchNormalization(axis=1)(x)
    ways = [k.BatchNormalization()(k.Masking()(x)), k.BatchNormalization(renorm=True)(x), swapped]
    return keras.Model(x, k.Dense(3, activation="softmax")(k.Flatten()(k.Concatenate()(ways))))


def test_normalisations_of_masked_inputs_that_all_members_share_train_alike():
    x = np.random.default_rng(0).normal(size=(24, 6, 2)).astype("float32")
    x[::3, 4:] = 0
    assert_trains_alike(masked, (x, Y), {"optimizer": "sgd", "loss": SPARSE}, FIT, num_members=2)


def convolutions_of_float64():
    x = keras.Input((6, 6, 2))
    h = k.Conv2D(2, 2, dtype="float64")(k.Conv2D(3, 2, activation="tanh", dtype="float64")(x))
    return keras.Model(x, k.Dense(3, activation="softmax")(k.Flatten()(h)))


def test_convolutions_of_float64_train_alike():
    """On TensorFlow oneDNN has the gradient of convolutions in groups, but none of float64."""
    x = np.random.default_rng(0).normal(size=(24, 6, 6, 2)).astype("float32")
    assert_trains_alike(convolutions_of_float64, (x, Y), {"optimizer": "sgd", "loss": SPARSE}, FIT, num_members=2)


def test_a_recurrent_layer_trains_alike_in_programs_of_many_steps():
    """On TensorFlow without XLA, which does not compile its gradient."""
    options = {"optimizer": "adam", "loss": SPARSE, "metrics": ["accuracy"], "steps_per_execution": 2}
    assert_trains_alike(cases.text, cases.data(cases.text), options, FIT, num_members=2)


class OwnStep(keras.Model):
    def train_step(self, *args):
        return super().train_step(*args)


class OwnLoss(keras.Model):
    def compute_loss(self, *args, **kwargs):
        return 2 * super().compute_loss(*args, **kwargs)


@pytest.mark.parametrize(("cls", "method"), [(OwnStep, "train_step"), (OwnLoss, "compute_loss")])
def test_models_that_train_in_a_way_of_their_own_are_refused(cls, method):
    x = keras.Input((4,))
    multi = kmw.pack([cls(x, k.Dense(3)(x)) for _ in range(2)])
    assert multi.predict(X, verbose=0).shape == (24, 2, 3)
    with pytest.raises(
        ValueError, match=f"Received: models of class {cls.__name__}, which has its own {method}. Say the loss"
    ):
        multi.compile("adam", "mse")


@pytest.mark.parametrize("one_each", [False, True])
def test_variables_that_an_optimizer_knows_are_refused(one_each):
    """Of members that are updated one by one Keras would ask for others."""
    multi = kmw.replicate(cases.mlp, 2, seed=0)
    optimizer = keras.optimizers.Lamb(0.01, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_list=multi.trainable_variables[:1])
    with pytest.raises(ValueError, match=r"Received: exclude_from_weight_decay\(var_list=...\). Give var_names"):
        multi.compile([optimizer, keras.optimizers.Lamb(0.01)] if one_each else optimizer, SPARSE)


class Extremes(keras.metrics.Metric):
    """A metric of two results."""

    def __init__(self, name="extremes"):
        super().__init__(name=name)
        self.most, self.least = (self.add_variable((), "zeros", name=name) for name in ("most", "least"))

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.most.assign(ops.maximum(self.most, ops.max(y_pred)))
        self.least.assign(ops.minimum(self.least, ops.min(y_pred)))

    def result(self):
        return {"most": self.most + 0, "least": self.least + 0}


def two_answers():
    x = keras.Input((4,))
    h = k.Dense(5, activation="tanh")(k.BatchNormalization()(x))  # of which all members begin with equal weights
    return keras.Model(x, {"number": k.Dense(1, name="n")(h), "one": k.Dense(3, activation="softmax", name="o")(h)})


def test_metrics_that_were_used_before_and_metrics_of_several_results_train_alike():
    """And the losses of several outputs, of which Keras on TensorFlow shows the mean over batches, whatever their rows."""
    metrics = [
        keras.metrics.RootMeanSquaredError(),
        Extremes(),
    ]  # which the kit gives to all models
    options = {
        "optimizer": "adam",
        "loss": {"number": "mae", "one": SPARSE},
        "loss_weights": {"number": 2.0, "one": 0.3},
        "metrics": {"number": metrics},
        "steps_per_execution": 3,
    }
    targets = {"number": X[:, :1] * 2, "one": Y}
    assert_trains_alike(two_answers, (X, targets), options, {"batch_size": 5, "epochs": 2, "validation_split": 0.25})


def test_the_kit_compares_the_losses_of_outputs_whatever_their_names():
    """Which Keras makes up anew for each model."""
    x = keras.Input((4,))

    def build():
        h = k.Dense(5, activation="tanh")(x)
        return keras.Model(x, [k.Dense(1)(h), k.Dense(3, activation="softmax")(h)])

    found = assert_trains_alike(build, (X, [X[:, :1], Y]), {"optimizer": "sgd", "loss": ["mae", SPARSE]}, FIT)
    assert found < 1e-5


def test_the_kit_begins_each_training_with_the_rate_that_was_given():
    lower = keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=10, factor=0.3)
    options = {"optimizer": keras.optimizers.Adam(0.01), "loss": SPARSE}
    assert_trains_alike(cases.mlp, (X, Y), options, {**FIT, "epochs": 4, "callbacks": [lower]}, num_members=2)


def test_the_kit_refuses_a_model_that_draws_within_another():
    drawing = keras.Sequential([keras.Input((4,)), keras.Sequential([k.Dense(3), k.Dropout(0.5)])])
    with pytest.raises(ValueError, match="only without dropout and noise"):
        assert_trains_alike(lambda: keras.models.clone_model(drawing), (X, Y), {"loss": SPARSE})


def test_weights_of_steps_for_all_members_stay_as_they_are():
    """Keras on torch multiplies the sample weights of a batch by the mask, in place, before the metrics see them."""
    x, rng = cases.data(cases.text)[0], np.random.default_rng(0)
    tokens = keras.Input((6,), dtype="int32")
    h = k.GRU(4, return_sequences=True)(k.Embedding(7, 4, mask_zero=True)(tokens))
    model = keras.Model(tokens, k.Dense(3, activation="softmax")(h))
    multi = kmw.replicate(model, 2, seed=0)
    multi.compile(keras.optimizers.SGD(0.0), SPARSE, weighted_metrics=["accuracy"], member_weights=False)
    y, weights = rng.integers(0, 3, (24, 6)), rng.integers(0, 3, (24, 6)).astype("float32")
    right = multi.predict(x, verbose=0).argmax(axis=-1) == y[:, None]
    multi.fit(x, y, sample_weight=weights, batch_size=7, verbose=0)
    masked = x > 0 if keras.backend.backend() != "jax" else 1  # where metrics see no mask, packed or alone
    counted = (weights * masked)[:, None]
    oracle.assert_close(multi.member_history["accuracy"][0], (right * counted).sum(axis=(0, 2)) / counted.sum())
