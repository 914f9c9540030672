"""The trained weights of a packed model beside those of one member. N members."""

from keras import ops


class StackedWeights:
    """Which stacked variable holds which weight of a member, for the trainable weights, in the order of one member.

    Args:
        model: A `MultiModel`.

    Attributes:
        num_members: N.
        templates: The Keras variables of one member: names, shapes, constraints. Their values mean nothing.
        stacked: The variables of the packed model, `(N, *shape)` or `(N * rows, ...)`.
        statistics: Its variables that no optimizer trains, of the same shapes: what batch normalisations have seen.
    """

    def __init__(self, model):
        self.num_members = model.num_members
        trained = {id(v) for v in model.trainable_variables}
        shared = {layer.name for layer in model.shared_layers()}
        self.templates, self.stacked, self.statistics = [], [], []
        for template, (name, index) in zip(model.template().weights, model.weight_places()):
            if name in shared:  # and frozen
                continue
            variable = model.get_layer(name).stacked_weights[index]
            if id(variable) in trained:
                trained.discard(id(variable))
                self.templates.append(template)
                self.stacked.append(variable)
            elif not variable.trainable:
                self.statistics.append(variable)
        if trained:
            raise ValueError(
                "Every trainable variable must hold one weight of each member. Received others: "
                f"{[v.path for v in model.trainable_variables if id(v) in trained]}."
            )

    def index(self, variable):
        """The number of a stacked variable."""
        return self._numbers[id(variable)]

    @property
    def _numbers(self):
        return {id(v): i for i, v in enumerate(self.stacked)}

    def values(self, index):
        """The members' values of weight number `index`, (N, ...)."""
        return ops.reshape(ops.convert_to_tensor(self.stacked[index]), (self.num_members, *self.templates[index].shape))

    def assign(self, index, values):
        """Give the members new values of weight number `index`, (N, ...)."""
        self.stacked[index].assign(ops.reshape(values, self.stacked[index].shape))


def choose_rows(keep, new, old):
    """`choose` for values `(N * rows, ...)`. Reshaped to `(N, rows, ...)`, compiled loops would copy them at every step."""
    rows = new.shape[0] // keep.shape[0]
    return choose(ops.repeat(keep, rows) if rows > 1 else keep, new, old)


def choose(keep, new, old):
    """For each member `new` where `keep`, (N,), else `old`; both (N, ...)."""
    return ops.where(ops.reshape(keep, (-1, *(1,) * (len(new.shape) - 1))), new, old)
