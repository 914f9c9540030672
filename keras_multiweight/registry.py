"""Layer class -> rule: how the N members of a layer become one layer of a packed graph, and any other such table."""

import keras


class Rules:
    """A table of layer classes, and of raw `keras.ops` operations, each with its rule.

    The lookup is by exact class, because a subclass may change `call`.

    Args:
        kind: What one rule is called in messages.
        register: The public function that fills the table, for messages.
        example: What is a rule, for messages.
    """

    def __init__(self, kind, register, example):
        self.kind = kind
        self.name = register
        self.example = example
        self._layers = {}
        self._operations = {}

    def register(self, target, rule=None, replace=False):
        """Register the rule of a layer class, and return it. Without a rule: a decorator."""
        if rule is None:
            return lambda decorated: self.register(target, decorated, replace)
        if not (isinstance(target, type) and issubclass(target, keras.layers.Layer) and callable(rule)):
            raise ValueError(f"{self.name} takes a layer class and {self.example}. Received: {target!r} and {rule!r}.")
        if target in self._layers and not replace:
            raise ValueError(
                f"A layer class can have one {self.kind}. Received: a second {self.kind} {_name(rule)} for "
                f"{target.__name__}, which has {_name(self._layers[target])}. Pass replace=True to change it."
            )
        self._layers[target] = rule
        return rule

    def register_operation(self, name, rule):
        """Register the rule of a raw `keras.ops` operation, by the name of its class (`"Add"`)."""
        self._operations[name] = rule

    def find(self, operation):
        """The rule of the exact class of a layer or raw operation, or None."""
        cls = type(operation)
        if cls in self._layers:
            return self._layers[cls]
        return self._operations.get(cls.__name__) if cls.__module__.startswith("keras.src.ops.") else None


def _name(rule):
    return getattr(rule, "__name__", repr(rule))


PACKING = Rules("rule", "register_rule", "a function, such as those of keras_multiweight.packing.kinds")


def register_rule(target, rule=None, *, replace=False):
    """Say how layers of one class are packed.

    Args:
        target: A layer class. The lookup is by exact class, because a subclass may change `call`.
        rule: `rule(trace, members, *args, **kwargs) -> outputs`. `members` are the N layers at one place of the graph
            (`packing.weights.Members`), `args` and `kwargs` what the layer was called with, its tensors already packed.
            Left out, a decorator is returned.
        replace: bool. Take the place of the rule that the class has.

    Returns:
        The rule, or a decorator that registers one.

    Raises:
        ValueError: The class has a rule already, or is no layer class, or the rule is no function.

    Example:

    ```python
    from keras_multiweight.packing import kinds

    kmw.register_rule(MyScaleByConstant, kinds.elementwise)
    ```
    """
    return PACKING.register(target, rule, replace)
