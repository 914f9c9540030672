"""Many minibatches in one traced program on torch, whose Python is left out from the second step on.

While all members train and no gradient is NaN or inf, a training step spares no member: it is traced in two parts, gradients
and update, and between them one number tells whether all gradients are finite. A step that spares members must copy weights
and moments, which takes a third of its time; it is traced whole, once a member rests or falls sick.
"""

import functools

import keras
from keras import tree

from keras_multiweight.training.lowerings import values_before
from keras_multiweight.training.torch_traces import traced


def torch_program(model, step, kind, xla, finished):
    """`run(state, arrays, rows, count)`, as `step_program` says, for one step on a minibatch, `step(data)`.

    The step is traced to the operations that torch runs in it, which are then run without the Python that chose them.

    Steps that Python must see the numbers of (dropout takes its seed from a tensor) are run as they are.
    """
    import torch

    programs = {}

    def run(state, arrays, rows, count):
        rows = torch.as_tensor(rows)
        flat = [a for a in tree.flatten(arrays) if a is not None]
        key = (tuple(rows.shape[1:]), *((tuple(a.shape), a.dtype) for a in flat))
        if key not in programs:
            programs[key] = _program(model, kind, arrays, rows[0], finished)
        with torch.set_grad_enabled(kind == "train" and not programs[key]):
            if programs[key]:
                programs[key].run(flat, rows, count)
            else:
                for at in range(count):
                    step(_rows_of(arrays, rows[at]))
            return model.get_metrics_result(), state

    return run


def _rows_of(arrays, numbers):
    return tree.map_structure(lambda a: None if a is None else a[numbers], arrays)


def _program(model, kind, arrays, numbers, finished):
    """The traced steps of a kind, or None where they cannot be traced."""
    try:
        return (_TrainProgram if kind == "train" else _TestProgram)(model, arrays, numbers, finished)
    except Exception:
        return None


class _TestProgram:
    """Test steps on minibatches of one shape.

    Args:
        model: A compiled `MemberTrainer`.
        arrays: Structure of tensors, the data.
        numbers: (B,) or (B, N) tensor, the numbers of the rows of a minibatch.
        finished: Function of a step, as in `step_program`.
    """

    def __init__(self, model, arrays, numbers, finished):
        self.model = model
        self.trained = list(model.trainable_variables)
        others = (model.non_trainable_variables, model.optimizer.variables, model.metrics_variables)
        self.variables = [*self.trained, *(v for group in others for v in group)]
        self._arrays, self._finished = arrays, finished
        self._example = [*(a for a in tree.flatten(arrays) if a is not None), numbers]
        self._trace()

    def _trace(self):
        self._step = self._traced(self._on_data(self.model.test_step), self._example)

    def run(self, arrays, rows, count):
        """Run `count` steps on copies of the variables, so that a block of them that is cut off changes nothing."""
        values = self._copies()
        for at in range(count):
            values = self._next(values, (*arrays, rows[at]))
        for variable, value in zip(self.variables, values):
            variable.assign(value)

    def _next(self, values, given):
        return self._step(*values, *given)

    def _copies(self):
        return [v.value.detach().clone() for v in self.variables]

    def _on_data(self, step):
        """A function of flat data and the numbers of rows, from one of a minibatch."""
        step = self._finished(step)

        def on_data(*tensors):
            flat = iter(tensors[:-1])
            filled = tree.map_structure(lambda a: None if a is None else next(flat), self._arrays)
            return step(_rows_of(filled, tensors[-1]))

        return on_data

    def _traced(self, compute, example):
        """`(*values, *tensors) -> (*new values, *more)`, traced: `compute(*tensors)`, which may return a list of more."""
        import torch

        count = len(self.variables)

        def pure(*tensors):
            values = [v.detach().requires_grad_(i < len(self.trained)) for i, v in enumerate(tensors[:count])]
            with keras.StatelessScope(list(zip(self.variables, values)), collect_losses=True) as scope:
                more = compute(*tensors[count:])
                more = more if isinstance(more, list) else []  # logs are read from the variables
                return *(scope.get_current_value(v).detach() for v in self.variables), *more

        with torch.enable_grad():
            return traced(pure, (*self._copies(), *example))


class _TrainProgram(_TestProgram):
    """Training steps on minibatches of one shape."""

    def _trace(self):
        import torch

        self._found = self._traced(self._on_data(self._examined), self._example)
        with torch.no_grad():
            *found, _ = self._found(*self._copies(), *self._example)
        self._update = self._traced(self._applied, found[len(self.variables) :])

    @functools.cached_property
    def _sparing(self):
        return self._traced(self._on_data(self._whole), self._example)

    def run(self, arrays, rows, count):
        self._spares = bool(self.model.optimizer.resting.any())
        super().run(arrays, rows, count)

    def _next(self, values, given):
        if not self._spares:
            *found, is_finite = self._found(*values, *given)
            if is_finite:
                return self._update(*found)
            self._spares = True  # to the end of the block: a member that is sick now rests from here on
        return self._sparing(*values, *given)

    # ---- what is traced ----

    def _examined(self, data):
        """The gradients on a minibatch, and whether all of them are finite: a sum that overflows only asks for more care."""
        import torch

        found = self._gradients(data)
        self._moved = [v for v, gradient in zip(self.trained, found) if gradient is not None]
        found = [gradient for gradient in found if gradient is not None]
        return [*found, torch.isfinite(sum(gradient.sum() for gradient in found))]

    def _applied(self, *gradients):
        """The update by gradients that are finite, where all members are trained."""
        import torch

        with torch.no_grad():
            self.model.optimizer.apply_to_all(gradients, self._moved)
        self._follow()

    def _whole(self, data):
        """A whole step, which leaves members that rest as they are, and those whose gradients are not finite."""
        import torch

        before = values_before(self.model, self.model.changeable(), None)
        gradients = self._gradients(data)
        with torch.no_grad():
            self.model.optimizer.apply(gradients, self.trained)
            self.model.spare_resting(before)
        self._follow()

    def _gradients(self, data):
        """What `train_step` does before the update, but all that it leaves behind is in variables, not in tensors."""
        import torch

        model, start = self.model, [v.value for v in self.trained]  # a layer may assign to them
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(model.own_columns(data))
        y_pred = model(x, training=True)
        losses = model.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=True)
        model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        loss = model.optimizer.scale_loss(losses)
        return torch.autograd.grad(loss, start, allow_unused=True)

    def _follow(self):
        for callback in self.model.callbacks_inside():
            callback.after_step(self.model.optimizer.iterations)
