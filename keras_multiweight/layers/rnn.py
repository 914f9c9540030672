"""Recurrent layers with a member axis. N members, B rows, T steps, C channels, U units.

`keras.layers.RNN` runs the steps on `(N*B, T, ...)`, with its masks, directions and states. A step multiplies the states of
all members by their kernels in one batched matmul. One of two lowerings projects the inputs: `"projected"` all steps at
once, as in a dense layer, before the loop; `"stepwise"` each step in its turn, which writes no `(N, B, T, gates * U)`.
"""

import keras
from keras import ops

from keras_multiweight.layers.activations import activate
from keras_multiweight.layers.base import MultiLayer
from keras_multiweight.layers.dense import add_aligned, members_matmul
from keras_multiweight.layers.lowerings import batched_matmul
from keras_multiweight.layers.plumbing import PACKAGE, fold, fold_all, unfold

LOOP_OPTIONS = ("return_sequences", "go_backwards", "unroll", "zero_output_for_mask")


class StepByStep(MultiLayer):
    """A layer that runs one loop over the steps of all members. A subclass says what its `cell` is, and what that reads."""

    gives_state = False  # whether the output of a step is its first state
    reads_shared = ()  # lowerings whose steps read shared inputs as they are, where there is no mask

    def call(self, sequence, initial_state=None, mask=None, training=False):
        if training and self.draws():
            return self.run(self.map_members, sequence, initial_state=initial_state, mask=mask, training=training)
        return self.run(self._compute, self.choose(sequence, training), sequence, initial_state, mask, training)

    def _compute(self, lowering, x, states, mask, training):
        as_is = self.shared_input and mask is None and lowering in self.reads_shared
        states, mask = keras.tree.map_structure(self.rows_of, (states, mask))
        x = x if as_is else self.inputs(x, lowering)
        y, *states = self._loop(lowering, as_is)(x, initial_state=states, mask=mask, training=training)
        if self.gives_state and mask is None and not self.template().return_sequences:
            y = states[0]  # the same numbers; compilers then leave out the outputs of all steps, which Keras collects
        outputs = keras.tree.map_structure(lambda x: unfold(x, self.num_members), [y, *states])
        return outputs if self.template().return_state else outputs[0]

    def inputs(self, x, lowering):
        """What the loop reads, `(N*B, T, ...)`, of inputs `(N, B, T, ...)` or shared ones `(B, T, ...)`."""
        return self.rows_of(x)

    def rows_of(self, x):
        """(N, B, ...), or shared (B, ...), to (N*B, ...)"""
        return None if x is None else fold_all(x, self.num_members, self.shared_input)

    def _loop(self, lowering, as_is):
        """The Keras layer that runs the steps, made once and not tracked: it has no weights of its own.

        With `as_is` it reads shared inputs (B, T, ...), with states (N*B, ...).
        """
        loops = self._hidden.__dict__.setdefault("loops", {})
        if (lowering, as_is) not in loops:
            options = {name: getattr(self.template(), name) for name in LOOP_OPTIONS}
            cell = self.cell(lowering, as_is)
            loops[lowering, as_is] = keras.layers.RNN(cell, return_state=True, dtype=self.dtype_policy, **options)
        return loops[lowering, as_is]


class _MultiRecurrent(StepByStep):
    """N recurrent layers as one.

    Args:
        units, activation, return_sequences, ...: As for the Keras layer of the same name; `stateful=True` is refused.
        num_members, member_axis, shared_input: As for `MultiDense`.

    Input shape:
        `sequence` `(B, N, T, C)`, or `(B, T, C)` with `shared_input=True`; `initial_state` and `mask` likewise.

    Output shape:
        `(B, N, U)`, or `(B, N, T, U)` with `return_sequences=True`; states `(B, N, U)` likewise.

    Example:

    ```python
    layer = kmw.layers.MultiLSTM(16, num_members=8, shared_input=True)
    layer(np.zeros((32, 10, 4), "float32")).shape  # (32, 8, 16)
    ```
    """

    gives_state = True
    num_states = 1
    settings_names = ("dropout", "recurrent_dropout")
    lowering_names = ("projected", "stepwise")
    reads_shared = ("stepwise",)

    def work(self, shape):
        rows, steps, size = shape
        kind = "shared recurrence" if self.shared_input else "recurrence"
        sizes = {"rows": rows, "steps": steps, "gates": self.gates, "in": size, "out": self.units}
        return {"kind": kind, "members": self.num_members, **sizes}

    def cell(self, lowering, as_is):
        if lowering == "projected":
            return _Cell(self, self._step_of_members)
        read = self.project_shared_step if as_is else self.project_step
        repeats = self.num_members if as_is else 1
        return _Cell(self, lambda x, states: self.step(read(x), *states), repeats)

    def _step_of_members(self, x, states):
        """`step` on (N, B, ...), as `(N*B, ...)`: XLA on CPUs joins the gates of (N*B, U) to two loops, which it vectorises,
        but not where they read from projected inputs the part of a step."""
        x, *states = (unfold(value, self.num_members) for value in (x, *states))
        return map(fold, self.step(x, *states))

    def inputs(self, x, lowering):
        return fold(self._project(x)) if lowering == "projected" else self.rows_of(x)

    def _project(self, x):
        """Inputs (N, B, T, C), or shared (B, T, C), with their bias, to (N, B, T, gates * U)"""
        x = members_matmul(x, self._weight("kernel"), self.shared_input)
        return add_aligned(x, self._input_bias()) if self.use_bias else x

    def project_step(self, x):
        """Inputs of one step, (N*B, C), with their bias, to (N*B, gates * U)"""
        return self.times(x, self._weight("kernel"), self._input_bias() if self.use_bias else None)

    def project_shared_step(self, x):
        """Shared inputs of one step, (B, C), with their bias, to (N*B, gates * U)"""
        x = batched_matmul(x, self._weight("kernel"))
        return fold(add_aligned(x, self._input_bias()) if self.use_bias else x)

    def times(self, x, kernel, bias=None):
        """(N, B, in), or (N*B, in), times (N, in, out), plus (N, out): (N, B, out), or (N*B, out)"""
        y = batched_matmul(unfold(x, self.num_members) if len(x.shape) == 2 else x, kernel)
        y = y if bias is None else add_aligned(y, bias)
        return fold(y) if len(x.shape) == 2 else y

    def _weight(self, name):
        return ops.cast(getattr(self, name), self.compute_dtype)

    def _input_bias(self):
        return self._weight("bias")

    def _gates(self, x):
        return activate(self.recurrent_activation, x)


