"""Layers with a member axis. They know nothing of packing and work in any Keras model."""

from keras_multiweight.layers.aggregate import EnsembleAverage, EnsembleSpread, EnsembleVote
from keras_multiweight.layers.any_layer import MapMembers
from keras_multiweight.layers.attention import MultiGroupQueryAttention, MultiMultiHeadAttention
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.cells import MultiConvLSTM1D, MultiConvLSTM2D, MultiConvLSTM3D, MultiRNN
from keras_multiweight.layers.conv import (
    MultiConv1D,
    MultiConv1DTranspose,
    MultiConv2D,
    MultiConv2DTranspose,
    MultiConv3D,
    MultiConv3DTranspose,
    MultiDepthwiseConv1D,
    MultiDepthwiseConv2D,
    MultiSeparableConv1D,
    MultiSeparableConv2D,
)
from keras_multiweight.layers.dense import MultiDense, MultiEinsumDense
from keras_multiweight.layers.directions import MergeDirections
from keras_multiweight.layers.embedding import MultiEmbedding, MultiReversibleEmbedding
from keras_multiweight.layers.norm import (
    MultiBatchNormalization,
    MultiGroupNormalization,
    MultiLayerNormalization,
    MultiNormalization,
    MultiRMSNormalization,
)
from keras_multiweight.layers.prelu import MultiPReLU
from keras_multiweight.layers.random import (
    MultiAlphaDropout,
    MultiDropout,
    MultiGaussianDropout,
    MultiGaussianNoise,
    MultiSpatialDropout1D,
    MultiSpatialDropout2D,
    MultiSpatialDropout3D,
)
from keras_multiweight.layers.rnn import MultiGRU, MultiLSTM, MultiSimpleRNN
from keras_multiweight.layers.sparse import MultiSparseLinear, SparseLinear
