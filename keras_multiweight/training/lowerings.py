"""The one place of training for code of a single backend."""

import contextlib
import functools
import warnings

import keras
from keras import ops, tree

# ---- sparse gradients of TensorFlow ----


def is_sparse(gradient):
    """Whether a gradient is TensorFlow's rows with numbers, `IndexedSlices`."""
    return type(gradient).__name__ == "IndexedSlices"


def sparse_parts(gradient, rows, num_members):
    """Rows `(N, K, ...)` and their numbers `(N, K)` in each member's own table, from those of the table of all.

    The rows of one member keep their order. Every member has as many, because all read with one set of calls.
    """
    members = ops.floor_divide(gradient.indices, rows)
    order = ops.argsort(members, axis=0)  # stable
    ids = ops.reshape(ops.take(gradient.indices, order, axis=0), (num_members, -1))
    values = ops.take(gradient.values, order, axis=0)
    values = ops.reshape(values, (num_members, -1, *gradient.values.shape[1:]))
    return values, ids - ops.expand_dims(ops.arange(num_members, dtype=ids.dtype), 1) * rows


def sparse(values, ids, shape):
    """One member's sparse gradient."""
    import tensorflow as tf

    return tf.IndexedSlices(values, ids, tf.constant(tuple(shape)))


def sparse_stack(values, ids, shape):
    """The sparse gradient of the table of all members, from rows `(N, K, ...)` with numbers in each member's own."""
    num_members = values.shape[0]
    offsets = ops.expand_dims(ops.arange(num_members, dtype=ids.dtype), 1) * (shape[0] // num_members)
    return sparse(ops.reshape(values, (-1, *values.shape[2:])), ops.reshape(ids + offsets, (-1,)), shape)


def dense_parts(values, ids, shape):
    """(N, K, ...) rows -> (N, *shape), equal rows added up."""
    import tensorflow as tf

    num_members = values.shape[0]
    stack = sparse_stack(values, ids, (num_members * shape[0], *shape[1:]))
    return ops.reshape(tf.convert_to_tensor(stack), (num_members, *shape))


# ---- optimizers without side effects ----


def keras_class(optimizer):
    """The optimizer class that a user named: on torch Keras makes objects of hidden subclasses of it."""
    return next(cls for cls in type(optimizer).__mro__ if not _is_backends(cls))


def stateless_class(cls):
    """An optimizer class that updates Keras variables by `assign` only, which a `keras.StatelessScope` catches.

    TensorFlow's and torch's own steps change arrays in place; here Keras's generic ones stand in for them. JAX's are
    without side effects as they are.
    """
    if keras.backend.backend() == "jax":
        return cls
    generic = next(base for base in reversed(cls.__mro__) if "update_step" in vars(base))
    found = {name for base in cls.__mro__ if _is_backends(base) and issubclass(base, generic) for name in vars(base)}
    steps = {name: _without_backend(cls, name) for name in found if not name.startswith("__")}
    return type(cls.__name__, (cls,), {name: step for name, step in steps.items() if callable(step)})


def _without_backend(cls, name):
    """What a class would have by a name if no backend had changed it; Muon, say, has a weight decay of its own."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base) and not _is_backends(base)), None)


def _is_backends(cls):
    return cls.__module__.startswith("keras.src.backend.")


def outside_of_graphs():
    """A scope in which variables are made at once, also while TensorFlow traces a graph."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    import tensorflow as tf

    return tf.init_scope()


@contextlib.contextmanager
def values_kept(variables):
    """A scope that leaves no variable without its value, however it ends.

    On JAX Keras takes the values out of a model's variables before the first step. A step that raises when it is traced,
    because of its data, say, would leave a model without weights.
    """
    values = [v.value for v in variables] if keras.backend.backend() == "jax" else []
    try:
        yield
    except BaseException:
        for variable, value in zip(variables, values):
            if _is_empty(variable):
                variable.assign(value)
        raise


def _is_empty(variable):
    try:
        return variable.value is None
    except TypeError:  # it looks for its initialiser in vain
        return True


def traced_once(function):
    """A function without arguments that TensorFlow traces at its first call only: its map over members, outside of a
    graph, is traced at every call, which takes tens of milliseconds.
    """
    if keras.backend.backend() != "tensorflow":
        return function
    import tensorflow as tf

    return tf.function(function, autograph=False)


def is_eager():
    """Whether Python sees the numbers of a training step: torch runs it as it reads it, unless it traces it."""
    if keras.backend.backend() != "torch":
        return False
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is None


# ---- what follows a training step ----


def after_step(model, result, compute):
    """Let `compute()` assign to variables of a model after its training step, whose result this takes and gives.

    On JAX the variables' values are in the result, `(logs, state)`.
    """
    if keras.backend.backend() != "jax":
        compute()
        return result
    logs, state = result
    variables = [model.trainable_variables, model.non_trainable_variables, model.optimizer.variables]
    pairs = [pair for group, values in zip(variables, state) for pair in zip(group, values)]
    with keras.StatelessScope(pairs) as scope:
        compute()
    values = [[_current(scope, v, old) for v, old in zip(*pair)] for pair in zip(variables, state)]
    return logs, (*values, *state[len(values) :])


def _current(scope, variable, old):
    value = scope.get_current_value(variable)
    return old if value is None else value


def stepped(optimizer, gradients, variables):
    """What a step of a Keras optimizer makes of variables, and of its own, as two lists of tensors.

    TensorFlow's optimizers only assign; there the variables have these values afterwards.
    """
    if keras.backend.backend() == "tensorflow":
        optimizer.apply(gradients, variables)
        return [[ops.convert_to_tensor(v.value) for v in group] for group in (variables, optimizer.variables)]
    values, state = ([ops.convert_to_tensor(v.value) for v in group] for group in (variables, optimizer.variables))
    return optimizer.stateless_apply(state, gradients, values)


class OwnState:
    """What a model's training changes, held for it between the calls of its training function, as Keras's `fit` does.

    Only JAX's functions have a state outside of the model, `(state, source) -> logs, state`.

    Args:
        model: A compiled model.
    """

    def __init__(self, model):
        self._model, self._values = model, None

    def run(self, function, source):
        """The logs of a training function."""
        if keras.backend.backend() != "jax":
            return function(source)
        values = self._values or tuple([v.value for v in group] for group in self._variables())
        logs, self._values = function(values, source)
        return logs

    def settle(self):
        """Give the model's variables the values that they have now."""
        for group, values in zip(self._variables(), self._values or ()):
            for variable, value in zip(group, values):
                variable.assign(value)
        self._values = None

    def _variables(self):
        model = self._model
        groups = [model.trainable_variables, model.non_trainable_variables, model.optimizer.variables]
        return [*groups, model.metrics_variables]


# ---- many steps in one program ----


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
    step = _finished_first(model.train_step if kind == "train" else model.test_step, finish)
    programs = {"tensorflow": _tensorflow_program, "jax": _jax_program, "torch": _torch_program}
    return programs[keras.backend.backend()](model, step, kind, xla, finish)


def _finished_first(step, finish):
    """A step that gets its batch, the last argument, from `finish`."""
    return step if finish is None else lambda *args: step(*args[:-1], finish(args[-1], ops))


def _tensorflow_program(model, step, kind, xla, finish):
    """One step is traced by itself, outside of XLA's context: TensorFlow compiles gradients through a
    `tf.vectorized_map` that was traced inside of it anew at every call.
    """
    import tensorflow as tf

    steps, programs = {}, {}

    def kind_of(arrays, rows):
        return tuple(rows.shape[1:]), *((tuple(a.shape), a.dtype.name) for a in tree.flatten(arrays) if a is not None)

    def trace(arrays, rows):
        def take(arrays, numbers):
            step(tree.map_structure(lambda a: None if a is None else tf.gather(a, numbers), arrays))

        specs = tree.map_structure(lambda a: None if a is None else tf.TensorSpec(a.shape, a.dtype), arrays)
        numbers = tf.TensorSpec(rows.shape[1:], rows.dtype)
        return tf.function(take, autograph=False).get_concrete_function(specs, numbers)

    @tf.function(jit_compile=xla, autograph=False)
    def run(arrays, rows, count):
        one = steps[kind_of(arrays, rows)]

        def body(at):
            one(arrays, rows[at])
            return at + 1

        tf.while_loop(lambda at: at < count, body, [0])
        return model.get_metrics_result()

    def program(state, arrays, rows, count):
        rows, count = tf.constant(rows), tf.constant(count)
        kind = kind_of(arrays, rows)
        if kind not in steps:
            steps[kind] = trace(arrays, rows)
        if (kind, len(rows)) not in programs:  # concrete ones: of others TensorFlow warns where many models are trained
            programs[kind, len(rows)] = run.get_concrete_function(arrays, rows, count)
        return programs[kind, len(rows)](arrays, rows, count), state

    return program


def _jax_program(model, step, kind, xla, finish):
    import jax

    @functools.partial(jax.jit, donate_argnums=0)
    def run(state, arrays, rows, count):
        def body(at, state):
            data = jax.tree.map(lambda a: a[rows[at]], arrays)
            _, new = step(state, data)
            return jax.tree.map(lambda value, old: value.astype(old.dtype), new, state)

        state = jax.lax.fori_loop(0, count, body, state)
        with keras.StatelessScope(list(zip(model.metrics_variables, state[-1]))):
            return model.get_metrics_result(), state

    return run


def _torch_program(model, step, kind, xla, finish):
    """A step is traced to the operations that torch runs in it, which are then run without the Python that chose them.

    Steps that Python must see the numbers of (dropout takes its seed from a tensor) are run as they are.
    """
    import torch

    graphs = {}

    def run(state, arrays, rows, count):
        rows = torch.as_tensor(rows)
        flat = [a for a in tree.flatten(arrays) if a is not None]
        key = (tuple(rows.shape[1:]), *((tuple(a.shape), a.dtype) for a in flat))
        if key not in graphs:
            graphs[key] = _torch_graph(model, kind, arrays, rows[0], finish)
        with torch.set_grad_enabled(kind == "train" and not graphs[key]):
            if graphs[key]:
                graphs[key](flat, rows, count)
            else:
                for at in range(count):
                    step(_rows_of(arrays, rows[at]))
            return model.get_metrics_result(), state

    return run


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
    return {"x": epochs, "steps_per_epoch": -(-len(rows) // block), "shuffle": False}


def _rows_of(arrays, numbers):
    return tree.map_structure(lambda a: None if a is None else a[numbers], arrays)


def _torch_graph(model, kind, arrays, numbers, finish):
    """`run(arrays, rows, count)` of a traced step, or None where a step cannot be traced.

    A block of steps computes on copies of the variables, so that one that is cut off changes nothing.
    """
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    trained = list(model.trainable_variables) if kind == "train" else []
    others = [*model.non_trainable_variables, *model.optimizer.variables, *model.metrics_variables]
    variables = [*trained, *(others if trained else [*model.trainable_variables, *others])]
    step = functools.partial(_torch_step, model) if kind == "train" else model.test_step
    step = _finished_first(step, finish)

    def pure(*tensors):
        values, flat, numbers = tensors[: len(variables)], iter(tensors[len(variables) : -1]), tensors[-1]
        values = [v.detach().requires_grad_(i < len(trained)) for i, v in enumerate(values)]
        filled = tree.map_structure(lambda a: None if a is None else next(flat), arrays)
        with keras.StatelessScope(list(zip(variables, values)), collect_losses=True) as scope:
            step(_rows_of(filled, numbers))
            return tuple(scope.get_current_value(v).detach() for v in variables)

    def copies():
        return [v.value.detach().clone() for v in variables]

    given = [*(a for a in tree.flatten(arrays) if a is not None), numbers]
    try:
        with torch.set_grad_enabled(kind == "train"):
            traced = make_fx(pure, tracing_mode="fake", _allow_non_fake_inputs=True)(*copies(), *given)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the numbers of rows are always as many
            traced = torch.jit.trace(traced, (*copies(), *given), check_trace=False)
    except Exception:
        return None

    def run(arrays, rows, count):
        values = copies()
        for at in range(count):
            values = traced(*values, *arrays, rows[at])
        for variable, value in zip(variables, values):
            variable.assign(value)

    return run


def _torch_step(model, data):
    """What `train_step` does, but all that it leaves behind is in variables, where Keras's leaves gradients, too."""
    import torch

    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(model.own_columns(data))
    y_pred = model(x, training=True)
    losses = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
    trained = model.trainable_variables
    loss = model.optimizer.scale_loss(losses)
    gradients = torch.autograd.grad(loss, [v.value for v in trained], allow_unused=True)
    with torch.no_grad():
        model.optimizer.apply(gradients, trained)
    model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
    for callback in model.callbacks_inside():
        callback.after_step(model.optimizer.iterations)


def next_rows(source):
    """The numbers of rows that Keras's data pipeline gives next, from what it hands to a training function."""
    rows = source[0] if isinstance(source, list) else next(source)
    return ops.convert_to_numpy(rows[0] if isinstance(rows, (tuple, list)) else rows)
