"""Layer class -> permutation rule: which axes of its weights, inputs and outputs permute together."""

_RULES = {}
_OPERATIONS = {}


def register_permutation_rule(target, rule=None):
    """Say which axes of a layer permute together.

    Args:
        target: A layer class. The lookup is by exact class, because a subclass may change `call`.
        rule: `rule(trace, layer, *args, **kwargs) -> outputs`. `args` and `kwargs` are what the layer is called with, its
            tensors as `Traced`; so are the outputs. `trace` is a `PermutationTrace`: the rule makes new groups with
            `trace.units(size)`, says what stands on the axes of each weight with `trace.weight(variable, axes)`, and ties
            axes to each other with `trace.unify(a, b, reason)`. Left out, a decorator is returned.

    Returns:
        The rule, or a decorator that registers one.

    Raises:
        ValueError: The class has a rule already.

    Example:

    ```python
    @merging.register_permutation_rule(Scale)  # y = x * self.factor, with one factor for each channel
    def scale(trace, layer, x):
        trace.weight(layer.factor, [x.axes[-1]])
        return x
    ```
    """
    if rule is None:
        return lambda decorated: register_permutation_rule(target, decorated)
    if target in _RULES:
        raise ValueError(f"A layer class can have one permutation rule. Received: a second one for {target.__name__}.")
    _RULES[target] = rule
    return rule


def register_operation_permutation(name, rule):
    """As `register_permutation_rule`, for a raw `keras.ops` operation, by the name of its class (`"Add"`)."""
    _OPERATIONS[name] = rule


def find_permutation_rule(operation):
    """The rule of the exact class of a layer or raw operation, or None."""
    cls = type(operation)
    if cls.__module__.startswith("keras.src.ops."):
        return _OPERATIONS.get(cls.__name__)
    return _RULES.get(cls)
