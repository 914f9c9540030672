"""Many minibatches in one compiled program, and how Keras's `fit` hands it the numbers of their rows; torch's is a file of
its own. K minibatches of B rows.
"""

import keras
from keras import ops, tree

from keras_multiweight.training.torch_programs import torch_program


def step_program(model, kind, xla, finish=None):
    """A function that runs `model.train_step` or `model.test_step` on many minibatches without leaving the device.

    Args:
        model: A compiled `MemberTrainer`.
        kind: "train" or "test".
        xla: bool, for TensorFlow: compile with XLA.
        finish: Function `finish(batch, numpy)` of each minibatch, or None.

    Returns:
        `run(state, arrays, rows, count) -> logs, state`: `arrays` is what `fit` was given, `rows` are `(K, B)` or
        `(K, B, N)` numbers of rows, of which the first `count` minibatches are run. Only JAX has a state outside of the
        model.
    """

    def finished(step):
        """A step that gets its batch, the last argument, from `finish`."""
        return step if finish is None else lambda *args: step(*args[:-1], finish(args[-1], ops))

    step = finished(model.train_step if kind == "train" else model.test_step)
    programs = {"tensorflow": _tensorflow_program, "jax": _jax_program, "torch": torch_program}
    return programs[keras.backend.backend()](model, step, kind, xla, finished)


def _tensorflow_program(model, step, kind, xla, finished):
    """One step is traced by itself, outside of XLA's context: TensorFlow compiles gradients through a
    `tf.vectorized_map` that was traced inside of it anew at every call.
    """
    import tensorflow as tf

    steps, programs = {}, {}

    def kind_of(arrays, rows):
        return tuple(rows.shape[1:]), *((tuple(a.shape), a.dtype.name) for a in tree.flatten(arrays) if a is not None)

    def trace(arrays, rows):
        def take(arrays, numbers):
            with model.rows_open():
                step(tree.map_structure(lambda a: None if a is None else tf.gather(a, numbers), arrays))

        specs = tree.map_structure(lambda a: None if a is None else tf.TensorSpec(a.shape, a.dtype), arrays)
        numbers = tf.TensorSpec(rows.shape[1:], rows.dtype)
        return tf.function(take, autograph=False).get_concrete_function(specs, numbers)

    def run(arrays, rows, count):
        one = steps[kind_of(arrays, rows)]

        def body(at):
            one(arrays, rows[at])
            return at + 1

        tf.while_loop(lambda at: at < count, body, [0])
        return model.get_metrics_result()

    def compiled(given, xla):  # a concrete function: of others TensorFlow warns where many models are trained
        return tf.function(run, jit_compile=xla, autograph=False).get_concrete_function(*given)

    def program(state, arrays, rows, count):
        given = arrays, tf.constant(rows), tf.constant(count)
        kind = kind_of(*given[:2])
        if kind not in steps:
            steps[kind] = trace(*given[:2])
        key = kind, len(rows)
        try:
            programs[key] = programs.get(key) or compiled(given, xla)
            return programs[key](*given), state
        except tf.errors.InvalidArgumentError:  # what XLA does not compile, gradients of recurrent layers, changed nothing
            if not xla:
                raise
            programs[key] = compiled(given, False)
            return programs[key](*given), state

    return program


def _jax_program(model, step, kind, xla, finished):
    """Steps that spare members must choose each number that they change, which takes time, and changes what XLA computes in
    one loop, and so its rounding. While no member rests, a program runs that spares none. Where its steps find a gradient
    that is NaN or inf, its results are dropped, and the other runs.
    """
    import jax

    def run(state, arrays, rows, count):
        def body(at, state):
            data = jax.tree.map(lambda a: a[rows[at]], arrays)
            _, new = step(state, data)
            return jax.tree.map(lambda value, old: value.astype(old.dtype), new, state)

        state = jax.lax.fori_loop(0, count, body, state)
        with keras.StatelessScope(list(zip(model.metrics_variables, state[-1]))):
            return model.get_metrics_result(), state

    def traced(spares):
        def run_traced(*args):
            with model.optimizer.traced_for(spares):
                return run(*args)

        return run_traced

    if kind == "test":
        return jax.jit(run, donate_argnums=0)
    sparing, sparing_none = jax.jit(traced(True), donate_argnums=0), jax.jit(traced(False))

    def program(state, *given):
        may_spare = model.optimizer.may_spare
        if not may_spare(state[2]):
            logs, new = sparing_none(state, *given)
            if not may_spare(new[2]):
                return logs, new
        return sparing(state, *given)

    return program


def fed_rows(rows, block, shuffle=False):
    """What Keras's `fit` is given in the place of data: the numbers of the rows, in blocks, in a new order at each epoch.

    For arrays Keras makes TensorFlow's data pipeline anew twice an epoch, which takes longer than an epoch of a small data
    set; here one pipeline serves all epochs.

    Returns:
        Dict of arguments of `fit`.
    """
    if keras.backend.backend() != "tensorflow" or shuffle not in (True, False):
        return {"x": rows, "batch_size": block, "shuffle": shuffle}
    import tensorflow as tf

    whole = len(rows) // block * block

    def epoch(_):
        order = tf.random.shuffle(rows) if shuffle else tf.constant(rows)
        parts = tf.data.Dataset.from_tensor_slices(tf.reshape(order[:whole], (-1, block)))
        return parts if whole == len(rows) else parts.concatenate(tf.data.Dataset.from_tensors(order[whole:]))

    epochs = tf.data.Dataset.range(1).repeat().flat_map(epoch)
    options = tf.data.Options()
    options.autotune.enabled = False  # whose thread, asleep for ever longer, the end of `fit` would wait for
    return {"x": epochs.with_options(options), "steps_per_epoch": -(-len(rows) // block), "shuffle": False}


def next_rows(source):
    """The numbers of rows that Keras's data pipeline gives next, from what it hands to a training function."""
    rows = source[0] if isinstance(source, list) else next(source)
    return ops.convert_to_numpy(rows[0] if isinstance(rows, (tuple, list)) else rows)
