"""Update rules of the members, on the matrix of their weights. N members, P weights each.

Each rule is elementwise, `rule(step, gradient, first, second) -> (direction, first, second)`, all `(N, P)`; the weights move
by `-rate * direction`. One step takes every rule for all members, and then each member's own choice: the arithmetic of a
rule is nothing beside the gradient, and one program serves every mixture.
"""

from keras import ops

EPSILON = 1e-8


def adam(step, gradient, first, second):
    """Kingma and Ba 2015, with the moments 0.9 and 0.99: the programs are short."""
    first = 0.9 * first + 0.1 * gradient
    second = 0.99 * second + 0.01 * ops.square(gradient)
    mean, square = first / (1.0 - 0.9**step), second / (1.0 - 0.99**step)
    return mean / (ops.sqrt(square) + EPSILON), first, second


def rmsprop(step, gradient, first, second):
    """Tieleman and Hinton 2012, with the moment 0.9, unbiased."""
    second = 0.9 * second + 0.1 * ops.square(gradient)
    return gradient / (ops.sqrt(second / (1.0 - 0.9**step)) + EPSILON), first, second


def rprop(step, gradient, first, second):
    """iRprop- (Igel and Huesken 2000): steps that grow by 1.2 while the sign stays, and halve where it turns.

    `first` is the last gradient and `second` the step, in units of the member's rate, from 0.01 to 10.
    """
    turned, kept = first * gradient < 0, first * gradient > 0
    size = ops.where(second > 0, second, ops.ones_like(second))
    size = ops.clip(ops.where(kept, 1.2 * size, ops.where(turned, 0.5 * size, size)), 0.01, 10.0)
    gradient = ops.where(turned, ops.zeros_like(gradient), gradient)
    return ops.sign(gradient) * size, gradient, size


RULES = {"adam": adam, "rmsprop": rmsprop, "rprop": rprop}


def update(choice, step, gradient, first, second):
    """One step of every member by its own rule.

    Args:
        choice: One-hot `(N, len(RULES))`, in the order of `RULES`.
        step: Number of the step, from 1.
    """
    results = [rule(step, gradient, first, second) for rule in RULES.values()]
    return [sum(choice[:, i : i + 1] * part for i, part in enumerate(parts)) for parts in zip(*results)]
