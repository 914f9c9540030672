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
    """

    def __init__(self, model):
        self.num_members = model.num_members
        trained = {id(v) for v in model.trainable_variables}
        shared = {layer.name for layer in model.shared_layers()}
        self.templates, self.stacked = [], []
        for template, (name, index) in zip(model.template().weights, model.weight_places()):
            if name in shared:  # and frozen
                continue
            variable = model.get_layer(name).stacked_weights[index]
            if id(variable) in trained:
                trained.discard(id(variable))
                self.templates.append(template)
                self.stacked.append(variable)
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


def choose(keep, new, old):
    """For each member `new` where `keep`, (N,), else `old`; both (N, ...)."""
    return ops.where(ops.reshape(keep, (-1, *(1,) * (len(new.shape) - 1))), new, old)
