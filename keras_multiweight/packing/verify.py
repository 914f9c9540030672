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
    """Random inputs for a model, and what each member gives for them.

    Attributes:
        tolerance: The relative difference that is rounding, for the lowest precision that the model computes in.
    """

    def __init__(self, model):
        self.inputs = None
        self.outputs = []
        self.tolerance = max(TOLERANCE.get(layer.compute_dtype, 0.0) for layer in all_layers(model))

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
        if any(x is None for x in tree.flatten(self.inputs)):
            return
        packed = [ops.convert_to_numpy(y) for y in tree.flatten(_run(multi, self.inputs))]
        for i, outputs in enumerate(self.outputs):
            for k, expected in enumerate(tree.flatten(outputs)):
                self._compare(multi.member_names[i], i, k, packed[k][:, i], ops.convert_to_numpy(expected))

    def _compare(self, name, i, k, received, expected):
        if received.shape != expected.shape:
            raise RuntimeError(_report(name, i, k, f"shape {received.shape} in place of {expected.shape}"))
        error = difference(received, expected)
        if error > self.tolerance:
            what = f"a relative difference of {error:.3g}" if np.isfinite(error) else "other values"
            raise RuntimeError(_report(name, i, k, what))
        if _is_fractional(expected) and np.isnan(expected.astype("float64")).any():
            warnings.warn(f"Member {i}, {name}, gives NaN in output {k}: are its weights finite?", stacklevel=5)


def difference(received, expected):
    """How far two outputs are apart: `relative_difference`; 0 or inf for what has no fractions and must be equal."""
    if _is_fractional(expected):
        return relative_difference(received, expected)
    return 0.0 if np.array_equal(received, expected) else float("inf")


def _is_fractional(array):
    return array.dtype.kind not in "OSUbiu"  # bfloat16 is of kind V


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
    """Random inputs in the structure of `model.input`, with `size` in the place of open dimensions; None for strings."""
    rng = np.random.default_rng(seed)
    ids = min((layer.input_dim for layer in all_layers(model) if isinstance(layer, keras.layers.Embedding)), default=2)
    structure = model.input if not isinstance(model, keras.Sequential) else model.inputs[0]
    return tree.map_structure(lambda x: _random(rng, x, size, ids), structure)


def _random(rng, x, size, ids):
    shape = (x.shape[0] or ROWS, *(size if d is None else d for d in x.shape[1:]))
    dtype = keras.backend.standardize_dtype(x.dtype)
    if dtype == "string":
        return None
    if dtype == "bool":
        return ops.convert_to_tensor(rng.random(shape) < 0.5)
    if "int" in dtype:
        return ops.convert_to_tensor(rng.integers(0, ids, shape), dtype=dtype)  # a mix with arrays is refused
    return ops.convert_to_tensor(rng.standard_normal(shape), dtype=dtype)


def _fitting_inputs(model):
    """Random inputs of a size that the model takes."""
    for size in SIZES:
        inputs = random_inputs(model, size)
        try:
            if not any(x is None for x in tree.flatten(inputs)):
                _run(model, inputs)
            return inputs
        except Exception as error:  # a size that this model's kernels or reshapes do not take
            failure = error
    raise RuntimeError(
        f"The self-check found no input that model '{model.name}' takes (it tried sizes {SIZES} for open dimensions). "
        f"Pass verify=False to pack without it. The last attempt ended with {type(failure).__name__}: {failure}"
    ) from failure


def _run(model, inputs):
    if any(x is None for x in tree.flatten(inputs)):
        return []
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
