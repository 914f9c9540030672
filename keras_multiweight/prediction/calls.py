"""A model as a function from a list of tensors to a list of tensors: whole, or some members at a time."""

import itertools
import operator
import threading

from keras import ops, tree

from keras_multiweight.layers.mapping import StatelessCall, constants_from_weights
from keras_multiweight.prediction.batches import put_together


class ModelCall:
    """A model as a function from a list of tensors to a list of tensors.

    Args:
        model: A Keras model.
        form: The structure that the model is called with, as `Arrays.form`.
        is_steady: bool, whether the weights are not about to be trained: a program may know them.

    Attributes:
        structure: The nesting of the model's outputs, known once it has been called.
    """

    chunks = None
    num_chunks = 1

    def __init__(self, model, form, is_steady=False):
        self.model = model
        self.form = form
        self.is_steady = is_steady
        self.structure = None

    def __call__(self, tensors):
        with constants_from_weights(self.model):
            outputs = self.model(put_together(self.form, iter(tensors)), training=False)
        self.structure = tree.map_structure(lambda _: 0, outputs)
        return tree.flatten(outputs)

    unrolled = __call__


class ChunkedCall:
    """The same for a packed model, its members computed in chunks one after another, in a loop inside of the program.

    Args:
        model: A `MultiModel`, or an `EnsembleModel` that reduces the answers of one.
        form: As for `ModelCall`.
        chunks: The `Chunks` of the `MultiModel`.
        beside: int, how many chunks a step of the loop computes, for cores that one chunk does not keep busy.
    """

    is_steady = False

    def __init__(self, model, form, chunks, beside=1):
        self.model = model
        self.chunks = chunks
        self._beside = beside if len(chunks.starts) % beside == 0 else 1
        self._call = ModelCall(chunks.model, form)
        self._stateless = StatelessCall(self._call, chunks.model.variables)

    @property
    def structure(self):
        return self._call.structure

    @property
    def num_chunks(self):
        return len(self.chunks.starts)

    def __call__(self, tensors):
        values = [v.value for v in self.chunks.variables]
        starts = ops.convert_to_tensor(self.chunks.starts, "int32")
        if self._beside == 1:
            parts = ops.map(lambda start: self._from(tensors, values, start), starts)
        else:
            parts = self._in_groups(tensors, values, ops.reshape(starts, (-1, self._beside)))
        return self.model.reduced(list(map(self.chunks.join, parts)))

    def _in_groups(self, tensors, values, starts):
        """The outputs of all chunks, (chunks, B, c, ...), from `starts`, (steps, chunks of a step)."""

        def step(starts):
            parts = [self._from(tensors, values, starts[number]) for number in range(self._beside)]
            return list(map(ops.stack, zip(*parts)))

        return [ops.reshape(y, (self.num_chunks, *y.shape[2:])) for y in ops.map(step, starts)]

    def unrolled(self, tensors):
        """The same without a loop inside of the program: chunk after chunk is written out."""
        values = [v.value for v in self.chunks.variables]
        parts = [self._from(tensors, values, start) for start in self.chunks.starts]
        return self.joined(parts)

    def joined(self, parts):
        """The outputs, from a list of the outputs of each chunk."""
        return self.model.reduced(list(map(self.chunks.join_list, zip(*parts))))

    def _from(self, tensors, values, start):
        return self.part(self.chunks.inputs(tensors, start), self.chunks.weights(values, start))

    def part(self, tensors, weights):
        """The outputs of one chunk, from its inputs and weights."""
        outputs, updates, _ = self._stateless([tensors, weights])
        if updates:
            raise ValueError("The model assigns variables when it predicts, which is done for all members at once.")
        return outputs


class PureCall:
    """A call as a function of the values of the model's variables too, for backends whose programs hold no variables.

    It gives the outputs, and the new values of the variables that the model assigns when it predicts.

    Attributes:
        variables: Those of the model.
        places: Where they hold their values, as `places` gives it.
        values: Function without arguments that gives their values as they are now.
    """

    def __init__(self, call):
        self.variables = call.model.variables
        self.places = places(self.variables)
        self.values = reader(self.variables, self.places)
        self._call = StatelessCall(call, self.variables)
        self._lock = threading.Lock()

    def __call__(self, values, tensors):
        outputs, updates, _ = self._call([tensors, values])
        return outputs, updates

    def assign(self, results):
        """Assign the new values; returns the outputs."""
        outputs, updates = results
        if updates:
            with self._lock:
                for index, update in zip(self._call.assigned, updates):
                    self.variables[index].assign(update)
        return outputs


def reader(variables, held):
    """A function without arguments that gives the values of variables as they are now, outside of Keras's scopes.

    `variable.value` asks for a scope at each call: six values take as long as a small program. Here they are read where
    the variables hold them, as `places` found out once.
    """
    if held is None:
        return lambda: [v.value for v in variables]

    def values():
        now = list(map(operator.getitem, *held))
        return now if all(map(operator.is_not, now, itertools.repeat(None))) else [v.value for v in variables]

    return values


def places(variables):
    """The attributes of each variable, and the names of those that hold the values; None where that is not clear."""
    found = [_place(v) for v in variables]
    return None if None in found else ([attributes for attributes, _ in found], [name for _, name in found])


def _place(variable):
    value = variable.value
    names = [name for name, held in vars(variable).items() if held is value]
    return (vars(variable), names[0]) if len(names) == 1 else None
