"""EnsembleModel: the answers of many members as one. N members, B rows."""

import keras
from keras import tree

from keras_multiweight.layers.plumbing import PACKAGE
from keras_multiweight.prediction.predicting import Predicting


@keras.saving.register_keras_serializable(PACKAGE)
class EnsembleModel(Predicting, keras.Model):
    """A packed model with a layer at each output that reduces the members: `(B, ...)`. Made by `multi.average()` and kin.

    `predict` and `predictor` compute the members in chunks and the rows in batches, and reduce each batch: the answers of
    all members for all rows are never held.

    Example:

    ```python
    doubt = multi.spread(measure="std")
    doubt.predict(x)  # (B, ...) for each output
    ```
    """

    @classmethod
    def of(cls, multi, reducer, name):
        """The model of a `MultiModel` and, for the name of each output, the layer that `reducer` gives."""
        inputs = tree.map_structure(lambda x: keras.layers.InputLayer.from_config(_config(multi, x)).output, multi.input)
        answers = multi(inputs)
        names = [f"{name}_{output}" for output in multi.output_names]
        reduced = [reducer(name)(y) for name, y in zip(names, tree.flatten(answers), strict=True)]
        return cls(inputs, tree.pack_sequence_as(answers, reduced), name=name)

    def jit_compile_asked(self):
        return self.jit_compile if self.compiled else "auto"

    def packed(self):
        """The `MultiModel`. A method: Keras saves what it finds in the properties of a model."""
        return next(layer for layer in self.layers if isinstance(layer, Predicting))

    def reduced(self, answers):
        """The flat list of outputs from that of the packed model."""
        return [self.get_layer(name)(y) for name, y in zip(self.output_names, answers, strict=True)]


def _config(multi, x):
    return multi.get_layer(x.name).get_config()
