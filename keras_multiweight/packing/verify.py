"""verify: packed outputs against each member's own."""

import warnings

import keras
import numpy as np
from keras import ops, tree

from keras_multiweight.callers import stack_level
from keras_multiweight.copies import all_layers
from keras_multiweight.packing.files import open_members
from keras_multiweight.packing.graph import input_structure
from keras_multiweight.packing.inputs import member_rows, spread_rows
from keras_multiweight.packing.report import Report, Row
from keras_multiweight.rounding import TOLERANCE, relative_difference

ROWS = 3  # of the random inputs
BATCH_SIZE = 256  # rows of data that are computed at once
SIZES = (8, 32, 64, 128, 17)  # tried in turn for dimensions that a model leaves open


def verify(multi, models, x=None, *, custom_objects=None):
    """How far the answers of a packed model are from those of its members.

    Embeddings, pooling and all that is computed once are bit-equal on every backend, and so are dense layers of few rows on
    JAX and torch, where a matmul with the members first computes what N matmuls compute. The rest is equal up to the
    rounding of sums in another order: in float32 below 1e-6 of the largest number for one or two layers, and at most 1e-4
    after the hundreds of layers of `keras.applications`. Which layers are bit-equal depends on the backend and its version,
    on the processor and the sizes (an input of many rows that all members share is one wide product);
    `benchmarks/exactness.py` measures it for some.

    Args:
        multi: A `MultiModel`.
        models: Its members, in order: Keras models, paths or a pattern, as for `pack`.
        x: Data, as `multi.predict` takes it. Left out, a few rows of random numbers.
        custom_objects: Dict of names to custom classes or functions in the files.

    Returns:
        A `Report`: for each member and output the largest difference, relative to the largest number of that output, and
        the tolerance that `pack` allows for the dtype that the model computes in. `str(report)` is a table, `report.passed`
        whether all differences are tolerable, `report.worst` the row of the largest.

    Raises:
        ValueError: As many models as members are needed.

    Example:

    ```python
    report = kmw.verify(multi, models, x)
    print(report)
    assert report.passed and report.worst.difference < 1e-5
    ```
    """
    source = open_members(models, custom_objects)
    if len(source.names) != multi.num_members:
        raise ValueError(
            f"verify compares each member with its own model. Received: {len(source.names)} models for "
            f"{multi.num_members} members."
        )
    probe = Probe(source.template(), x, flags=multi.member_inputs, num_members=multi.num_members, is_packed=True)
    for member in source:
        probe.record(member.load())
    return probe.report(multi)


class Probe:
    """Inputs for a model, and what each member gives for them.

    Args:
        model: The model of one member.
        data: Arrays; or, in their place, KerasTensors or None: then random numbers are drawn.
        rows: int, how many of the first rows of the data are taken.
        flags: Which inputs are of each member: see `packing/inputs.py`. Left out, none is.
        num_members: int, N.
        is_packed: bool. The data is what the packed model reads, and not what one member reads.

    Attributes:
        outputs: For each model that was recorded, its outputs as NumPy arrays.
        tolerance: The relative difference that is rounding, for the lowest precision that the model computes in.
    """

    def __init__(self, model, data=None, rows=None, flags=(), num_members=None, is_packed=False):
        is_data = data is not None and not any(isinstance(x, keras.KerasTensor) for x in tree.flatten(data))
        self._flags, self._num_members = flags, num_members
        self.inputs = tree.map_structure(lambda x: np.asarray(x[:rows]), data) if is_data else None
        if is_data and not is_packed:
            self.inputs = self._spread(self.inputs)
        self.outputs = []
        self._specs = None if is_data else data
        self.tolerance = _tolerance(model)

    def record(self, model):
        """Run one member on the inputs, and keep its outputs."""
        if self.inputs is None:
            self.inputs = self._spread(_fitting_inputs(model, self._specs))
        own = member_rows(self.inputs, self._flags, len(self.outputs)) if any(self._flags) else self.inputs
        self.outputs.append(run_in_batches(model, own))

    def _spread(self, inputs):
        return spread_rows(inputs, self._flags, self._num_members) if any(self._flags) else inputs

    def report(self, multi):
        """Compare a packed model with the members that were recorded."""
        packed = tree.flatten(run_in_batches(multi, self.inputs))
        rows = Report()
        for i, outputs in enumerate(self.outputs):
            for output, expected in enumerate(tree.flatten(outputs)):
                difference = relative_difference(packed[output][:, i], expected)
                tolerance = max(self.tolerance, TOLERANCE.get(expected.dtype.name, 0.0))
                rows.append(Row(i, multi.member_names[i], multi.output_names[output], difference, tolerance))
        return rows

    def check(self, multi):
        """Raise where `report` finds a difference that is more than rounding.

        Raises:
            RuntimeError: A member's outputs differ.
        """
        self._warn_of_nan(multi)
        failed = [row for row in self.report(multi) if not row.passed]
        if failed:
            raise RuntimeError(
                "The packed model must give what its members give. Received:\n"
                + "\n".join(f"  {row}" for row in failed[:10])
                + "\nThis is a defect of keras_multiweight, a registered rule that does not fit its layer, or a layer whose "
                "output depends on more than its inputs and weights; pass verify=False to pack all the same."
            )

    def _warn_of_nan(self, multi):
        for i, outputs in enumerate(self.outputs):
            for name, y in zip(multi.output_names, tree.flatten(outputs)):
                if y.dtype.kind not in "OSUbiu" and np.isnan(y.astype("float64")).any():
                    warnings.warn(
                        f"Member {i}, {multi.member_names[i]}, gives NaN in output '{name}': are its weights finite?",
                        stacklevel=stack_level(),
                    )


