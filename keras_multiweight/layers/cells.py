"""Recurrent layers of any cell with a member axis: at each step the cell is called once with each member's weights."""

import functools
import inspect

import keras
from keras import ops, tree

from keras_multiweight.layers.mapping import StatelessCall, map_stateless
from keras_multiweight.layers.plumbing import PACKAGE, fold, unfold
from keras_multiweight.layers.rnn import StepByStep


@keras.saving.register_keras_serializable(PACKAGE)
class MultiRNN(StepByStep):
    """N `keras.layers.RNN` layers of any cell as one.

    One loop over the steps serves all members. `stateful=True` is refused.

    Args:
        cell, return_sequences, ...: As for `keras.layers.RNN`.
        num_members, member_axis, shared_input: As for `MultiDense`.

    Input shape:
        `sequence` `(B, N, T, ...)`, or `(B, T, ...)` with `shared_input=True`; `initial_state` and `mask` likewise.

    Output shape:
        `(B, N, ...)`, or `(B, N, T, ...)` with `return_sequences=True`; states `(B, N, ...)` likewise.

    Raises:
        NotImplementedError: The cell assigns a weight, or adds a loss, within a step.

    Example:

    ```python
    layer = kmw.layers.MultiRNN(keras.layers.GRUCell(16), num_members=8, shared_input=True)
    layer(np.zeros((32, 10, 4), "float32")).shape  # (32, 8, 16)
    ```
    """

    member_class = keras.layers.RNN
    lowering_names = ("vectorized", "unrolled")

    def cell(self, lowering, as_is):
        return _MembersCell(self, lowering)

    def step(self, lowering, x, states, training):
        """One step of all members: inputs and states `(N, B, ...)` to outputs and states."""
        tensors, cell = tree.flatten((x, states)), self.template().cell
        call = StatelessCall(lambda own: _call(cell, *tree.pack_sequence_as((x, states), own), training), cell.weights)
        values = [ops.reshape(v, (self.num_members, *w.shape)) for v, w in zip(self.stacked_weights, cell.weights)]
        outputs, assigned, losses = map_stateless(call, tensors, values, self.num_members, lowering)
        if assigned or losses:
            raise NotImplementedError(
                "The cell of a packed RNN must neither assign weights nor add losses within a step. Received: "
                f"{type(cell).__name__} in layer '{self.name}'."
            )
        return outputs


def _call(cell, inputs, states, training):
    return cell(inputs, states, training=training) if _takes_training(cell) else cell(inputs, states)


def _takes_training(cell):
    return "training" in inspect.signature(cell.call).parameters


class _MembersCell(keras.layers.Layer):
    """One step of all members on `(N*B, ...)`, for `keras.layers.RNN`."""

    def __init__(self, layer, lowering):
        super().__init__(dtype=layer.dtype_policy)
        cell = layer.template().cell
        self.state_size = cell.state_size
        self._step = functools.partial(layer.step, lowering)
        self._unfold = lambda x: unfold(x, layer.num_members)
        if hasattr(cell, "get_initial_state"):
            self.get_initial_state = lambda batch_size=None: cell.get_initial_state(batch_size=batch_size)
        self.built = True

    def call(self, inputs, states, training=False):
        return tree.map_structure(fold, self._step(*tree.map_structure(self._unfold, (inputs, states)), training))


def _convolutional(member_class):
    """Its cell convolves: the backends map convolutions slowly, so the members are laid side by side by default."""
    name = member_class.__name__
    doc = f"""N `keras.layers.{name}` layers as one.

    Args:
        filters, kernel_size, ...: As for `keras.layers.{name}`; `stateful=True` is refused.
        num_members, member_axis, shared_input: As for `MultiDense`.

    Input shape:
        `(B, N, T, ...)`, or `(B, T, ...)` with `shared_input=True`; `initial_state` and `mask` likewise.

    Output shape:
        That of `keras.layers.{name}`, with the members in axis 1; states likewise.
    """
    body = {
        "member_class": member_class,
        "lowering_names": ("unrolled", "vectorized"),
        "__doc__": doc,
        "__module__": __name__,
    }
    return keras.saving.register_keras_serializable(PACKAGE)(type(f"Multi{name}", (MultiRNN,), body))


MultiConvLSTM1D = _convolutional(keras.layers.ConvLSTM1D)
MultiConvLSTM2D = _convolutional(keras.layers.ConvLSTM2D)
MultiConvLSTM3D = _convolutional(keras.layers.ConvLSTM3D)
