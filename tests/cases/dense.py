"""Dense layers."""

from keras import layers as k

from cases.building import dense, minus_batch_mean, of, stack_of, variants
from keras_multiweight.layers import SparseLinear

variants(
    "dense",
    (4,),
    dense(),
    dense(3, activation="relu", use_bias=False),
    dense(3, activation="softmax"),
    dense(3, activation="log_softmax"),
    dense(1, activation=minus_batch_mean),
    first=dense(4, activation="tanh"),
)
variants("dense_on_sequences", (6, 4), dense(3, activation="sparsemax"), dense(4, activation="glu"), first=dense(4))
stack_of("dense_on_five_axes", (2, 2, 2, 4), dense(3, activation="softmax"), dense(2, activation="log_softmax"))
stack_of("dense_on_open_dimensions", (None, None, 4), dense(activation="selu"), dense(3))
stack_of("dense_regularized", (4,), dense(kernel_regularizer="l2", activity_regularizer="l1", kernel_constraint="max_norm"))
variants(
    "einsum_dense",
    (6, 4),
    of(k.EinsumDense, "abc,cd->abd", (None, 5), bias_axes="d", activation="relu"),
    of(k.EinsumDense, "abc,bcd->abd", (6, 3), bias_axes="bd"),
    of(k.EinsumDense, "...x,xy->...y", 3, bias_axes="y", activation="softmax"),
    of(k.EinsumDense, "abc,cde->abde", (6, 2, 3), bias_axes="de"),
    of(k.EinsumDense, "abc,bc->ab", 6),
    of(k.EinsumDense, "ab...,bd->ad...", (3, 4), bias_axes="d"),
    first=dense(4),
)
stack_of("sparse_linear", (4,), lambda: SparseLinear(), lambda: SparseLinear(3, connectivity=[(0, 0), (1, 2), (3, 0)]))
