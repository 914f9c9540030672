"""Batches of any kind with weights of each member beside them. B rows, N members."""

import keras
import numpy as np
from keras import tree

from keras_multiweight.bagging import lowerings


def weighted(data, batch_weights):
    """The same batches with sample weights `(B, N)`, times those that they had.

    Args:
        data: A `keras.utils.PyDataset`, a `tf.data.Dataset`, or a generator, of `(x, y)` or `(x, y, sample_weight)`.
        batch_weights: `batch_weights(batch number, rows) -> (B, N)`.

    Returns:
        Data of the same kind.

    Raises:
        ValueError: Data of another kind.
    """
    if isinstance(data, keras.utils.PyDataset):
        return WeightedDataset(data, batch_weights)
    if lowerings.is_tf_dataset(data):
        return lowerings.weighted_tf_dataset(data, batch_weights)
    if hasattr(data, "__next__"):
        return (_weigh(batch, number, batch_weights) for number, batch in enumerate(data))
    raise ValueError(
        "Weights are put beside the batches of a keras.utils.PyDataset, a tf.data.Dataset or a generator. "
        f"Received: a {type(data).__name__}. For arrays give fit(sample_weight=kmw.Bootstrap(...).weights)."
    )


class WeightedDataset(keras.utils.PyDataset):
    """The batches of another PyDataset, with weights."""

    def __init__(self, dataset, batch_weights):
        options = ("workers", "use_multiprocessing", "max_queue_size")
        super().__init__(**{name: getattr(dataset, name) for name in options})
        self.dataset, self.batch_weights = dataset, batch_weights

    def __getitem__(self, number):
        return _weigh(self.dataset[number], number, self.batch_weights)

    @property
    def num_batches(self):
        return self.dataset.num_batches

    def on_epoch_begin(self):
        self.dataset.on_epoch_begin()

    def on_epoch_end(self):
        self.dataset.on_epoch_end()


def _weigh(batch, number, batch_weights):
    x, y, given = keras.utils.unpack_x_y_sample_weight(batch)
    weights = batch_weights(number, len(tree.flatten(x)[0]))
    if given is not None:
        given = keras.ops.convert_to_numpy(given)
        weights = weights * (given[:, None] if given.ndim == 1 else given)
    return x, y, np.asarray(weights, "float32")
