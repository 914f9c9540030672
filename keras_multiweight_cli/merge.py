"""The command `merge`: several saved models as one, with a table of what each step gives."""

import numpy as np

from keras_multiweight_cli.arrays import inputs, read_arrays
from keras_multiweight_cli.start import errors, library
from keras_multiweight_cli.tables import merge_table

TARGETS = "y"


def read_data(path):
    """The inputs by name, and the targets, which are the array `y` of an .npz file, or None."""
    arrays = read_arrays(path)
    return arrays, arrays.pop(TARGETS, None)


def merged(paths, align, repair, data, loss):
    """The merged model, and a table of the steps if there are targets.

    Args:
        paths: Saved models.
        align: "weights", "activations" or "none".
        repair: A path of inputs for repair and for activations, or None.
        data: A path of inputs and targets to score on; None for those of `repair`, if it has targets.
        loss: Keras's name of the loss; None for that of classes if the targets are whole numbers, else "mse". For classes,
            answers that are no probabilities are taken for logits.
    """
    library()
    from keras_multiweight import merging
    from keras_multiweight.merging.members import open_for_merging

    with errors.status("Reading the models"):
        members = open_for_merging(paths)
    calibration = None
    if repair:
        arrays, y = read_data(repair)
        calibration = _inputs(members, arrays, repair)
        data = repair if data is None and y is not None else data
    alignment = None
    if align != "none":
        with errors.status(f"Matching {len(members)} members by {align}"):
            match = merging.weight_matching if align == "weights" else merging.activation_matching
            alignment = match(members) if align == "weights" else match(members, calibration)
    with errors.status("Averaging"):
        steps = {"average as they are": merging.merge_members(members, align=None)}
        if alignment:
            steps["average of aligned members"] = merging.merge_members(members, align=alignment)
        if repair:
            steps["repaired"] = merging.merge_members(members, align=alignment, repair=calibration)
    return list(steps.values())[-1], data and _table(members, steps, data, loss)


def _inputs(members, arrays, path):
    from keras_multiweight.packing.graph import as_functional

    return inputs(as_functional(members.template), arrays, path)


def _table(members, steps, path, loss):
    """The loss of each member, of each step, and of the ensemble."""
    import keras

    arrays, y = read_data(path)
    if y is None:
        raise ValueError(f"DATA must be an .npz file with the inputs and the targets as '{TARGETS}'. Received: '{path}'.")
    x = _inputs(members, arrays, path)
    answers = {f"member {i}": members.model(members.weights(i)).predict(x, verbose=0) for i in range(len(members))}
    answers |= {name: model.predict(x, verbose=0) for name, model in steps.items()}
    if loss is None and y.dtype.kind in "iu":
        loss, answers = _of_classes(answers)
    loss = loss or "mse"
    function = keras.losses.get(loss)
    alone = [answers[f"member {i}"] for i in range(len(members))]
    answers["ensemble"] = sum(alone) / len(alone)
    y = y[:, None] if y.ndim == 1 == alone[0].shape[-1] else y
    scores = {name: float(np.mean(keras.ops.convert_to_numpy(function(y, y_)))) for name, y_ in answers.items()}
    return merge_table(path, loss, scores)


def _of_classes(answers):
    """The loss for targets that are classes, and the answers as probabilities: others are taken for logits."""
    import keras

    binary = next(iter(answers.values())).shape[-1] == 1
    loss, link = ("binary_crossentropy", "sigmoid") if binary else ("sparse_categorical_crossentropy", "softmax")
    if not all(_are_probabilities(y, binary) for y in answers.values()):
        function = keras.activations.get(link)
        answers = {name: keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(y))) for name, y in answers.items()}
    return loss, answers


def _are_probabilities(y, binary):
    return y.min() >= 0 and (y.max() <= 1 if binary else np.allclose(y.sum(axis=-1), 1, atol=1e-2))
