"""Every supported layer class and its rule. `kinds.py` says what the kinds mean."""

from keras import layers as k

from keras_multiweight import layers as multi
from keras_multiweight.layers import pooling
from keras_multiweight.packing import kinds, wrappers
from keras_multiweight.registry import PACKING, register_rule

LAYERS = {
    kinds.elementwise: [k.ELU, k.Identity, k.LeakyReLU, k.ReLU],
    kinds.activation: [k.Activation],
    kinds.rowwise: [
        k.CenterCrop, k.Concatenate, k.Cropping1D, k.Cropping2D, k.Cropping3D, k.Dot, k.Flatten, k.GlobalAveragePooling1D,
        k.Masking, k.Permute, k.RepeatVector, k.Rescaling, k.Reshape, k.Resizing, k.Softmax, k.UnitNormalization,
        k.AutoContrast, k.CategoryEncoding, k.ContrastLimitedAdaptiveHistogramEqualization, k.Discretization,
        k.HashedCrossing, k.Hashing, k.IntegerLookup, k.MaxNumBoundingBoxes, k.StringLookup, k.TextVectorization,
    ],
    kinds.channelwise: [
        k.AveragePooling1D, k.AveragePooling2D, k.AveragePooling3D,
        k.GlobalAveragePooling2D, k.GlobalAveragePooling3D,
        k.GlobalMaxPooling1D, k.GlobalMaxPooling2D, k.GlobalMaxPooling3D,
        k.AdaptiveAveragePooling1D, k.AdaptiveAveragePooling2D, k.AdaptiveAveragePooling3D,
        k.AdaptiveMaxPooling1D, k.AdaptiveMaxPooling2D, k.AdaptiveMaxPooling3D,
        k.UpSampling1D, k.UpSampling2D, k.UpSampling3D, k.ZeroPadding1D, k.ZeroPadding2D, k.ZeroPadding3D,
    ],
    kinds.channelwise_by(pooling.WindowedMaxPooling1D): [k.MaxPooling1D],
    kinds.channelwise_by(pooling.WindowedMaxPooling2D): [k.MaxPooling2D],
    kinds.channelwise_by(pooling.WindowedMaxPooling3D): [k.MaxPooling3D],
    kinds.merging: [k.Add, k.Average, k.Maximum, k.Minimum, k.Multiply, k.Subtract],
    kinds.each_own(multi.MultiAlphaDropout, kinds.dropout): [k.AlphaDropout],
    kinds.each_own(multi.MultiDropout, kinds.dropout): [k.Dropout],
    kinds.each_own(multi.MultiGaussianDropout, kinds.random): [k.GaussianDropout],
    kinds.each_own(multi.MultiGaussianNoise, kinds.random): [k.GaussianNoise],
    kinds.each_own(multi.MultiSpatialDropout1D, kinds.random): [k.SpatialDropout1D],
    kinds.each_own(multi.MultiSpatialDropout2D, kinds.random): [k.SpatialDropout2D],
    kinds.each_own(multi.MultiSpatialDropout3D, kinds.random): [k.SpatialDropout3D],
    kinds.random_rows: [
        k.RandomBrightness, k.RandomColorDegeneration, k.RandomContrast, k.RandomErasing, k.RandomFlip, k.RandomGrayscale,
        k.RandomHue, k.RandomInvert, k.RandomPerspective, k.RandomPosterization, k.RandomRotation, k.RandomSaturation,
        k.RandomSharpness, k.RandomShear, k.RandomTranslation, k.RandomZoom, k.Solarization,
    ],
    kinds.weighted(multi.MultiDense, rows_alone=True): [k.Dense],
    kinds.weighted(multi.MultiEinsumDense, rows_alone=True): [k.EinsumDense],
    kinds.weighted(multi.MultiSparseLinear, rows_alone=True): [multi.SparseLinear],
    kinds.weighted(multi.MultiEmbedding, rows_alone=True): [k.Embedding],
    kinds.weighted(multi.MultiReversibleEmbedding, rows_alone=True): [k.ReversibleEmbedding],
    kinds.weighted(multi.MultiLayerNormalization, rows_alone=True): [k.LayerNormalization],
    kinds.mask_eating(kinds.weighted(multi.MultiMultiHeadAttention)): [k.MultiHeadAttention],
    kinds.weighted(multi.MultiGroupQueryAttention): [k.GroupQueryAttention],
    kinds.weighted(multi.MultiLSTM): [k.LSTM],
    kinds.weighted(multi.MultiGRU): [k.GRU],
    kinds.weighted(multi.MultiSimpleRNN): [k.SimpleRNN],
    kinds.weighted(multi.MultiRNN): [k.RNN],
    kinds.weighted(multi.MultiConvLSTM1D): [k.ConvLSTM1D],
    kinds.weighted(multi.MultiConvLSTM2D): [k.ConvLSTM2D],
    kinds.weighted(multi.MultiConvLSTM3D): [k.ConvLSTM3D],
    kinds.weighted(multi.MultiRMSNormalization, rows_alone=True): [k.RMSNormalization],
    kinds.adapted(multi.MultiNormalization): [k.Normalization],
    kinds.weighted_or_filtered(multi.MultiBatchNormalization): [k.BatchNormalization],
    kinds.weighted_or_filtered(multi.MultiGroupNormalization, rows_alone=True): [k.GroupNormalization],
    kinds.weighted_or_filtered(multi.MultiPReLU, rows_alone=True): [k.PReLU],
    kinds.filtered(multi.MultiConv1D): [k.Conv1D],
    kinds.filtered(multi.MultiConv2D): [k.Conv2D],
    kinds.filtered(multi.MultiConv3D): [k.Conv3D],
    kinds.filtered(multi.MultiConv1DTranspose): [k.Conv1DTranspose],
    kinds.filtered(multi.MultiConv2DTranspose): [k.Conv2DTranspose],
    kinds.filtered(multi.MultiConv3DTranspose): [k.Conv3DTranspose],
    kinds.filtered(multi.MultiDepthwiseConv1D): [k.DepthwiseConv1D],
    kinds.filtered(multi.MultiDepthwiseConv2D): [k.DepthwiseConv2D],
    kinds.filtered(multi.MultiSeparableConv1D): [k.SeparableConv1D],
    kinds.filtered(multi.MultiSeparableConv2D): [k.SeparableConv2D],
    wrappers.bidirectional: [k.Bidirectional],
    wrappers.time_distributed: [k.TimeDistributed],
    wrappers.pipeline: [k.Pipeline],
    kinds.vectorized: [
        k.ActivityRegularization, k.AdditiveAttention, k.Attention, k.MelSpectrogram,
    ],
    kinds.unrolled: [
        k.SpectralNormalization, k.STFTSpectrogram,
        # draw once for a batch, or mix its rows
        k.AugMix, k.CutMix, k.Equalization, k.MixUp, k.RandAugment, k.RandomColorJitter, k.RandomCrop,
        k.RandomElasticTransform, k.RandomGaussianBlur,
    ],
    kinds.trusted: [k.Lambda],
    kinds.refused(
        "Its code is another framework's, with no Keras variables to stack: rebuild it from Keras layers, or write a layer."
    ): [k.FlaxLayer, k.JaxLayer, k.TFSMLayer, k.TorchModuleWrapper],
}  # fmt: skip

