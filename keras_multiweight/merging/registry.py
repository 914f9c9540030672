"""Layer class -> permutation rule: which axes of its weights, inputs and outputs permute together."""

from keras_multiweight.registry import Rules

PERMUTATIONS = Rules("permutation rule", "register_permutation_rule", "a function `rule(trace, layer, *args, **kwargs)`")


def register_permutation_rule(target, rule=None, *, replace=False):
    """Say which axes of a layer permute together.

    Args:
        target: A layer class. The lookup is by exact class, because a subclass may change `call`.
        rule: `rule(trace, layer, *args, **kwargs) -> outputs`. `args` and `kwargs` are what the layer is called with, its
            tensors as `Traced`; so are the outputs. `trace` is a `PermutationTrace`: the rule makes new groups with
            `trace.units(size)`, says what stands on the axes of each weight with `trace.weight(variable, axes)`, and ties
            axes to each other with `trace.unify(a, b, reason)`. Left out, a decorator is returned.
        replace: bool. Take the place of the rule that the class has.

    Returns:
        The rule, or a decorator that registers one.

    Raises:
        ValueError: The class has a rule already, or is no layer class, or the rule is no function.

    Example:

    ```python
    @merging.register_permutation_rule(Scale)  # y = x * self.factor, with one factor for each channel
    def scale(trace, layer, x):
        trace.weight(layer.factor, [x.axes[-1]])
        return x
    ```
    """
    return PERMUTATIONS.register(target, rule, replace)
