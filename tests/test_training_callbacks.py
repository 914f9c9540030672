"""Callbacks of `fit` that act on each member alone."""

import csv

import keras
import numpy as np
import oracle
import pytest
import training_cases as cases

import keras_multiweight as kmw

OPTIONS = {"batch_size": 8, "shuffle": False, "verbose": 0, "validation_split": 0.25}


def compiled(**options):
    multi = kmw.replicate(cases.mlp, 3, seed=0)
    multi.compile([keras.optimizers.Adam(0.3) for _ in range(3)], "sparse_categorical_crossentropy", **options)
    return multi


def test_members_stop_alone_with_the_weights_of_their_best_epoch():
    """As Keras's own EarlyStopping stops each member alone."""
    multi = compiled()
    singles = multi.unpack()
    stopping = kmw.callbacks.MemberEarlyStopping(patience=2)
    multi.fit(*cases.data(cases.mlp), epochs=15, callbacks=[stopping], **OPTIONS)
    epochs = []
    for i, single in enumerate(singles):
        alone = keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True)
        single.compile(keras.optimizers.Adam(0.3), "sparse_categorical_crossentropy")
        single.fit(*cases.data(cases.mlp), epochs=15, callbacks=[alone], **OPTIONS)
        epochs.append(alone.best_epoch)
        for received, expected in zip(multi.member_weights(i), single.get_weights()):
            oracle.assert_close(received, expected, f"member {i}", tolerance=1e-4)
    assert stopping.best_epoch.tolist() == epochs
    assert len(set(epochs)) > 1, "the members must stop at different epochs for this test to say anything"


def test_files_rows_and_learning_rates_are_each_members_own(tmp_path):
    multi = compiled()
    callbacks = [
        kmw.callbacks.MemberCheckpoint(tmp_path / "best" / "{member}.keras"),
        kmw.callbacks.MemberCSVLogger(tmp_path / "log.csv"),
        kmw.callbacks.MemberReduceLROnPlateau(patience=[1, 100, 100], factor=0.5, min_delta=[1e6, 0, 0]),
        keras.callbacks.CSVLogger(tmp_path / "means.csv"),
    ]
    x, y = cases.data(cases.mlp)
    multi.fit(x, y, epochs=4, callbacks=callbacks, **OPTIONS)
    with open(tmp_path / "log.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val_loss_2"]) for row in rows] == pytest.approx(multi.member_history["val_loss"][:, 2])
    for i in range(3):
        best = keras.models.load_model(tmp_path / "best" / f"{i}.keras")
        best.compile(loss="sparse_categorical_crossentropy")
        loss = best.evaluate(x[18:], y[18:], verbose=0)
        assert loss == pytest.approx(multi.member_history["val_loss"][:, i].min(), rel=1e-4)
    rates = keras.ops.convert_to_numpy(multi.optimizer.member_learning_rates)
    np.testing.assert_allclose(rates, [0.3 * 0.5**3, 0.3, 0.3], rtol=1e-6)


def test_tensorboard_has_a_run_of_each_member(tmp_path):
    pytest.importorskip("tensorboard")  # which TensorFlow writes with
    tf = pytest.importorskip("tensorflow")
    multi = compiled()
    multi.fit(*cases.data(cases.mlp), epochs=2, callbacks=[kmw.callbacks.MemberTensorBoard(tmp_path)], **OPTIONS)
    for i in range(3):
        for part, name in (("train", "loss"), ("validation", "val_loss")):
            (path,) = (tmp_path / f"member_{i}" / part).glob("events.*.v2")
            values = [v for event in tf.compat.v1.train.summary_iterator(str(path)) for v in event.summary.value]
            received = [float(tf.make_ndarray(v.tensor)) for v in values if v.tag == "epoch_loss"]
            assert received == pytest.approx(multi.member_history[name][:, i])


def test_a_monitor_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"among \['loss', 'val_loss'\].*Received: monitor='accuracy'"):
        compiled().fit(*cases.data(cases.mlp), callbacks=[kmw.callbacks.MemberEarlyStopping("accuracy")], **OPTIONS)


def test_one_optimizer_has_one_learning_rate():
    multi = kmw.replicate(cases.mlp, 3, seed=0)
    multi.compile("adam", "mse")
    with pytest.raises(ValueError, match="one optimizer a member"):
        multi.optimizer.member_learning_rates = [0.1, 0.2, 0.3]
