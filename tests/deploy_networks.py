"""Networks of every structure for the tests and experiments of shipped sub-networks."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from meanfield.deploy.graph.network import as_network


class Residual(eqx.Module):
    """A stream of units that a block reads and writes, joined with the input."""

    first: eqx.nn.Linear
    inner: eqx.nn.Linear
    back: eqx.nn.Linear
    joined: eqx.nn.Linear
    last: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 5)
        self.first = eqx.nn.Linear(6, 12, key=keys[0])
        self.inner = eqx.nn.Linear(12, 10, key=keys[1])
        self.back = eqx.nn.Linear(10, 12, key=keys[2])
        self.joined = eqx.nn.Linear(18, 8, key=keys[3])
        self.last = eqx.nn.Linear(8, 3, key=keys[4])

    def __call__(self, x):
        stream = jax.nn.relu(self.first(x))
        stream = stream + self.back(jnp.tanh(self.inner(stream)))
        return self.last(jax.nn.gelu(self.joined(jnp.concatenate([stream, x]))))


class Recurrent(eqx.Module):
    """A GRU or LSTM in time, read out at the end."""

    cell: eqx.Module
    readout: eqx.nn.Linear

    def __init__(self, kind, key, hidden=9):
        one, two = jax.random.split(key)
        self.cell = kind(5, hidden, key=one)
        self.readout = eqx.nn.Linear(hidden, 2, key=two)

    def __call__(self, x):
        zero = jnp.zeros(self.cell.hidden_size)
        if isinstance(self.cell, eqx.nn.LSTMCell):
            start, read = (zero, zero), lambda state: state[0]
        else:
            start, read = zero, lambda state: state
        state, _ = jax.lax.scan(lambda h, row: (self.cell(row, h), None), start, x)
        return self.readout(read(state))


class Attention(eqx.Module):
    """Embedding, attention with a residual sum, and layer normalisation."""

    embedding: eqx.nn.Embedding
    attention: eqx.nn.MultiheadAttention
    norm: eqx.nn.LayerNorm
    readout: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.embedding = eqx.nn.Embedding(7, 4, key=keys[0])
        self.attention = eqx.nn.MultiheadAttention(2, 4, key=keys[1])
        self.norm = eqx.nn.LayerNorm(4)
        self.readout = eqx.nn.Linear(4, 3, key=keys[2])

    def __call__(self, words):
        x = jax.vmap(self.embedding)(words)
        x = jax.vmap(self.norm)(x + self.attention(x, x, x))
        return self.readout(x.mean(0))


def dense(key):
    return eqx.nn.MLP(8, 3, 12, 3, key=key)


def convolutional(key):
    keys = jax.random.split(key, 4)
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(2, 6, 3, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.MaxPool2d(2, 2),
            eqx.nn.Conv2d(6, 5, 3, padding=1, key=keys[1]),
            eqx.nn.Lambda(jax.nn.silu),
            eqx.nn.AvgPool2d(2, 2),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(20, 7, key=keys[2]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Linear(7, 4, key=keys[3]),
        ]
    )


def depthwise(channels, outputs):
    """A depthwise convolution with some channels, and so many outputs in all."""

    def make(key):
        keys = jax.random.split(key, 3)
        return eqx.nn.Sequential(
            [
                eqx.nn.Conv1d(3, channels, 3, key=keys[0]),
                eqx.nn.Conv1d(channels, outputs, 3, groups=channels, key=keys[1]),
                eqx.nn.Lambda(jnp.tanh),
                eqx.nn.Conv1d(outputs, 2, 3, key=keys[2]),
                eqx.nn.Lambda(lambda x: x.mean(1)),
            ]
        )

    return make


def gru(key):
    return Recurrent(eqx.nn.GRUCell, key)


def lstm(key):
    return Recurrent(eqx.nn.LSTMCell, key)


# Name: how to make it, and the shape of one example.
STRUCTURES = {
    "dense": (dense, (8,)),
    "residual and concatenating": (Residual, (6,)),
    "convolutional": (convolutional, (2, 10, 10)),
    "depthwise convolutional": (depthwise(6, 6), (3, 9)),
    "depthwise, two outputs a channel": (depthwise(4, 8), (3, 9)),
    "GRU": (gru, (4, 5)),
    "LSTM": (lstm, (4, 5)),
}


def mask(model, density, seed):
    """The model with random weights set to exact zero; biases stay."""
    random = np.random.default_rng(seed)
    network = as_network(model)
    arrays = {
        name: array * (random.random(array.shape) < density)
        if array.ndim >= 2 and array.size > max(array.shape)
        else array
        for name, array in network.arrays.items()
    }
    return network.rebuild({k: jnp.asarray(v, v.dtype) for k, v in arrays.items()})


def batch(shape, size=7, seed=1):
    """Random inputs."""
    random = np.random.default_rng(seed)
    return random.normal(size=(size, *shape)).astype(np.float32)


def sizes(model):
    """Shapes of a model's arrays by path."""
    return {k: tuple(v.shape) for k, v in as_network(model).arrays.items()}
