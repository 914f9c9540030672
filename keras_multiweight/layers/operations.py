"""MapOperation: a raw `keras.ops` operation, called once a member."""

import itertools

import keras
from keras import tree

from keras_multiweight.layers.lowerings import MOST_AXES_OF_SOFTMAX
from keras_multiweight.layers.mapping import map_stateless
from keras_multiweight.layers.plumbing import PACKAGE


@keras.saving.register_keras_serializable(PACKAGE)
class Argument:
    """Stands for tensor number `index` in the arguments of a call."""

    def __init__(self, index):
        self.index = index

    def get_config(self):
        return {"index": self.index}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(PACKAGE)
class MapOperation(keras.layers.Layer):
    """Call a raw operation on each member's own part of `(N, B, ...)` tensors.

    What the operation does to the batch axis, it does to each member's rows alone.

    Args:
        operation: A `keras.Operation`, such as the one behind `keras.ops.reshape(x, ...)` in a Functional model.
        arguments: `[args, kwargs]` of the call, with an `Argument` in the place of each tensor.
        num_members: int, N.
    """

    def __init__(self, operation, arguments, num_members, **kwargs):
        super().__init__(**kwargs)
        self.operation = operation
        self.arguments = arguments
        self.num_members = num_members
        self.autocast = False
        self.built = True

    @classmethod
    def from_call(cls, operation, args, kwargs, num_members, **options):
        """From a call with symbolic tensors among `args` and `kwargs`."""
        structure = [list(args), kwargs]
        count = itertools.count()
        leaves = [Argument(next(count)) if isinstance(x, keras.KerasTensor) else x for x in tree.flatten(structure)]
        arguments = tree.pack_sequence_as(structure, leaves)  # `map_structure` takes dicts in another order
        return cls(operation, arguments, num_members, **options)

    def call(self, inputs):
        is_too_much = type(self.operation).__name__ == "Softmax" and len(inputs[0].shape) > MOST_AXES_OF_SOFTMAX
        lowering = "unrolled" if is_too_much else "vectorized"
        return map_stateless(lambda elements: self._run(elements[0]), list(inputs), [], self.num_members, lowering)

    def _run(self, tensors):
        args, kwargs = tree.map_structure(lambda x: tensors[x.index] if isinstance(x, Argument) else x, self.arguments)
        return self.operation(*args, **kwargs)

    def compute_output_spec(self, inputs):
        outputs = self._run([keras.KerasTensor(x.shape[1:], x.dtype) for x in inputs])
        return tree.map_structure(lambda x: keras.KerasTensor((self.num_members, *x.shape), x.dtype), outputs)

    def get_config(self):
        return {
            **super().get_config(),
            "operation": keras.saving.serialize_keras_object(self.operation),
            "arguments": keras.saving.serialize_keras_object(self.arguments),
            "num_members": self.num_members,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        operation = keras.saving.deserialize_keras_object(config.pop("operation"))
        arguments = keras.saving.deserialize_keras_object(config.pop("arguments"))
        return cls(operation, arguments, **config)
