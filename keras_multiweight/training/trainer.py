"""Keras's training methods for a model of N members. N members, B rows."""

import contextlib

import keras
from keras import ops, tree

from keras_multiweight.arrays import are_arrays, without_pandas
from keras_multiweight.layers.lowerings import gradients_in_order, keep_freed_memory
from keras_multiweight.training import lowerings
from keras_multiweight.training.arguments import CompileArguments, arguments_of
from keras_multiweight.training.batches import class_weights
from keras_multiweight.training.history import with_history
from keras_multiweight.training.optimizer_settings import with_loss_scale
from keras_multiweight.training.optimizers import MemberOptimizer
from keras_multiweight.training.programs import step_program
from keras_multiweight.training.running import Running
from keras_multiweight.training.scored import ScoredModel
from keras_multiweight.training.scores import MemberLosses, MemberMetrics, scorer
from keras_multiweight.training.steps import (
    Feed,
    RowDataset,
    RowFeed,
    StepCallbacks,
    automatic_steps,
    can_be_fed,
    check_has_rows,
    first_batch,
    inside_step,
    members_data,
    row_spec,
    split,
    two_rows,
)
from keras_multiweight.training.weights import StackedWeights, choose_rows


class _Hidden:
    """What Keras must not track: it is made anew at each `compile`."""

    def __init__(self, given, weights):
        self.given = given  # the arguments of `compile`
        self.weights = weights
        self.losses = None
        self.metrics = None
        self.compiling = 0.0  # seconds, see `note_compiling`
        self.names = []  # of the results, in order: Keras sorts what it returns
        self.programs = {}  # of many steps, by kind and finish
        self.stock = {}  # Keras's own functions, by kind
        self.inside = []  # callbacks that are part of the training step
        self.columns = None  # what takes the part of these members out of a batch of more
        self.example = None  # two rows of zeros as the first batch


