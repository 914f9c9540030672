"""The one place of the surrogate for code of a single backend: gradients, loops and compiled programs.

The programs themselves are written once, in `keras.ops`.
"""

import keras


def compiled(function):
    """A function of tensors, compiled where the backend compiles, whose constants are those of its first call."""
    return {"tensorflow": _tensorflow_compiled, "jax": _jax_compiled, "torch": _torch_compiled}[keras.backend.backend()](
        function
    )


def repeat(count, body, state):
    """`state = body(step, state)` for step 0 .. count - 1, on the device. The state is a tuple of tensors."""
    return {"tensorflow": _tensorflow_repeat, "jax": _jax_repeat, "torch": _torch_repeat}[keras.backend.backend()](
        count, body, state
    )


def gradient(function, x):
    """The gradient of a scalar function at `x`, of the shape of `x`."""
    return {"tensorflow": _tensorflow_gradient, "jax": _jax_gradient, "torch": _torch_gradient}[keras.backend.backend()](
        function, x
    )


def _tensorflow_compiled(function):
    import tensorflow as tf

    program = tf.function(function, jit_compile=True, autograph=False, reduce_retracing=False)
    return lambda *args: program(*(tf.constant(a) for a in args))


def _tensorflow_repeat(count, body, state):
    import tensorflow as tf

    def step(at, state):
        return at + 1, tuple(body(tf.cast(at, "float32"), state))

    return tf.while_loop(lambda at, state: at < count, step, (tf.constant(0), tuple(state)))[1]


def _tensorflow_gradient(function, x):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)


def _jax_compiled(function):
    import jax

    return jax.jit(function)


def _jax_repeat(count, body, state):
    import jax

    return jax.lax.fori_loop(0, count, lambda at, state: tuple(body(at.astype("float32"), state)), tuple(state))


def _jax_gradient(function, x):
    import jax

    return jax.grad(function)(x)


def _torch_compiled(function):
    return lambda *args: function(*map(keras.ops.convert_to_tensor, args))


def _torch_repeat(count, body, state):
    import torch

    with torch.no_grad():
        for at in range(int(count)):
            state = body(float(at), state)
        return state


def _torch_gradient(function, x):
    import torch

    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        return torch.autograd.grad(function(x), x)[0]