# The classes without a rule, and why no graph has them by themselves.
NO_LAYERS_OF_A_GRAPH = {
    "is abstract": [k.Layer, k.Wrapper],
    "is taken over as it is": [k.InputLayer],
    "is one step of an RNN, which has a rule": [k.GRUCell, k.LSTMCell, k.SimpleRNNCell, k.StackedRNNCells],
}

# Raw operations in a graph, by the name of their class. All others are mapped over the members.
ELEMENTWISE_OPERATIONS = [
    "Absolute",
    "Add",
    "Arccos",
    "Arccosh",
    "Arcsin",
    "Arcsinh",
    "Arctan",
    "Arctan2",
    "Arctanh",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Divide",
    "DivideNoNan",
    "Elu",
    "Equal",
    "Erf",
    "Exp",
    "Exp2",
    "Expm1",
    "Floor",
    "FloorDivide",
    "Gelu",
    "Greater",
    "GreaterEqual",
    "HardShrink",
    "HardSigmoid",
    "HardSilu",
    "HardTanh",
    "Isfinite",
    "Isinf",
    "Isnan",
    "LeakyRelu",
    "Less",
    "LessEqual",
    "Log",
    "Log10",
    "Log1p",
    "Log2",
    "LogSigmoid",
    "Logaddexp",
    "LogicalAnd",
    "LogicalNot",
    "LogicalOr",
    "LogicalXor",
    "Maximum",
    "Minimum",
    "Mod",
    "Multiply",
    "Negative",
    "NotEqual",
    "OnesLike",
    "Power",
    "Reciprocal",
    "Relu",
    "Relu6",
    "Round",
    "Rsqrt",
    "Selu",
    "Sigmoid",
    "Sign",
    "Silu",
    "Sin",
    "Sinh",
    "SoftShrink",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Square",
    "SquaredDifference",
    "Squareplus",
    "Subtract",
    "Tan",
    "Tanh",
    "TanhShrink",
    "Threshold",
    "TrueDivide",
    "Where",
    "ZerosLike",
]


def register_all():
    for rule, classes in LAYERS.items():
        for cls in classes:
            register_rule(cls, rule)
    for name in ELEMENTWISE_OPERATIONS:
        PACKING.register_operation(name, kinds.aligned_operation)
    PACKING.register_operation("Roll", kinds.rolled_operation)


register_all()