class MemberTrainer(ScoredModel):
    """A model with outputs `(B, N, ...)` whose members train as each would alone.

    Attributes:
        member_history: Dict of names to arrays `(epochs, N)`: every loss and metric of each member in the last `fit`.
        member_logs: The same of the present epoch, (N,); for callbacks.
    """

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        loss_weights=None,
        metrics=None,
        weighted_metrics=None,
        run_eagerly=False,
        steps_per_execution=1,
        jit_compile="auto",
        auto_scale_loss=True,
        *,
        member_targets=None,
        member_weights=None,
    ):
        """Say how the members train: as `keras.Model.compile`, with each member on its own.

        A member's gradient is that of its own loss; the loss and metrics shown are means over the members, and
        `ensemble_...` are the metrics of the mean of the members' outputs. A member whose gradient is NaN or inf is no
        longer trained, nor part of the means; the others go on.

        Args:
            optimizer: An optimizer for all members, each of which is updated as if alone; or a list of one a member, which
                may differ in class, learning rate, schedule, weight decay and clipping.
            loss, loss_weights, metrics, weighted_metrics: For one member, as for `keras.Model.compile`.
            run_eagerly, jit_compile, auto_scale_loss: As for `keras.Model.compile`.
            steps_per_execution: int or "auto": how many minibatches of arrays are run in one compiled program, on every
                backend; "auto" chooses as many as hide the cost of a call, and one where a callback must see every batch.
            member_targets: Whether axis 1 of the targets holds the members: bool, or a structure of bools as the targets.
                Left out, targets with as many axes as the packed outputs, `(B, N, ...)`, are per member, and targets with
                fewer serve all.
            member_weights: The same for sample weights. Left out, `(B,)` serve all and `(B, N)` are per member, or
                `(B, N, T)` for outputs of T steps.

        Raises:
            ValueError: A list of optimizers that cannot be updated in one graph, by name.

        Example:

        ```python
        multi = kmw.replicate(build, 20)
        multi.compile([keras.optimizers.Adam(10.0**-k) for k in range(20)], "mse", metrics=["mae"])
        multi.fit(x, y, epochs=10)
        multi.member_history["mae"]  # (10, 20)
        ```
        """
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        self.check_trainable()
        scaled = auto_scale_loss and self.dtype_policy.name == "mixed_float16"
        weights = StackedWeights(self)
        updates = MemberOptimizer(with_loss_scale(optimizer) if scaled else optimizer, weights)
        super().compile(
            optimizer=updates,
            run_eagerly=run_eagerly,
            jit_compile=jit_compile,
            auto_scale_loss=False,
        )
        self.loss = loss
        self._compiled = hidden = _Hidden(given, weights)
        hidden.losses = MemberLosses(self._scorer(loss=loss, loss_weights=loss_weights), self.num_members)
        asked = metrics or weighted_metrics
        scorer = self._scorer(metrics=metrics, weighted_metrics=weighted_metrics)
        hidden.metrics = MemberMetrics(scorer, self.num_members) if asked else None

    def check_trainable(self):
        """Raise a ValueError where the members cannot be trained apart."""

    def _scorer(self, **compile_args):
        return scorer(self.output, self.output_names, **compile_args)

    def compile_arguments(self):
        """The arguments of `compile`, as a dict."""
        return dict(self._compiled.given)

    def jit_compile_asked(self):
        return self._compiled.given["jit_compile"] if self.compiled else "auto"

    def get_compile_config(self):
        if not self.compiled:
            return {}
        return keras.saving.serialize_keras_object(CompileArguments(self._compiled.given))

    def compile_from_config(self, config):
        self.compile(**arguments_of(config))
        self.optimizer.build(self.trainable_variables)  # whose state is read next

    def train_step(self, *args):
        """Keras's own, and then what callbacks compute in it."""
        *state, data = args
        before = lowerings.values_before(self, self.changeable(), state)
        with gradients_in_order(self.optimizer.clips_by_norm):
            result = super().train_step(*state, self.own_columns(data))
        if before:
            result = lowerings.after_step(self, result, lambda: self.spare_resting(before))
        for callback in self.callbacks_inside():
            result = lowerings.after_step(self, result, lambda own=callback: own.after_step(self.optimizer.iterations))
        return result

    def changeable(self):
        """The variables of the members that layers may change in training."""
        weights = self._compiled.weights
        return [*weights.statistics, *(variable for *_, variable in weights.assignable)]

    def spare_resting(self, before):
        """Give what layers changed in members that rest the values of `changeable()` from `before` a training step."""
        changed = {id(v) for v in self._compiled.weights.changed_by_layers()}
        for variable, old in zip(self.changeable(), before):
            if id(variable) in changed:
                variable.assign(choose_rows(self.optimizer.are_trained(), ops.convert_to_tensor(variable), old))

    def note_compiling(self, seconds=0.0):
        """How long compiling the training step has been seen to take, at most."""
        self._compiled.compiling = max(self._compiled.compiling, seconds)
        return self._compiled.compiling

    def callbacks_inside(self):
        """The callbacks that are part of the training step."""
        return self._compiled.inside

    def own_columns(self, data):
        """The part of this model's members in a batch of a training step, which may be one of more members."""
        return self._compiled.columns(data) if self._compiled.columns else data

    # ---- fit and evaluate ----

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        shuffle=True,
        class_weight=None,
        sample_weight=None,
        initial_epoch=0,
        steps_per_epoch=None,
        validation_steps=None,
        validation_batch_size=None,
        validation_freq=1,
    ):
        """Train all members: as `keras.Model.fit`. Every member sees the same batches, or its own rows of them.

        Args:
            x: The inputs of one member, which all members read; or, of a model packed with `member_inputs=True`, the
                inputs of each member, `(B, N, ...)`.
            y: Targets for all members, or for each: see `compile`.
            sample_weight: `(B,)` for all members, or `(B, N)` for each. With `(B, N)` each member can have a sample, a fold
                or a bootstrap of its own.
            class_weight: Dict of class to weight. Targets of each member give weights of each member.

        Returns:
            Keras's `History` of the means over members. `member_history` has the numbers of each member.
        """
        x, y, sample_weight, validation_data = without_pandas((x, y, sample_weight, validation_data))
        given = {key: value for key, value in locals().items() if key not in ("self", "__class__")}
        options = {key: given[key] for key in ("epochs", "shuffle", "initial_epoch", "validation_freq", "verbose")}
        self._check_compiled()
        if validation_split and validation_data is None and are_arrays(x):  # before rows have the weights of their classes
            (x, y, sample_weight), validation_data = split((x, y, sample_weight), validation_split)
            given["validation_data"], given["validation_split"] = validation_data, 0.0
        if class_weight is not None and sample_weight is None and hasattr(y, "shape"):
            sample_weight, class_weight = class_weights(y, class_weight, self._has_member_axis(y)), None
        history, *callbacks = with_history(callbacks)
        self._take_inside(callbacks)
        own_rows = members_data(callbacks, self, x, y, sample_weight, batch_size or 32)
        if own_rows is not None:
            x, y, sample_weight, options["shuffle"] = own_rows, None, None, False
        x = self._prepare(x, y, sample_weight)
        history.running = running = Running(self, callbacks)
        callbacks = [history, *callbacks, running]
        data = (x, y, sample_weight)
        if isinstance(x, RowDataset):
            options["shuffle"] = False  # the order is the data set's
        steps = self._steps(getattr(x, "batch_size", batch_size) or 32, callbacks)
        if steps > 1 and can_be_fed(data, validation_data) and not steps_per_epoch and not class_weight:
            sizes = (batch_size or 32, validation_batch_size or batch_size or 32)
            with self._guarded(), self.optimizer.members_active():
                return self._fit_in_blocks(data, validation_data, sizes, steps, validation_steps, callbacks, options)
        changed = {"x": x, "y": y, "sample_weight": sample_weight, "class_weight": class_weight, "callbacks": callbacks}
        with self._guarded(), self.optimizer.members_active(), running.scope():
            return super().fit(**{**given, **options, **changed})

    def _guarded(self):
        """A scope of training or evaluation that leaves a whole model, however it ends."""
        keep_freed_memory()
        return lowerings.values_kept([*self.variables, *self.optimizer.variables, *self.metrics_variables])

    def _check_compiled(self):
        if not self.compiled:
            raise ValueError(f"A model must be compiled before it is trained or evaluated. Call '{self.name}'.compile().")

    def _take_inside(self, callbacks):
        """Make those callbacks that ask for it part of the training step: `after_step(iterations)` is traced in it.

        It may assign to the model's variables, and to those that the callback's `step_variables(model)` names.
        """
        inside = [callback for callback in callbacks if inside_step(callback, self)]
        if inside != self._compiled.inside:
            self._compiled.inside, self.train_function = inside, None
            self._compiled.programs = {}
            self.optimizer.host(v for callback in inside for v in callback.step_variables(self))

    def _steps(self, batch_size, callbacks):
        steps = self._compiled.given["steps_per_execution"]
        return automatic_steps(self, batch_size, callbacks) if steps == "auto" else steps

    def _fit_in_blocks(self, data, validation, sizes, steps, validation_steps, callbacks, options):
        """Keras's `fit` on the numbers of the rows, with programs that take blocks of them."""
        of_rows = isinstance(data[0], RowDataset)
        train = RowFeed(self, data[0], steps) if of_rows else Feed(self, "train", data, sizes[0], steps)
        test = Feed(self, "test", validation, sizes[1], steps) if validation is not None else None
        with self._functions(train_function=train, test_function=test), callbacks[-1].scope(train):
            return super().fit(
                **{**options, **train.fit_arguments(options["shuffle"])},
                callbacks=StepCallbacks(
                    callbacks,
                    train,
                    test,
                    add_history=True,
                    add_progbar=options["verbose"] != 0,
                    verbose=options["verbose"],
                    epochs=options["epochs"],
                    steps=train.num_batches,
                    model=self,
                ),
                validation_data=(test.rows,) if test else None,
                validation_batch_size=test.block if test else None,
                validation_steps=validation_steps,
            )

    @contextlib.contextmanager
    def _functions(self, **functions):
        """Have Keras call other functions than those it makes."""
        before = {name: getattr(self, name) for name in functions}
        for name, function in functions.items():
            setattr(self, name, function)
        try:
            yield
        finally:
            for name, function in before.items():
                setattr(self, name, function)

    def step_program(self, kind, finish=None):
        """The program of many steps, compiled once a kind; `finish` as for `RowDataset`."""
        programs, xla = self._compiled.programs, self._compiled.given["jit_compile"] is not False
        if (kind, finish) not in programs:
            programs[kind, finish] = step_program(self, kind, xla, finish)
        return programs[kind, finish]

    def _prepare(self, x, y=None, sample_weight=None, check=True):
        """Have the optimizer, losses and metrics make their variables, from the first batch; returns `x`, still whole.

        Later, `check` arrays: do they go with those before?
        """
        self._check_compiled()
        check_has_rows(x)
        self.optimizer.build(self.trainable_variables)
        if all(s.stacks is not None for s in self.scores()) and not (check and are_arrays(x)):
            return x
        batch, x = first_batch(x, y, sample_weight)
        self._prepare_scores(tree.map_structure(two_rows, batch))
        return x

    def _prepare_scores(self, example):
        """Have losses and metrics make their variables, from two rows of zeros as `fit` takes them."""
        x, y, sample_weight = example
        specs = tree.map_structure(row_spec, x)
        y_pred = tree.map_structure(lambda s: ops.zeros(s.shape, s.dtype), self.compute_output_spec(specs))
        batch = self._batch(y, y_pred, sample_weight)
        for score in self.scores():
            score.prepare(batch)
            score.check(batch)
        self._compiled.example = example

    def prepare_like(self, whole, columns):
        """Prepare to train on what a model of more members is given; `columns(data)` takes the part of these members."""
        self._compiled.columns = columns
        self.optimizer.build(self.trainable_variables)
        example = self.own_columns(keras.utils.pack_x_y_sample_weight(*whole._compiled.example))
        self._prepare_scores(keras.utils.unpack_x_y_sample_weight(example))

    def _has_member_axis(self, y):
        """Whether targets, in an array, have a member axis."""
        said = self._compiled.given["member_targets"]
        return len(y.shape) == len(self.outputs[0].shape) if said is None else bool(said)

    def evaluate(
        self,
        x=None,
        y=None,
        batch_size=None,
        verbose="auto",
        sample_weight=None,
        steps=None,
        callbacks=None,
        return_dict=False,
        **kwargs,
    ):
        """As `keras.Model.evaluate`: means over the members. `member_metrics()` then has the numbers of each member."""
        options = {"verbose": verbose, "steps": steps, "callbacks": callbacks, "return_dict": True, **kwargs}
        if kwargs:  # within fit
            return super().evaluate(x, y, batch_size, sample_weight=sample_weight, **options)
        x, y, sample_weight = without_pandas((x, y, sample_weight))
        x = self._prepare(x, y, sample_weight)
        data, blocks = (x, y, sample_weight), self._steps(batch_size or 32, callbacks)
        if blocks > 1 and are_arrays(data) and not steps:
            feed = Feed(self, "test", data, batch_size or 32, blocks)
            with self._guarded(), self._functions(test_function=feed):
                return self._returned(super().evaluate(feed.rows, batch_size=feed.block, **options), return_dict)
        with self._guarded(), self._functions(test_function=self._compiled.stock.get("test")):
            logs = super().evaluate(x, y, batch_size, sample_weight=sample_weight, **options)
            self._compiled.stock["test"] = self.test_function
        return self._returned(logs, return_dict)

    def train_on_batch(self, x, y=None, sample_weight=None, class_weight=None, return_dict=False):
        """As `keras.Model.train_on_batch`: means over the members."""
        if class_weight is not None and sample_weight is None:
            sample_weight, class_weight = class_weights(y, class_weight, self._has_member_axis(y)), None
        self._prepare(x, y, sample_weight, check=False)
        with self._guarded():
            logs = super().train_on_batch(x, y, sample_weight, class_weight=class_weight, return_dict=True)
        return self._returned(logs, return_dict)

    def test_on_batch(self, x, y=None, sample_weight=None, return_dict=False):
        """As `keras.Model.test_on_batch`: means over the members."""
        self._prepare(x, y, sample_weight, check=False)
        with self._guarded():
            return self._returned(super().test_on_batch(x, y, sample_weight, return_dict=True), return_dict)