class _Cell(keras.layers.Layer):
    """One step of all members, for `keras.layers.RNN`.

    Args:
        layer: What it is a cell of.
        step: Function of the inputs of a step, and of the states (N*B, U), that gives new states.
        repeats: int, how many rows of states a row of the inputs has: N where the members share them.
    """

    def __init__(self, layer, step, repeats=1):
        super().__init__(dtype=layer.dtype_policy)
        self.state_size = [layer.units] * layer.num_states
        self.output_size = layer.units
        self._step = step
        self._repeats = repeats
        self.built = True

    def get_initial_state(self, batch_size):
        return [ops.zeros((batch_size * self._repeats, size), dtype=self.compute_dtype) for size in self.state_size]

    def call(self, inputs, states):
        states = list(self._step(inputs, states))
        return states[0], states


class _LSTM(_MultiRecurrent):
    __doc__ = _MultiRecurrent.__doc__
    gates = 4
    num_states = 2

    def step(self, x, h, c):
        """`x` ([N, B] or [N*B], 4 * U): projected inputs with their bias; `h`, `c` likewise, U."""
        i, f, g, o = ops.split(x + self.times(h, self._weight("recurrent_kernel")), 4, axis=-1)
        c = self._gates(f) * c + self._gates(i) * activate(self.activation, g)
        return self._gates(o) * activate(self.activation, c), c


class _GRU(_MultiRecurrent):
    __doc__ = _MultiRecurrent.__doc__
    gates = 3

    def _input_bias(self):
        return self._weight("bias")[:, 0] if self.reset_after else self._weight("bias")  # (N, 3 * U)

    def step(self, x, h):
        """`x` ([N, B] or [N*B], 3 * U): projected inputs with their bias; `h` likewise, U."""
        kernel = self._weight("recurrent_kernel")
        x_z, x_r, x_h = ops.split(x, 3, axis=-1)
        if self.reset_after:
            inner = self.times(h, kernel, self._weight("bias")[:, 1] if self.use_bias else None)
            h_z, h_r, h_h = ops.split(inner, 3, axis=-1)
            candidate = x_h + self._gates(x_r + h_r) * h_h
        else:
            h_z, h_r = ops.split(self.times(h, kernel[..., : 2 * self.units]), 2, axis=-1)
            candidate = x_h + self.times(self._gates(x_r + h_r) * h, kernel[..., 2 * self.units :])
        z = self._gates(x_z + h_z)
        return (z * h + (1 - z) * activate(self.activation, candidate),)


class _SimpleRNN(_MultiRecurrent):
    __doc__ = _MultiRecurrent.__doc__
    gates = 1

    def step(self, x, h):
        """`x` ([N, B] or [N*B], U): projected inputs with their bias; `h` likewise, U."""
        return (activate(self.activation, x + self.times(h, self._weight("recurrent_kernel"))),)


def _public(base, member_class):
    doc = base.__doc__.replace("recurrent layers as", f"`keras.layers.{member_class.__name__}` layers as")
    body = {"member_class": member_class, "__doc__": doc, "__module__": __name__}
    cls = type(f"Multi{member_class.__name__}", (base,), body)
    return keras.saving.register_keras_serializable(PACKAGE)(cls)


MultiLSTM = _public(_LSTM, keras.layers.LSTM)
MultiGRU = _public(_GRU, keras.layers.GRU)
MultiSimpleRNN = _public(_SimpleRNN, keras.layers.SimpleRNN)
