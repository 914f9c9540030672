"""MixedMultiModel: members of several architectures in one model, a packed group for each architecture."""

import keras
from keras import ops, tree

from keras_multiweight.layers.plumbing import PACKAGE
from keras_multiweight.members import Hidden
from keras_multiweight.model import MultiModel
from keras_multiweight.plan import Plan


@keras.saving.register_keras_serializable(PACKAGE)
class MixedMultiModel(MultiModel):
    """N models of several architectures in one graph, their answers in one order. Made by `pack(models, group=True)`.

    It predicts, and gives its members, as a `MultiModel` of one architecture does. Its groups are such models: each is
    trained on its own, `multi.groups[0].fit(...)`, and `multi` predicts with what it learned.

    Attributes:
        group_members: For each group the numbers that its members have here.
    """

    def __init__(self, inputs, outputs, *, group_members, tuned=(), **kwargs):
        super(MultiModel, self).__init__(inputs=inputs, outputs=outputs, **kwargs)
        self._hidden = Hidden(None, {"tuned": list(tuned)})
        self.group_members = [list(numbers) for numbers in group_members]

    @property
    def groups(self):
        """List of `MultiModel`, one for each architecture. Their weights are this model's."""
        return [layer for layer in self.layers if isinstance(layer, MultiModel)]

    @property
    def num_members(self):
        return sum(map(len, self.group_members))

    @property
    def member_names(self):
        names = {number: name for group, own in self._groups() for number, name in zip(own, group.member_names)}
        return [names[number] for number in range(self.num_members)]

    @property
    def member_seeds(self):
        return None

    @property
    def member_inputs(self):
        return [False] * len(self.inputs)

    @property
    def member_settings(self):
        """None here: a setting has its place in an architecture. Each of `groups` has its own."""
        return {}

    def template(self):
        raise ValueError("Members of several architectures have several templates. Ask multi.groups[k].template().")

    def plan(self, rows=None):
        found = [
            {**row, "layer": f"{group.name}/{row['layer']}", "name": f"{group.name}/{row['name']}"}
            for group in self.groups
            for row in group.plan(rows)
        ]
        return Plan(found, self.num_members, sum(group.plan().saved_bytes for group in self.groups), self.tuned())

    def member(self, i):
        group, j = self._place(i)
        return group.member(j)

    def member_weights(self, i):
        group, j = self._place(i)
        return group.member_weights(j)

    def shared_layers(self):
        return [layer for group in self.groups for layer in group.shared_layers()]

    def weight_places(self):
        raise ValueError("Members of several architectures have no places in common. Ask multi.groups[k].weight_places().")

    def graph_of(self, num_members):
        raise ValueError("Members of several architectures have several graphs. Ask multi.groups[k].graph_of(...).")

    def compile(self, *args, **kwargs):
        raise ValueError(
            "A model of several architectures is trained group by group: multi.groups[k].compile(...), then fit(...). "
            "Received: a call of compile() for all groups."
        )

    def _check_savable(self):
        for group in self.groups:
            group._check_savable()

    def get_config(self):
        graph = keras.Model(self.input, self.output, name=self.name).get_config()
        own = {"group_members": self.group_members, **self._hidden.settings}
        return {"graph": {**graph, "trainable": self.trainable}, **own}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        graph = keras.Model.from_config(config.pop("graph"), custom_objects)
        return cls(graph.input, graph.output, name=graph.name, trainable=graph.trainable, **config)

    def _groups(self):
        return zip(self.groups, self.group_members)

    def _place(self, i):
        """The group of member `i`, and its number there."""
        number = self.number(i)
        return next((group, own.index(number)) for group, own in self._groups() if number in own)


@keras.saving.register_keras_serializable(PACKAGE)
class JoinMembers(keras.layers.Layer):
    """The answers of groups of members, `(B, N_g, ...)` each, as `(B, N, ...)`.

    Args:
        group_members: For each input the numbers that its members have in the output.
    """

    def __init__(self, group_members, **kwargs):
        super().__init__(**kwargs)
        self.group_members = group_members
        self.autocast = False

    def call(self, inputs):
        numbers = [number for own in self.group_members for number in own]
        joined = ops.concatenate(inputs, axis=1)
        order = sorted(range(len(numbers)), key=numbers.__getitem__)
        return joined if order == list(range(len(order))) else ops.take(joined, order, axis=1)

    def get_config(self):
        return {**super().get_config(), "group_members": self.group_members}


def join(groups, group_members, name=None):
    """One model of several: the same inputs for all, and the answers of all members in the order of their numbers.

    Args:
        groups: List of `MultiModel`, of different names.
        group_members: For each group the numbers of its members in the joined model.
        name: Name of the joined model.

    Raises:
        ValueError: The groups differ in the shapes or dtypes of their inputs or outputs.
    """
    _check_alike(groups, group_members)
    inputs = tree.map_structure(lambda x: _input_like(groups[0].get_layer(x.name)), groups[0].input)
    answers = [group(inputs) for group in groups]
    joined = [
        JoinMembers(group_members, name=output, dtype=parts[0].dtype)(list(parts))
        for output, *parts in zip(groups[0].output_names, *map(tree.flatten, answers), strict=True)
    ]
    outputs = tree.pack_sequence_as(answers[0], joined)
    return MixedMultiModel(inputs, outputs, group_members=group_members, name=name)


def _input_like(layer):
    return keras.layers.InputLayer.from_config(layer.get_config()).output


def _check_alike(groups, group_members):
    first = _border(groups[0])
    for group, numbers in zip(groups, group_members):
        for what, expected, received in zip(("inputs", "outputs"), first, _border(group)):
            if expected != received:
                raise ValueError(
                    "Models of different architectures are packed together if they take the same inputs and give outputs of "
                    f"the same shapes. Received: {what} {expected} in member {group_members[0][0]} and {received} in member "
                    f"{numbers[0]}."
                )


def _border(multi):
    """The inputs of a model and one member's outputs, as nested (shape, dtype)."""
    inputs = tree.map_structure(lambda x: (tuple(x.shape), x.dtype), multi.input)
    return inputs, tree.map_structure(lambda y: ((y.shape[0], *y.shape[2:]), y.dtype), multi.output)
