"""Are these models the same computation? Two configs say it, never a guess."""

import dataclasses

from keras_multiweight.configs import comparable, differences, live_config
from keras_multiweight.settings import without_settings

SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Difference:
    """One place where a member is not what the first member is.

    Attributes:
        member: The index of the member.
        member_name: Its name: a file's path, or the model's name and index.
        layer: The name of the layer in the first member, or None for the model as a whole.
        key: What differs: a config key (`"units"`), or `"weights"`.
        expected: The value in the first member.
        received: The value in this member.
    """

    member: int
    member_name: str
    layer: str | None
    key: str
    expected: object
    received: object

    def __str__(self):
        where = f" (layer '{self.layer}')" if self.layer else ""
        expected, received = _short(self.expected), _short(self.received)
        return (
            f"{self.key}={expected} in member 0 and {self.key}={received} in member {self.member}, {self.member_name}{where}"
        )


def _short(value):
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(text)} characters)"


class IncompatibleModelsError(ValueError):
    """The models are not the same computation with other weights.

    Attributes:
        differences: List of `Difference`: member, layer, key, expected, received. All differences of all members.
        groups: The numbers of the members by architecture, as `pack(models, group=True)` takes them: `[[0, 2], [1]]`.
            Empty where the models differ in more than their configs.
    """

    def __init__(self, found, groups=(), hint=None):
        self.differences = list(found)
        self.groups = list(groups) if len(groups) > 1 else []
        lines = [f"  {difference}" for difference in self.differences[:SHOWN]]
        if len(self.differences) > SHOWN:
            lines.append(f"  and {len(self.differences) - SHOWN} more in .differences")
        super().__init__(
            "The members must have equal configs and weight shapes; only the values of their weights may differ, and rates "
            "of dropout and noise. Received:\n" + "\n".join([*lines, hint or self._hint()])
        )

    def _hint(self):
        if not self.groups:
            return "Pack models of different architectures with group=True."
        shown = "; ".join(", ".join(map(str, members[:SHOWN])) + ", ..." * (len(members) > SHOWN) for members in self.groups)
        return (
            f"There are {len(self.groups)} architectures, of the members {shown}. pack(models, group=True) packs each of "
            "them, and joins their answers in one model."
        )


def model_config(model):
    """The whole config of a live model, as plain JSON values; of a class that has none, those of its layers."""
    try:
        return live_config(model)
    except NotImplementedError:
        return {
            "class_name": type(model).__name__,
            "config": {"name": model.name, "layers": list(map(live_config, model.layers))},
        }


def architecture(config):
    """What all members must have in common of a serialised model: its comparable config, without the settings of each."""
    return comparable(without_settings(config))


def config_differences(expected, received, member, member_name):
    """The differences between two serialised models, as `Difference`s."""
    first, other = architecture(expected), architecture(received)
    found = []
    for path, want, got in differences(first, other):
        layer, key = _place(expected, path)
        found.append(Difference(member, member_name, layer, key, want, got))
    return found


def weight_differences(template, model, member, member_name):
    """Weights of other shapes or dtypes. Configs that are equal can still have been built for different inputs."""
    expected, received = [[(tuple(w.shape), w.dtype) for w in m.weights] for m in (template, model)]
    if len(expected) != len(received):
        return [Difference(member, member_name, None, "number of weights", len(expected), len(received))]
    return [
        Difference(member, member_name, weight.path.split("/")[-2] if "/" in weight.path else None, weight.name, a, b)
        for weight, a, b in zip(template.weights, expected, received)
        if a != b
    ]


def _place(config, path):
    """The name of the innermost layer on a path such as `config.layers[2].config.units`, and what remains of it."""
    layer, rest, node, walked = None, path, config, ""
    for step in path.replace("[", ".[").split("."):
        walked += step if step.startswith("[") else f".{step}"
        try:
            node = node[int(step[1:-1])] if step.startswith("[") else node[step]
        except (KeyError, IndexError, TypeError):
            break
        if _is_layer(node):
            layer, rest = node["config"]["name"], path[len(walked) - 1 :].lstrip(".")
    return layer, rest.removeprefix("config.") or path


def _is_layer(node):
    """Whether a part of a config is a named object other than a dtype policy."""
    has_name = isinstance(node, dict) and isinstance(node.get("config"), dict) and "name" in node["config"]
    return has_name and "Policy" not in node.get("class_name", "")
