"""Training by hand, as a careful user would write it: `torch.func` on torch, else `jax.vmap` and `lax.scan`. N members."""

import time

import keras
import numpy as np


def by_hand(starts, x, y, batch_size, rate):
    """A function that trains for an epoch, and gives its seconds.

    Args:
        starts: List of `(N, ...)` arrays: kernel, bias, kernel, ... of the members.
        x, y: Arrays; the last partial batch is left out.
    """
    make = _torch_epoch if keras.backend.backend() == "torch" else _jax_epoch
    epoch = make(starts, x, y, batch_size, rate)

    def timed():
        start = time.perf_counter()
        epoch()
        return time.perf_counter() - start

    return timed


def _jax_epoch(starts, x, y, batch_size, rate):
    import jax
    import jax.numpy as jnp

    def loss(weights, x, y):
        for kernel, bias in zip(weights[:-2:2], weights[1:-2:2]):
            x = jnp.tanh(x @ kernel + bias)
        p = jnp.clip(jax.nn.sigmoid(x @ weights[-2] + weights[-1]), 1e-7, 1 - 1e-7)
        return -jnp.mean(y * jnp.log(p) + (1 - y) * jnp.log(1 - p))

    def step(state, batch):
        weights, m, v, t = state
        gradients = jax.vmap(jax.grad(loss), (0, None, None))(weights, *batch)
        m = [0.9 * a + 0.1 * g for a, g in zip(m, gradients)]
        v = [0.999 * a + 0.001 * g * g for a, g in zip(v, gradients)]
        alpha = rate * jnp.sqrt(1 - 0.999 ** (t + 1)) / (1 - 0.9 ** (t + 1))
        weights = [w - alpha * a / (jnp.sqrt(b) + 1e-7) for w, a, b in zip(weights, m, v)]
        return (weights, m, v, t + 1), None

    weights = [jnp.array(w) for w in starts]
    zeros = [jnp.zeros_like(w) for w in weights]
    state = (weights, zeros, zeros, jnp.zeros(()))
    count = len(x) // batch_size
    batches = [jnp.array(a[: count * batch_size]).reshape(count, batch_size, -1) for a in (x, y)]
    scan = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches)[0])

    def epoch():
        nonlocal state
        state = jax.block_until_ready(scan(state, tuple(batches)))

    return epoch


def _torch_epoch(starts, x, y, batch_size, rate):
    import torch
    from torch.func import grad, vmap

    def loss(weights, x, y):
        for kernel, bias in zip(weights[:-2:2], weights[1:-2:2]):
            x = torch.tanh(x @ kernel + bias)
        p = torch.sigmoid(x @ weights[-2] + weights[-1])
        return torch.nn.functional.binary_cross_entropy(p, y)

    gradients = vmap(grad(loss), (0, None, None))
    weights = [torch.tensor(w) for w in starts]
    optimizer = torch.optim.Adam(weights, rate)
    x, y = torch.tensor(np.asarray(x)), torch.tensor(np.asarray(y))

    def epoch():
        for at in range(0, len(x) - batch_size + 1, batch_size):
            found = gradients(weights, x[at : at + batch_size], y[at : at + batch_size])
            for weight, gradient in zip(weights, found):
                weight.grad = gradient
            optimizer.step()

    return epoch