def _tolerance(model):
    """That of the coarsest dtype that a layer computes in; models and inputs do not compute.

    Of float64 Keras makes float32, on JAX everywhere, and on torch in products and normalisations.
    """
    layers = [x for x in all_layers(model) if not isinstance(x, (keras.Model, keras.layers.InputLayer))] or [model]
    return max(TOLERANCE.get(keras.backend.result_type(layer.compute_dtype), 0.0) for layer in layers)


def run_in_batches(model, inputs):
    """The outputs of a model as NumPy arrays.

    The model runs as it is, not compiled: on JAX too, where the operations of one member are compiled on their own, those
    of the next and of the next pack are there already, while a compiled whole would be compiled anew for every pack.
    """
    rows = min(x.shape[0] for x in tree.flatten(inputs))
    batches = [slice(start, start + BATCH_SIZE) for start in range(0, rows, BATCH_SIZE)]
    outputs = [_call(model, tree.map_structure(lambda x, at=at: x[at], inputs)) for at in batches]
    outputs = [tree.map_structure(ops.convert_to_numpy, y) for y in outputs]
    if len(outputs) == 1:  # may have no rows to join
        return outputs[0]
    return tree.map_structure(lambda *parts: np.concatenate(parts), *outputs)


def _call(model, inputs):
    inputs = tree.map_structure(ops.convert_to_tensor, inputs)  # a mix with arrays is refused
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            return model(inputs, training=False)
    return model(inputs, training=False)


def random_inputs(model, size, seed=0, specs=None):
    """Random arrays for what a model is called with, with `size` in the place of open dimensions."""
    return tree.map_structure(_Draw(model, size, seed), input_structure(model, specs))


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
            return self._strings(shape)
        if dtype == "bool":
            return self.rng.random(shape) < 0.5
        if "int" in dtype:
            numbers = self.rng.choice(self.numbers, shape) if self.numbers else self.rng.integers(0, self.ids, shape)
            return numbers.astype(dtype)
        return ops.convert_to_numpy(ops.cast(self.rng.standard_normal(shape), dtype))

    def _strings(self, shape):
        lengths = self.rng.integers(1, 5, shape) if self.sentences else np.ones(shape, int)
        texts = [" ".join(self.rng.choice(self.words, length)) for length in lengths.ravel()]
        return np.reshape(np.array(texts, dtype=object), shape)


def _fitting_inputs(model, specs):
    """Random inputs of a size that the model takes."""
    specs = input_structure(model, specs)
    for size in SIZES:
        try:
            inputs = random_inputs(model, size, specs=specs)
            run_in_batches(model, inputs)
            return inputs
        except Exception as error:  # a size that this model's kernels or reshapes do not take
            failure = error
    raise RuntimeError(
        f"The self-check found no input that model '{model.name}' takes (it tried sizes {SIZES} for open dimensions). "
        f"Pass verify=False to pack without it. The last attempt ended with {type(failure).__name__}: {failure}"
    ) from failure
