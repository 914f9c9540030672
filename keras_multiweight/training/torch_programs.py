"""Many minibatches in one traced program on torch, whose Python is left out from the second step on."""

import functools
import warnings

import keras
from keras import tree

from keras_multiweight.training.lowerings import values_before


def torch_program(model, step, kind, xla, finished):
    """`run(state, arrays, rows, count)`, as `step_program` says, for one step on a minibatch, `step(data)`.

    The step is traced to the operations that torch runs in it, which are then run without the Python that chose them.

    Steps that Python must see the numbers of (dropout takes its seed from a tensor) are run as they are.
    """
    import torch

    graphs = {}

    def run(state, arrays, rows, count):
        rows = torch.as_tensor(rows)
        flat = [a for a in tree.flatten(arrays) if a is not None]
        key = (tuple(rows.shape[1:]), *((tuple(a.shape), a.dtype) for a in flat))
        if key not in graphs:
            graphs[key] = _torch_graph(model, kind, arrays, rows[0], finished)
        with torch.set_grad_enabled(kind == "train" and not graphs[key]):
            if graphs[key]:
                graphs[key](flat, rows, count)
            else:
                for at in range(count):
                    step(_rows_of(arrays, rows[at]))
            return model.get_metrics_result(), state

    return run


def _rows_of(arrays, numbers):
    return tree.map_structure(lambda a: None if a is None else a[numbers], arrays)


def _torch_graph(model, kind, arrays, numbers, finished):
    """`run(arrays, rows, count)` of a traced step, or None where a step cannot be traced.

    A block of steps computes on copies of the variables, so that one that is cut off changes nothing.
    """
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    trained = list(model.trainable_variables) if kind == "train" else []
    others = [*model.non_trainable_variables, *model.optimizer.variables, *model.metrics_variables]
    variables = [*trained, *(others if trained else [*model.trainable_variables, *others])]
    step = functools.partial(_torch_step, model) if kind == "train" else model.test_step
    step = finished(step)

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

    before = values_before(model, model.statistics(), None)
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(model.own_columns(data))
    y_pred = model(x, training=True)
    losses = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
    trained = model.trainable_variables
    loss = model.optimizer.scale_loss(losses)
    gradients = torch.autograd.grad(loss, [v.value for v in trained], allow_unused=True)
    with torch.no_grad():
        model.optimizer.apply(gradients, trained)
        model.spare_resting(before)
    model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
    for callback in model.callbacks_inside():
        callback.after_step(model.optimizer.iterations)
