"""Layer class -> rule: how the N members of a layer become one layer of a packed graph."""

import keras

_RULES = {}
_OPERATION_RULES = {}


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
    if rule is None:
        return lambda decorated: register_rule(target, decorated, replace=replace)
    if not (isinstance(target, type) and issubclass(target, keras.layers.Layer) and callable(rule)):
        raise ValueError(
            "register_rule takes a layer class and a function, such as those of keras_multiweight.packing.kinds. "
            f"Received: {target!r} and {rule!r}."
        )
    if target in _RULES and not replace:
        raise ValueError(
            f"A layer class can have one rule. Received: a second rule {_name(rule)} for {target.__name__}, "
            f"which has {_name(_RULES[target])}. Pass replace=True to change it."
        )
    _RULES[target] = rule
    return rule


def register_operation_rule(name, rule):
    """Say how a raw `keras.ops` operation is packed, by the name of its operation class (`"Add"`)."""
    _OPERATION_RULES[name] = rule


def find_rule(operation):
    """The rule registered for the exact class of a layer or raw operation, or None."""
    cls = type(operation)
    if cls in _RULES:
        return _RULES[cls]
    if cls.__module__.startswith("keras.src.ops."):
        return _OPERATION_RULES.get(cls.__name__)
    return None


def _name(rule):
    return getattr(rule, "__name__", repr(rule))
