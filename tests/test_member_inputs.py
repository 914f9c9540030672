"""Members that read inputs of their own, `(B, N, ...)`, in `predict` and in training."""

import keras
import numpy as np
import oracle
import pytest
import training_cases as cases
from keras import layers as k

import keras_multiweight as kmw
from keras_multiweight.testing import assert_trains_alike

N = 3
SPARSE = {"loss": "sparse_categorical_crossentropy"}


def own_rows(x, num_members=N):
    """(B, ...) -> (B, N, ...): each member gets the rows in another order."""
    return np.stack([np.roll(x, i, axis=0) for i in range(num_members)], axis=1)


def one_of_each():
    """An input of each member and one that serves all, a layer that reads both, and a mask."""
    words, numbers = keras.Input((6,), dtype="int32", name="words"), keras.Input((4,), name="numbers")
    h = k.GRU(4)(k.Embedding(7, 3, mask_zero=True)(words))
    return keras.Model({"words": words, "numbers": numbers}, [k.Dense(2, name="end")(k.Concatenate()([h, numbers])), h])


def test_members_answer_for_rows_of_their_own(tmp_path):
    models = oracle.members(cases.cnn, N)
    multi = kmw.pack(models, member_inputs=True)
    assert multi.member_inputs == [True]
    x = own_rows(cases.data(cases.cnn)[0])
    multi.save(tmp_path / "packed.keras")
    for packed in (multi, keras.models.load_model(tmp_path / "packed.keras")):
        answers = packed.predict(x, batch_size=10)
        for i, model in enumerate(models):
            oracle.assert_close(answers[:, i], model.predict(x[:, i], verbose=0), f"member {i}")


def test_some_inputs_may_serve_all_members():
    models = oracle.members(one_of_each, N)
    multi = kmw.pack(models, member_inputs={"words": False, "numbers": True})
    x = {"words": cases.data(cases.text)[0], "numbers": own_rows(cases.data(cases.mlp)[0])}
    answers = multi.predict(x)
    for i, model in enumerate(models):
        alone = model.predict({**x, "numbers": x["numbers"][:, i]}, verbose=0)
        for received, expected in zip(answers, alone, strict=True):
            oracle.assert_close(received[:, i], expected, f"member {i}")


def data_of(i):
    """Inputs, targets and weights of each member; those of member `i`, or all for None."""
    rng = np.random.default_rng(1)
    x, y = cases.data(cases.mlp)
    x, y = own_rows(x), np.stack([rng.permutation(y) for _ in range(N)], axis=1)[..., None]
    weights = rng.integers(0, 3, size=x.shape[:2]).astype("float32")
    return (x, y, weights) if i is None else (x[:, i], y[:, i], weights[:, i])


def test_members_train_alike_on_rows_of_their_own():
    adam = keras.optimizers.Adam(0.01, clipnorm=0.1)
    options = {**SPARSE, "optimizer": adam, "weighted_metrics": ["accuracy"], "steps_per_execution": 2}
    fit = {"batch_size": 5, "epochs": 2, "validation_split": 0.2}
    assert_trains_alike(cases.mlp, data_of, options, fit, member_inputs=True)


def test_evaluate_and_single_batches_read_rows_of_each_member():
    x, y, weights = data_of(None)
    multi = kmw.replicate(cases.mlp, N, seed=0, member_inputs=True)
    multi.compile("sgd", **SPARSE, weighted_metrics=["accuracy"])
    expected = []
    for i, single in enumerate(multi.unpack()):
        single.compile("sgd", **SPARSE, weighted_metrics=["accuracy"])
        expected.append([single.evaluate(*data_of(i)[:2], sample_weight=weights[:, i], verbose=0)])
        expected[-1].append(single.train_on_batch(*data_of(i)))
        expected[-1].append(single.test_on_batch(*data_of(i)))
    received = [multi.evaluate(x, y, sample_weight=weights, verbose=0), multi.train_on_batch(x, y, weights)]
    oracle.assert_close([*received, multi.test_on_batch(x, y, weights)], np.mean(expected, axis=0))


def test_rows_of_the_wrong_number_of_members_are_named():
    x = own_rows(cases.data(cases.mlp)[0], N + 1)
    multi = kmw.replicate(cases.mlp, N, seed=0, member_inputs=True)
    with pytest.raises(ValueError, match=r"must have shape \(None, 3, 4\). Received: shape \(24, 4, 4\)"):
        multi.predict(x)
    multi.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"(?s)\(None, 3, 4\).*\(.*, 4, 4\)"):
        multi.fit(x, np.zeros((24, 3)), verbose=0)


def test_as_many_bools_as_inputs_are_needed():
    with pytest.raises(ValueError, match=r"a structure of bools for the 2 inputs of the model. Received"):
        kmw.pack([one_of_each()], member_inputs=[True])


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="Keras on torch has no sparse inputs")
def test_sparse_inputs_have_no_member_axis():
    build = lambda: keras.Sequential([keras.Input((3,), sparse=True, name="x"), k.Dense(1)])  # noqa: E731
    with pytest.raises(ValueError, match=r"A sparse input has no member axis.*Received: 'x'"):
        kmw.pack([build()], member_inputs=True)


def test_groups_read_the_same_inputs():
    models = [keras.Sequential([keras.Input((3,)), k.Dense(2, activation=name)]) for name in ("relu", "tanh")]
    with pytest.raises(ValueError, match="member_inputs and group=True"):
        kmw.pack(models, group=True, member_inputs=True)


def test_verify_reads_rows_of_each_member():
    models = oracle.members(cases.mlp, N)
    multi = kmw.pack(models, member_inputs=True)
    assert kmw.verify(multi, models, own_rows(cases.data(cases.mlp)[0])).passed
    assert kmw.verify(multi, models).passed
    assert not kmw.verify(multi, models[::-1]).passed
