"""Embeddings, recurrent layers, and wrappers of layers along the time."""

import keras
from keras import layers as k
from keras import ops

from cases.building import case, dense, minus_batch_mean, of, stack_of, variants

WHOLE = {"return_sequences": True}

stack_of("embedding", (6,), of(k.Embedding, 11, 4), k.Flatten, dense(), dtype="int32")
variants(
    "lstm",
    (5, 3),
    of(k.LSTM, 4),
    of(k.LSTM, 3, go_backwards=True, activation="relu", **WHOLE),
    of(k.LSTM, 3, unroll=True, use_bias=False, recurrent_activation="softmax"),
    of(k.LSTM, 3, dropout=0.2, recurrent_dropout=0.2),
    first=dense(3),
)
variants(
    "gru",
    (5, 3),
    of(k.GRU, 4),
    of(k.GRU, 3, reset_after=False, **WHOLE),
    of(k.GRU, 3, use_bias=False, unroll=True),
    of(k.GRU, 3, reset_after=False, go_backwards=True, activation="softmax"),
    first=dense(3),
)
variants(
    "simple_rnn", (5, 3), of(k.SimpleRNN, 4), of(k.SimpleRNN, 3, go_backwards=True, use_bias=False, **WHOLE), first=dense(3)
)


@keras.saving.register_keras_serializable("tests")
class LeakyCell(k.Layer):
    """A custom cell with one state."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, input_shape):
        self.kernel = self.add_weight(shape=(input_shape[-1], self.units), name="kernel")

    def call(self, inputs, states):
        state = 0.5 * states[0] + ops.tanh(ops.matmul(inputs, self.kernel))
        return state, [state]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


variants(
    "rnn_of_cells",
    (4, 3),
    lambda: k.RNN(k.LSTMCell(4), **WHOLE),
    lambda: k.RNN(LeakyCell(3), go_backwards=True),
    lambda: k.RNN([k.GRUCell(2), k.LSTMCell(3)]),
    lambda: k.RNN(k.StackedRNNCells([k.SimpleRNNCell(3), LeakyCell(2)])),
    first=dense(3),
)


@case
def rnn_states():
    """States come out of a layer, and go into another as `initial_state`, on both kinds of input."""
    inputs = keras.Input((5, 3))
    x, h, c = k.LSTM(4, return_sequences=True, return_state=True)(inputs)
    y, g = k.GRU(4, return_state=True)(x, initial_state=h)
    z = k.LSTM(4)(x, initial_state=[h, c])
    shared = k.SimpleRNN(3)(inputs, initial_state=inputs[:, 0])
    cells = k.RNN(k.GRUCell(4), return_state=True)(x, initial_state=[g])
    return keras.Model(inputs, [y, z, shared, *cells])


@case
def bidirectional():
    inputs = keras.Input((4, 3))
    x, *states = k.Bidirectional(k.LSTM(4, return_sequences=True, return_state=True))(inputs)
    both = k.Bidirectional(k.GRU(3, return_sequences=True), merge_mode=None)(x)
    backward = k.LSTM(4, go_backwards=True, activation="relu")
    layer = k.Bidirectional(k.LSTM(4), merge_mode="mul", backward_layer=backward)
    rnn = k.Bidirectional(k.RNN(k.GRUCell(3)), merge_mode="sum")
    return keras.Model(inputs, [*both, layer(x, initial_state=states), layer(x), rnn(x)])


@case
def masked_text():
    """A mask goes through layers that keep it, to those that use it."""
    inputs = keras.Input((None,), dtype="int32")
    x = k.Embedding(11, 6, mask_zero=True)(inputs)
    x = k.Dropout(0.1)(x)
    x = k.Bidirectional(k.LSTM(4, return_sequences=True))(x)
    x = k.TimeDistributed(k.LayerNormalization())(x)
    skipped = k.GRU(3, return_sequences=True, zero_output_for_mask=True)(x)
    ends = [k.LSTM(3, go_backwards=True)(x), k.RNN(k.SimpleRNNCell(3))(x), k.GlobalAveragePooling1D()(x), skipped]
    return keras.Model(inputs, ends)


@case
def mask_as_an_input():
    inputs, mask = keras.Input((4, 3)), keras.Input((4,), dtype="bool")
    x = k.LSTM(3, return_sequences=True)(k.Dense(3)(inputs), mask=mask)
    layers = k.Bidirectional(k.GRU(2), merge_mode="ave"), k.SimpleRNN(3), k.GlobalAveragePooling1D()
    return keras.Model([inputs, mask], [layer(y, mask=mask) for layer in layers for y in (x, inputs)])


@case
def reversible_embedding():
    inputs = keras.Input((5,), dtype="int32")
    tied = k.ReversibleEmbedding(11, 4, mask_zero=True, logit_soft_cap=3.0)
    untied = k.ReversibleEmbedding(11, 4, tie_weights=False)
    x = k.GRU(4, return_sequences=True)(tied(inputs))
    return keras.Model(inputs, [tied(x, reverse=True), untied(k.Dense(4)(untied(inputs)), reverse=True)])


stack_of("masking", (6, 3), of(k.Masking, 0.0), of(k.GRU, 3))
variants(
    "time_distributed",
    (3, 4),
    *(
        of(lambda inner=inner: k.TimeDistributed(inner()))
        for inner in (
            dense(2),
            k.BatchNormalization,
            of(k.Dropout, 0.3),
            of(k.Activation, "softmax"),
            of(k.LayerNormalization),
            dense(2, activation=minus_batch_mean),
        )
    ),
    first=dense(4),
)
stack_of("time_distributed_on_open_steps", (None, 4), lambda: k.TimeDistributed(dense()()), of(k.LSTM, 3))


@case
def time_distributed_images():
    inputs = keras.Input((3, 6, 6, 2))
    x = k.TimeDistributed(k.Conv2D(3, 3, activation="relu"))(inputs)
    x = k.TimeDistributed(k.MaxPooling2D())(k.TimeDistributed(k.BatchNormalization())(x))
    frame = keras.Input((2, 2, 3))
    model = keras.Model(frame, k.Dense(2)(k.Flatten()(k.Conv2D(3, 2)(frame))))
    return keras.Model(inputs, k.GRU(3)(k.TimeDistributed(model)(x)))


@case
def spectrograms():
    inputs = keras.Input((32, 2))
    stft = [
        k.STFTSpectrogram(mode="stft", frame_length=16, frame_step=8)(inputs),
        k.STFTSpectrogram(mode="log", frame_length=8, expand_dims=True, padding="same")(k.Dense(2)(inputs)),
    ]
    options = {"sequence_length": 16, "fft_length": 16, "num_mel_bins": 4, "sampling_rate": 2000, "max_freq": 1000}
    mel = k.MelSpectrogram(**options, top_db=1.0)  # cuts at a level below the loudest of the whole batch
    return keras.Model(inputs, [*stft, mel(inputs[..., 0]), mel(k.Dense(32)(k.Flatten()(inputs)))])
