"""Networks with batch norm and dropout in three frameworks, and their users' loops."""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from flax import linen, nnx

KEY = jax.random.key(0)
X = 3 + 2 * jax.random.normal(KEY, (24, 4))
Y = jnp.arange(24) % 3
BATCHES = [(X[:16], Y[:16]), (X[8:], Y[8:])]
KINDS = ("equinox", "nnx", "linen")
MOMENTUM, RATE = 0.9, 0.5


class EquinoxNet(eqx.Module):
    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    last: eqx.nn.Linear

    def __init__(self, rate):
        one, two = jax.random.split(KEY)
        self.first = eqx.nn.Linear(4, 6, key=one)
        self.norm = eqx.nn.BatchNorm(6, "rows", momentum=MOMENTUM, mode="batch")
        self.drop = eqx.nn.Dropout(rate)
        self.last = eqx.nn.Linear(6, 3, key=two)

    def __call__(self, x, state, *, key=None):
        x, state = self.norm(self.first(x), state)
        return self.last(self.drop(jax.nn.relu(x), key=key)), state


class NNXNet(nnx.Module):
    def __init__(self, rate):
        rngs = nnx.Rngs(0)
        self.first = nnx.Linear(4, 6, rngs=rngs)
        self.norm = nnx.BatchNorm(6, momentum=MOMENTUM, rngs=rngs)
        self.drop = nnx.Dropout(rate, rngs=rngs)
        self.last = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.relu(self.norm(self.first(x)))))


class LinenNet(linen.Module):
    rate: float

    @linen.compact
    def __call__(self, x, train: bool):
        norm = linen.BatchNorm(use_running_average=not train, momentum=MOMENTUM)
        x = linen.relu(norm(linen.Dense(6)(x)))
        x = linen.Dropout(self.rate, deterministic=not train)(x)
        return linen.Dense(3)(x)


def model(kind, rate=0.0):
    """A network in training mode: dense, batch norm, dropout, dense."""
    if kind == "equinox":
        return eqx.nn.make_with_state(EquinoxNet)(rate)
    if kind == "nnx":
        return NNXNet(rate)
    net = LinenNet(rate)
    return net, net.init(KEY, X, train=False)


def call(kind, model, x):
    """What its user computes with a model in inference mode."""
    if kind == "equinox":
        net, state = model
        return jax.vmap(lambda x: net(x, state)[0], axis_name="rows")(x)
    if kind == "nnx":
        return model(x)
    return model[0].apply(model[1], x, train=False)


def nll(logits, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()


def nnx_loss(net, x, y):
    return nll(net(x), y)


def equinox_loss(net, state, x, y):
    run = jax.vmap(net, axis_name="rows", in_axes=(0, None), out_axes=(0, None))
    logits, state = run(x, state)
    return nll(logits, y), state


def linen_loss(params, state, net, x, y):
    variables = {"params": params, **state}
    logits, state = net.apply(variables, x, True, mutable=["batch_stats"])
    return nll(logits, y), state


nnx_slope = nnx.jit(nnx.grad(nnx_loss))
equinox_slope = eqx.filter_jit(eqx.filter_grad(equinox_loss, has_aux=True))
linen_slope = jax.jit(jax.grad(linen_loss, has_aux=True), static_argnums=2)


def trained_by_hand(kind, model, batches, rate=RATE):
    """The user's own training loop, by plain gradient descent."""
    move = lambda weights, slope: jax.tree.map(
        lambda w, g: w - rate * g, weights, slope
    )
    for x, y in batches:
        if kind == "equinox":
            net, state = model
            slope, state = equinox_slope(net, state, x, y)
            weights, rest = eqx.partition(net, eqx.is_inexact_array)
            model = eqx.combine(move(weights, slope), rest), state
        elif kind == "nnx":
            slope = nnx_slope(model, x, y)
            nnx.update(model, move(nnx.state(model, nnx.Param), slope))
        else:
            net, variables = model
            state = {"batch_stats": variables["batch_stats"]}
            slope, state = linen_slope(variables["params"], state, net, x, y)
            model = net, {"params": move(variables["params"], slope), **state}
    return model


def numbers(kind, model):
    """All floating-point arrays of a model."""
    leaves = jax.tree.leaves(nnx.state(model) if kind == "nnx" else model)
    return [leaf for leaf in leaves if eqx.is_inexact_array(leaf)]
