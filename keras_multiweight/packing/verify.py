"""The self-check of a pack: packed outputs against each member's own, on random inputs."""

import warnings

import keras
import numpy as np
from keras import ops, tree

from keras_multiweight.copies import all_layers

ROWS = 3  # of the random inputs
SIZES = (8, 32, 64, 128, 17)  # tried in turn for dimensions that a model leaves open
TOLERANCE = {"float64": 1e-9, "float32": 1e-4, "bfloat16": 1e-1, "float16": 2e-2}


class Probe:
    """Random inputs for a model, and what each member gives for them."""

    def __init__(self, model):
        self.inputs = None
        self.outputs = []
        self._tolerance = max(TOLERANCE.get(layer.compute_dtype, 0.0) for layer in all_layers(model))

    def record(self, model):
        """Run one member on the inputs, and keep its outputs."""
        if self.inputs is None:
            self.inputs = _fitting_inputs(model)
        self.outputs.append(_run(model, self.inputs))

    def check(self, multi):
        """Compare a packed model with the members that were recorded.

        Raises:
            RuntimeError: A member's outputs differ by more than rounding.
        """
        packed = [ops.convert_to_numpy(y) for y in tree.flatten(_run(multi, self.inputs))]
        for i, outputs in enumerate(self.outputs):
            for k, expected in enumerate(tree.flatten(outputs)):
                self._compare(multi.member_names[i], i, k, packed[k][:, i], ops.convert_to_numpy(expected))

    def _compare(self, name, i, k, received, expected):
        if received.shape != expected.shape:
            raise RuntimeError(_report(name, i, k, f"shape {received.shape} in place of {expected.shape}"))
        if expected.dtype.kind in "OSUbiu":
            if not np.array_equal(received, expected):
                raise RuntimeError(_report(name, i, k, "other values"))
            return
        if np.isnan(expected.astype("float64")).any():
            warnings.warn(f"Member {i}, {name}, gives NaN in output {k}: are its weights finite?", stacklevel=5)
        error = relative_difference(received, expected)
        if error > self._tolerance:
            raise RuntimeError(_report(name, i, k, f"a relative difference of {error:.3g}"))


def relative_difference(received, expected):
    """The largest difference, relative to the largest number that is expected. NaN equals NaN, inf equals inf."""
    received, expected = np.asarray(received, "float64"), np.asarray(expected, "float64")
    same = (received == expected) | (np.isnan(received) & np.isnan(expected))
    if same.all():
        return 0.0
    finite = np.abs(expected[np.isfinite(expected)])
    scale = max(finite.max(initial=0.0), 1e-30)
    difference = np.abs(received - expected)[~same].max()
    return float(difference / scale) if np.isfinite(difference) else float("inf")


def random_inputs(model, size, seed=0):
    """Random inputs in the structure of `model.input`, with `size` in the place of open dimensions."""
    draw = _Draw(model, size, seed)
    structure = model.input if not isinstance(model, keras.Sequential) else model.inputs[0]
    return tree.map_structure(draw, structure)


class _Draw:
    """Draws values for one input after another that the layers of a model take."""

    def __init__(self, model, size, seed):
        layers = all_layers(model)
        self.rng = np.random.default_rng(seed)
        self.size = size
        self.ids = min((layer.input_dim for layer in layers if isinstance(layer, keras.layers.Embedding)), default=2)
        lookups = [x for x in layers if isinstance(x, (keras.layers.StringLookup, keras.layers.IntegerLookup))]
        tokens = [token for lookup in lookups for token in lookup.get_vocabulary(include_special_tokens=False)]
        strict = any(lookup.num_oov_indices == 0 for lookup in lookups)
        self.words = [token for token in tokens if isinstance(token, str)] + ["unknown"] * (not strict) or [""]
        self.numbers = [int(token) for token in tokens if not isinstance(token, str)]
        self.sentences = any(isinstance(layer, keras.layers.TextVectorization) for layer in layers)

    def __call__(self, x):
        shape = (x.shape[0] or ROWS, *(self.size if d is None else d for d in x.shape[1:]))
        dtype = keras.backend.standardize_dtype(x.dtype)
        if dtype == "string":
            return ops.convert_to_tensor(self._strings(shape))
        if dtype == "bool":
            return ops.convert_to_tensor(self.rng.random(shape) < 0.5)
        if "int" in dtype:
            numbers = self.rng.choice(self.numbers, shape) if self.numbers else self.rng.integers(0, self.ids, shape)
            return ops.convert_to_tensor(numbers, dtype=dtype)  # a mix with arrays is refused
        return ops.convert_to_tensor(self.rng.standard_normal(shape), dtype=dtype)

    def _strings(self, shape):
        lengths = self.rng.integers(1, 5, shape) if self.sentences else np.ones(shape, int)
        texts = [" ".join(self.rng.choice(self.words, length)) for length in lengths.ravel()]
        return np.reshape(np.array(texts, dtype=object), shape)


def _fitting_inputs(model):
    """Random inputs of a size that the model takes."""
    for size in SIZES:
        try:
            inputs = random_inputs(model, size)
            _run(model, inputs)
            return inputs
        except Exception as error:  # a size that this model's kernels or reshapes do not take
            failure = error
    raise RuntimeError(
        f"The self-check found no input that model '{model.name}' takes (it tried sizes {SIZES} for open dimensions). "
        f"Pass verify=False to pack without it. The last attempt ended with {type(failure).__name__}: {failure}"
    ) from failure


def _run(model, inputs):
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            return model(inputs, training=False)
    return model(inputs, training=False)


def _report(name, i, k, what):
    return (
        f"The packed model must give what its members give. Received: {what} for member {i}, {name}, output {k}. "
        "This is a defect of keras_multiweight, or a layer whose output depends on more than its inputs and weights; "
        "pass verify=False to pack all the same."
    )
