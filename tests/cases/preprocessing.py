"""Layers that turn raw data into numbers, and run once for all members."""

import keras
import numpy as np
from keras import layers as k
from keras import ops

from cases.building import BACKEND, case, conv, dense, of, stack_of, variants

stack_of("rescaling", (4,), of(k.Rescaling, 0.5, offset=1.0), dense(), of(k.Rescaling, [1.0, 2, 3, 4, 5]), dense())
stack_of("category_encoding", (4,), of(k.CategoryEncoding, 11, output_mode="multi_hot"), dense(), dtype="int32")
variants(
    "images",
    (8, 8, 2),
    of(k.CenterCrop, 4, 4),
    of(k.Resizing, 6, 5),
    of(k.Resizing, 6, 5, interpolation="nearest"),
    of(k.Resizing, 12, 10, crop_to_aspect_ratio=True),
    of(lambda: k.Pipeline([k.Rescaling(2.0), dense(3)()])),
    first=conv(2, 1),
)
RANGE = (-4, 4)
variants(
    "contrast",
    (9, 9, 3),
    of(k.AutoContrast, RANGE),
    of(lambda: k.Pipeline([k.Equalization(RANGE), k.RandomFlip()])),
    of(k.ContrastLimitedAdaptiveHistogramEqualization, RANGE, tile_grid_size=(2, 2)),
    first=conv(3, 1),
)


@case
def numbers_to_categories():
    """Learned by `adapt`, or given: vocabularies and bins, alike in all members."""
    ids, numbers = keras.Input((4,), dtype="int64"), keras.Input((3,))
    adapted, bins = k.IntegerLookup(output_mode="tf_idf"), k.Discretization(num_bins=3)
    adapted.adapt(np.array([[1, 2], [2, 3], [2, 2]]))
    bins.adapt(np.linspace(-1, 1, 12).reshape(4, 3))
    given = k.IntegerLookup(vocabulary=[3, 1, 2], num_oov_indices=2, oov_method="farmhash", mask_token=7)(ids)
    wide = [
        adapted(ids),
        k.IntegerLookup(vocabulary=[3, 1, 2], output_mode="multi_hot")(ids),
        k.Flatten()(k.CategoryEncoding(4, output_mode="one_hot")(bins(numbers))),
        k.Discretization([-0.5, 0.5], output_mode="count")(numbers),
        k.Hashing(5, output_mode="multi_hot", salt=3)(ids),
        k.HashedCrossing(6, output_mode="one_hot")([ids[:, :1], ids[:, 1:2]]),
        k.Hashing(4)(ids),
    ]
    x = k.Concatenate()([ops.cast(y, "float32") for y in wide])
    own = k.Discretization([0.0])(k.Dense(3)(x))  # of numbers that are each member's own
    return keras.Model([ids, numbers], [k.Dense(3)(x), k.Embedding(9, 2)(given), own])


if BACKEND == "tensorflow":  # the others have no tensors of strings

    @case
    def texts():
        words, text = keras.Input((3,), dtype="string"), keras.Input((), dtype="string")
        adapted = k.StringLookup(num_oov_indices=2)
        adapted.adapt(["x", "y", "y", "z"])
        counts = k.TextVectorization(output_mode="tf_idf", ngrams=2)
        counts.adapt(["the cat", "the dog ran", "cat"])
        tokens = k.TextVectorization(vocabulary=["cat", "dog"], output_sequence_length=4)(text)
        x = k.Flatten()(k.Embedding(6, 2)(adapted(words)))
        y = k.LSTM(3)(k.Embedding(4, 3, mask_zero=True)(tokens))
        crossed = k.HashedCrossing(4, output_mode="one_hot")([words[:, :1], words[:, 1:2]])
        hashed = ops.cast(k.Hashing(4)(words), "float32")
        scores = k.Dense(3)(k.Concatenate()([x, y, k.Dense(2)(counts(text)), crossed, hashed]))
        names = k.StringLookup(vocabulary=["a", "b"], invert=True)(ops.argmax(scores, -1))
        return keras.Model([words, text], [scores, names])
