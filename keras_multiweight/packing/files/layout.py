"""Where each weight of a model lies in the files that Keras writes for it.

In legacy files: for each of `model.layers` that has weights, in order, its trainable and then its other weights.

In files of Keras 3 the names come from attributes of layers. They are learned from Keras itself: the model is saved once
with a number of its own in each weight, and where the number is found, the weight is. What is stored beside the weights,
such as the document frequencies of a TextVectorization, is state: its layers serve all members, so it must be equal.
"""

import pathlib
import tempfile
import warnings

import numpy as np
from keras import ops

from keras_multiweight.copies import all_layers
from keras_multiweight.packing.files.formats import KerasFile

RANDOM_STATE = "seed_generator"  # which early versions of Keras 3 saved; it is no weight
FIRST_NUMBER = 101  # of those that every dtype has exactly, and unlikely for a state


class Layout:
    """The places of a model's weights in files of one kind.

    Attributes:
        indices: `{key: index}`: which of `model.weights` a key of a file holds, or None for state. A weight that two layers
            share can have several keys.
        state: `{key: array}` of what is stored beside the weights.
        assets: `{name: bytes}` of the files that layers keep.
    """

    def __init__(self, model, indices, state=None, assets=None):
        self.indices = indices
        self.state = state or {}
        self.assets = assets or {}
        self._weights = model.weights
        values = values_of(model)
        self._expected = [_shape_and_dtype(value) for value in values]
        self._dtypes = [value.dtype for value in values]

    def fits(self, tensors):
        """Whether a file has all keys of this layout, and all weights are among them."""
        return set(self.indices) <= set(tensors) and len({*self.indices.values()} - {None}) == len(self._weights)

    def differences(self, tensors):
        """`(weight or key, expected, received)` for what is not the model's in a file that fits. No weight is read."""
        for key in self.extra(tensors):
            yield key, None, tuple(tensors[key].shape)
        for key, index in self.indices.items():
            if index is None:
                if not _same_bits(self.state[key], tensors[key][()]):
                    yield key, self.state[key].tolist(), "other values"
            elif _shape_and_dtype(tensors[key]) != self._expected[index]:
                yield self._weights[index].path, self._expected[index], _shape_and_dtype(tensors[key])

    def extra(self, tensors):
        """The keys of a file that are the weights of no layer of the model. Keras would leave them out in silence."""
        return [key for key in tensors if key not in self.indices and RANDOM_STATE not in key.split("/")]

    def read(self, tensors):
        """The values of all weights, in order, from tensors without `differences`."""
        values = [None] * len(self._weights)
        for key, index in self.indices.items():
            if index is None:
                continue
            value = tensors[key][()].view(self._dtypes[index])
            if values[index] is not None and not _same_bits(values[index], value):
                raise ValueError(
                    f"the weight '{self._weights[index].path}' is there twice, with different values, at '{key}'"
                )
            values[index] = value
        return values


def legacy_layout(model):
    """The `Layout` of a model in legacy files."""
    indices = {id(weight): index for index, weight in enumerate(model.weights)}
    layers = [layer for layer in model.layers if layer.weights]
    orders = [layer.trainable_weights + layer.non_trainable_weights for layer in layers]
    return Layout(model, {f"{i}/{k}": indices[id(w)] for i, order in enumerate(orders) for k, w in enumerate(order)})


def learned_layout(model):
    """The `Layout` of a model in files of Keras 3. The model is left as it was."""
    values = values_of(model)
    numbers = _numbers(values)
    with tempfile.TemporaryDirectory(prefix="keras-multiweight-") as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The object being serialized includes a `lambda`")
        path = pathlib.Path(folder, "numbered.keras")
        try:
            assign(model, numbers)
            model.save(path)
        finally:
            assign(model, values)
        file = KerasFile(path)
    stored = {key: dataset[()] for key, dataset in file.tensors().by_path().items()}
    by_number = {_number(value): index for index, value in enumerate(numbers)}
    indices = {key: by_number.get(_number(value)) for key, value in stored.items()}
    state = {key: stored[key] for key, index in indices.items() if index is None}
    layout = Layout(model, indices, state, file.assets())
    file.close()
    return layout


def values_of(model):
    """Copies of the weights as NumPy arrays."""
    return [np.array(ops.convert_to_numpy(weight)) for weight in model.weights]


def assign(model, values):
    """Set the weights of a model, and what its layers derive from them: a Normalization its mean and variance."""
    for weight, value in zip(model.weights, values, strict=True):
        weight.assign(value)
    for layer in all_layers(model):
        if layer.weights and hasattr(layer, "finalize_state"):
            layer.finalize_state()


def _numbers(values):
    """Arrays that are all one number, which no other array of the same shape and dtype has."""
    counts, numbers = {}, []
    for value in values:
        kind = value.shape, value.dtype
        counts[kind] = counts.get(kind, FIRST_NUMBER - 1) + 1
        numbers.append(np.full(value.shape, np.array(counts[kind]).astype(value.dtype)))
    return numbers


def _number(value):
    """What tells such an array: shape, size of an element, and the element if all are equal."""
    data = value.tobytes()
    first = data[: value.dtype.itemsize]
    return value.shape, value.dtype.itemsize, first if data == first * value.size else None


def _shape_and_dtype(array):
    """What HDF5 knows of it: bfloat16 is two bytes of no meaning."""
    return tuple(array.shape), "bfloat16" if array.dtype.kind == "V" and array.dtype.itemsize == 2 else array.dtype.name


def _same_bits(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
