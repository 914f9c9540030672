"""verify: what it finds, what it says, and what is bit-equal."""

import keras
import numpy as np
import oracle
import pytest
from keras import layers as k
from keras import ops

import keras_multiweight as kmw


def build(dtype=None):
    x = keras.Input((6,))
    h = k.Dense(8, activation="relu", dtype=dtype)(x)
    return keras.Model(x, {"b": k.Dense(3, name="b", dtype=dtype)(h), "a": [k.Dense(2, name="a", dtype=dtype)(h)]})


@pytest.fixture(scope="module")
def models():
    return oracle.members(build)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).normal(size=(300, 6)).astype("float32")


def test_every_member_and_output_has_a_row(models, x):
    multi = kmw.pack(models)
    for report in (kmw.verify(multi, models), kmw.verify(multi, models, x)):
        assert [(row.member, row.output) for row in report] == [(i, name) for i in range(3) for name in multi.output_names]
        assert sorted(multi.output_names) == ["a", "b"]
        assert report.passed
        assert report.worst.difference < 1e-6
    assert [len(line.split("│")) for line in str(report).splitlines() if "1e-04" in line] == [8] * 6


def test_a_changed_member_is_found_by_the_data_that_shows_it(models, x):
    """Beyond the first rows: a member of which one unit is off only for large inputs."""
    multi = kmw.pack(models)
    layer = multi.get_layer(multi.weight_places()[-1][0])
    layer.bias.assign(ops.convert_to_numpy(layer.bias) + np.array([[0.0], [0.0], [0.5]]))
    report = kmw.verify(multi, models, x)
    failed = [row for row in report if not row.passed]
    assert not report.passed
    assert [(row.member, row.output) for row in failed] == [(2, layer.name.removeprefix("multi_"))]
    assert failed[0] == report.worst
    expected = models[2].predict(x, verbose=0)
    largest = np.abs(expected["b"] if failed[0].output == "b" else expected["a"][0]).max()
    assert abs(failed[0].difference - 0.5 / largest) < 1e-5
    assert str(report).count("FAILED") == 1


def test_members_are_compared_with_files_too(models, x, tmp_path):
    for i, model in enumerate(models):
        model.save(tmp_path / f"{i}.keras")
    multi = kmw.pack(models)
    report = kmw.verify(multi, str(tmp_path / "*.keras"), x)
    assert report.passed
    with pytest.raises(ValueError, match=r"each member with its own model. Received: 2 models for 3 members"):
        kmw.verify(multi, models[:2])


@pytest.mark.parametrize(("dtype", "tolerance"), [("mixed_bfloat16", 1e-1), ("mixed_float16", 2e-2), ("float64", 1e-10)])
def test_differences_are_compared_with_the_rounding_of_their_dtype(x, dtype, tolerance):
    models = oracle.members(lambda: build(dtype))
    multi = kmw.pack(models)
    report = kmw.verify(multi, models, x)
    if dtype == "float64" and keras.backend.backend() != "tensorflow":  # where Keras computes in float32, at least in part
        tolerance = 1e-4
    assert {row.tolerance for row in report} == {tolerance}
    assert report.passed
    assert report.worst.difference < tolerance / 4


def test_pack_checks_itself_on_the_data_it_is_given():
    """Random ints of one digit would not show it; the data does."""

    class OffForLargeNumbers(k.Layer):
        def call(self, x):
            return x

    kmw.register_rule(OffForLargeNumbers, lambda trace, members, x: trace.mark(ops.minimum(x, 50.0), trace.layout(x)))
    model = keras.Sequential([keras.Input((3,)), OffForLargeNumbers()])
    kmw.pack([model])
    with pytest.raises(RuntimeError, match=r"a relative difference of 0\.5 for member 0, .* where 1e-04 is rounding"):
        kmw.pack([model], inputs=np.full((2, 3), 100.0))


def test_what_only_one_side_has_is_an_infinite_difference():
    from keras_multiweight.rounding import relative_difference

    ones, nan, inf = np.ones(2), np.array([1.0, np.nan]), np.array([1.0, np.inf])
    assert relative_difference(ones, np.ones(3)) == np.inf
    assert relative_difference(nan, ones) == relative_difference(ones, nan) == relative_difference(inf, ones) == np.inf
    assert relative_difference(nan, nan) == relative_difference(inf, inf) == 0.0
    assert relative_difference(np.array([1, 2]), np.array([1, 3])) == np.inf
    assert relative_difference(ones * 1.5, ones) == 0.5


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="TensorFlow multiplies batches of matrices otherwise")
def test_dense_layers_are_bit_equal_on_jax_and_torch(x):
    """As `verify` says, for few rows: a members-first matmul computes what N matmuls compute."""

    def mlp():
        inputs = keras.Input((6,))
        return keras.Model(inputs, k.Dense(4)(k.Dense(32, activation="relu")(k.Dense(16, activation="tanh")(inputs))))

    models = oracle.members(mlp)
    assert kmw.verify(kmw.pack(models), models, x[:7]).worst.difference == 0.0
