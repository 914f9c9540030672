"""The one place of training for code of a single backend."""

import contextlib
import functools
import types

import keras
from keras import ops

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
    steps = {name: defined for name, defined in steps.items() if defined and callable(defined[0])}
    bare = cls
    for level in range(max(map(len, steps.values()), default=0)):
        bare = type(cls.__name__, (bare,), {})
        for name, defined in steps.items():
            if level < len(defined):
                setattr(bare, name, _with_super_of(defined[-1 - level], bare))
    return bare


def _without_backend(cls, name):
    """What classes define by a name, the uppermost first, but for backends; Muon, say, has a weight decay of its own."""
    return [vars(base)[name] for base in cls.__mro__ if name in vars(base) and not _is_backends(base)]


def _with_super_of(method, cls):
    """A method whose `super()` is that of another class: that of Nadam's step would find the backend's."""
    names = getattr(getattr(method, "__code__", None), "co_freevars", ())
    if "__class__" not in names:
        return method
    cells = tuple(types.CellType(cls) if name == "__class__" else cell for name, cell in zip(names, method.__closure__))
    copy = types.FunctionType(method.__code__, method.__globals__, method.__name__, method.__defaults__, cells)
    copy.__kwdefaults__ = method.__kwdefaults__
    return copy


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


def with_rows_open(x):
    """A tensor `(N, B, ...)` that TensorFlow does not know B of when it traces."""
    import tensorflow as tf

    return tf.compat.v1.placeholder_with_default(x, (x.shape[0], None, *x.shape[2:]))


def all_finite(values):
    """Whether all numbers of each member are finite, (N, ...) -> (N,).

    Reshaped first, XLA does not fuse what follows with what gave the values: a step of 50 small networks takes 1.4 times as
    long. On torch `isfinite` makes five arrays on its way.
    """
    rows = (values.shape[0], -1)
    if keras.backend.backend() != "torch":
        return ops.all(ops.reshape(ops.isfinite(values), rows), axis=1)
    return ops.equal(ops.sum(ops.reshape(values - values, rows), axis=1), 0)  # NaN, where a number is infinite or NaN


def assigns_in_place():
    """Whether optimizers change arrays without calling their own `assign`, `assign_add` and `assign_sub`: torch's do."""
    return keras.backend.backend() == "torch"


def for_members(keep, step, variables):
    """Run `step(keep)`, which changes `variables` of the members that `keep`, (N,) bools, () for all or none, or True.

    Where all do, `step(True)` spares none. On torch Python looks, unless it traces. On JAX the two are branches of the
    program: XLA rounds by what it computes in one loop, and where none is spared the loops are those of a member alone.
    """
    if not has_branches(keep):
        return step(keep is True or _is_seen_true(keep) or keep)
    import jax

    def values_after(function):
        with keras.StatelessScope([(v, ops.convert_to_tensor(v)) for v in variables]) as scope:
            function()
        return [ops.cast(scope.get_current_value(v), v.dtype) for v in variables]

    spare = (lambda: step(keep)) if len(keep.shape) else (lambda: None)
    branches = [functools.partial(values_after, function) for function in (lambda: step(True), spare)]
    for variable, value in zip(variables, jax.lax.cond(ops.all(keep), *branches)):
        variable.assign(value)


def has_branches(keep):
    """Whether `for_members` makes branches of a compiled program."""
    return keep is not True and keras.backend.backend() == "jax"


def _is_seen_true(every):
    """Whether Python sees, where it does not trace, that torch's bools are all True."""
    if keras.backend.backend() != "torch":
        return False
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is None and bool(ops.all(every))


# ---- what follows a training step ----


def values_before(model, variables, state):
    """Copies of the values that variables have before a training step, which on JAX gets them as its `state`."""
    if not state:
        return [ops.copy(v) for v in variables]
    groups = zip((model.trainable_variables, model.non_trainable_variables), state[0])
    values = {id(v): value for group, part in groups for v, value in zip(group, part)}
    return [values[id(v)] for v in variables]


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
