"""The zoo: ordinary models of three frameworks, written without a thought of ours.

A `Case` is a model, a small batch, and the same program cut off after its first
contraction (or look-up), whose outcome has known moments under random weights.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn, nnx
from jax import lax

import meanfield as mf
from meanfield.spikeslab import is_spike_slab

IDS = np.array([[0, 3, 1, 4], [2, 2, 4, 0]])


class Case(NamedTuple):
    apply: Callable[[Any, Any], Any]
    first: Callable[[Any, Any], Any]
    params: Any
    x: Any


ZOO: dict[str, Callable[[], Case]] = {}
# LLVM may fuse a multiplication with an addition, and may sum in another order, as the
# program around them changes. Without its optimiser the arithmetic is what was written.
PLAIN = {"xla_backend_optimization_level": 0}


def case(function: Callable[[], Case]) -> Callable[[], Case]:
    ZOO[function.__name__] = functools.cache(function)
    return function


def compiled(function: Callable[..., Any], static: Any, **options: Any) -> Any:
    """`jax.jit` of a function of trees, whatever else than arrays `static` holds."""
    _, static = eqx.partition(static, eqx.is_array)
    inner = jax.jit(
        lambda arrays, *args: function(eqx.combine(arrays, static), *args),
        compiler_options=options or None,
    )
    return lambda tree, *args: inner(eqx.filter(tree, eqx.is_array), *args)


def filled(abstract: Any, seed: int = 2) -> Any:
    """Numbers for a model that was only sketched: made by NumPy, biases included."""
    rng = np.random.default_rng(seed)

    def fill(leaf: Any) -> Any:
        if not isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.key(seed)
        values = 0.5 * rng.standard_normal(leaf.shape) + (leaf.ndim < 2) * 0.7
        return jnp.asarray(values, leaf.dtype)

    return jax.tree.map(fill, abstract)


def signal(*shape: int, seed: int = 7) -> jax.Array:
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.standard_normal(shape) + 0.3, jnp.float32)


def keys(number: int, seed: int = 3) -> Any:
    return jax.random.split(jax.random.key(seed), number)


def channels_read_by_a_layer(key: Any) -> eqx.Module:
    """A convolution of 4 channels on 1 × 4 × 4 inputs, flattened, and a dense layer."""
    keys = jax.random.split(key, 2)
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(1, 4, 3, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(16, 3, key=keys[1]),
        ]
    )


def is_weight(leaf: Any) -> bool:
    return eqx.is_inexact_array(leaf) and leaf.ndim >= 2


def make_random(params: Any, seed: int = 11) -> Any:
    """Every weight a spike and slab with its own π, m and Ξ."""
    rng = np.random.default_rng(seed)

    def convert(leaf: Any) -> Any:
        if not is_weight(leaf):
            return leaf
        parts = (
            rng.uniform(0.1, 0.6, leaf.shape),
            np.asarray(leaf) + 0.3 * rng.standard_normal(leaf.shape),
            rng.uniform(0.05, 0.5, leaf.shape),
        )
        return mf.SpikeSlab(*(jnp.asarray(part, leaf.dtype) for part in parts))

    return jax.tree.map(convert, params)


def make_certain(params: Any, spike_prob: float = 0.0, slab_var: float = 0.0) -> Any:
    """Every weight a spike and slab with the same π and Ξ, and m as it was."""
    return jax.tree.map(
        lambda leaf: (
            mf.SpikeSlab(
                jnp.full_like(leaf, spike_prob), leaf, jnp.full_like(leaf, slab_var)
            )
            if is_weight(leaf)
            else leaf
        ),
        params,
    )


def draws_of_weights(params: Any, number: int, seed: int = 5) -> list[Any]:
    """For every random weight many coins (present or absent) and Gaussian numbers."""
    rng = np.random.default_rng(seed)
    return [
        (
            jnp.asarray(rng.random((number, *slab.shape)) >= slab.spike_prob),
            jnp.asarray(rng.standard_normal((number, *slab.shape)), slab.dtype),
        )
        for slab in jax.tree.leaves(params, is_leaf=is_spike_slab)
        if is_spike_slab(slab)
    ]


def place_weights(params: Any, draws: list[Any]) -> Any:
    """Explicit sampling: in place of every random weight the array of one draw."""
    remaining = iter(draws)

    def place(leaf: Any) -> Any:
        if not is_spike_slab(leaf):
            return leaf
        present, noise = next(remaining)
        return jnp.where(present, leaf.slab_mean + jnp.sqrt(leaf.slab_var) * noise, 0)

    return jax.tree.map(place, params, is_leaf=is_spike_slab)


# Equinox: a module acts on one example.


def _eqx_case(make: Callable[[], Any], first: Callable, x: Any) -> Case:
    return Case(
        lambda model, x: jax.vmap(model)(x),
        lambda model, x: jax.vmap(lambda row: first(model, row))(x),
        filled(eqx.filter_eval_shape(make)),
        x,
    )


@case
def equinox_mlp() -> Case:
    def make():
        return eqx.nn.MLP(3, 2, 5, 2, key=jax.random.key(0))

    return _eqx_case(make, lambda m, x: m.layers[0](x), signal(2, 3))


@case
def equinox_conv1d_average_pool() -> Case:
    def make():
        k = keys(2)
        layers = [
            eqx.nn.Conv1d(2, 3, 3, key=k[0]),
            eqx.nn.Lambda(jax.nn.gelu),
            eqx.nn.AvgPool1d(2, 2),
            eqx.nn.Lambda(jnp.ravel),
            eqx.nn.Linear(6, 2, key=k[1]),
        ]
        return eqx.nn.Sequential(layers)

    return _eqx_case(make, lambda m, x: m.layers[0](x), signal(2, 2, 6))


class EqxImages(eqx.Module):
    stem: eqx.nn.Conv2d
    norm: eqx.nn.GroupNorm
    block: eqx.nn.Conv2d
    pool: eqx.nn.MaxPool2d
    head: eqx.nn.Linear

    def __init__(self):
        k = keys(3)
        self.stem = eqx.nn.Conv2d(1, 4, 3, stride=2, key=k[0])
        self.norm = eqx.nn.GroupNorm(2, 4)
        self.block = eqx.nn.Conv2d(4, 4, 3, padding=1, groups=2, key=k[1])
        self.pool = eqx.nn.MaxPool2d(2, 2)
        self.head = eqx.nn.Linear(4, 3, key=k[2])

    def __call__(self, x):
        x = jax.nn.relu(self.norm(self.stem(x)))
        return self.head(self.pool(x + self.block(x)).ravel())


@case
def equinox_conv2d_max_pool_group_norm_residual() -> Case:
    return _eqx_case(EqxImages, lambda m, x: m.stem(x), signal(2, 1, 6, 6))


@case
def equinox_transposed_conv() -> Case:
    def make():
        k = keys(2)
        layers = [
            eqx.nn.ConvTranspose2d(2, 3, 3, stride=2, key=k[0]),
            eqx.nn.Lambda(jnp.tanh),
            eqx.nn.ConvTranspose2d(3, 1, 2, key=k[1]),
        ]
        return eqx.nn.Sequential(layers)

    return _eqx_case(make, lambda m, x: m.layers[0](x), signal(2, 2, 2, 2))


class EqxRecurrent(eqx.Module):
    cell: Any
    head: eqx.nn.Linear

    def __init__(self, kind: Any):
        k = keys(2)
        self.cell = kind(3, 4, key=k[0])
        self.head = eqx.nn.Linear(4, 2, key=k[1])

    def __call__(self, xs):
        zero = jnp.zeros(4)
        pair = isinstance(self.cell, eqx.nn.LSTMCell)
        start = (zero, zero) if pair else zero
        last, _ = lax.scan(lambda h, x: (self.cell(x, h), None), start, xs)
        return self.head(last[0] if pair else last)

    def inputs(self, xs):
        return lax.scan(lambda _, x: (None, self.cell.weight_ih @ x), None, xs)[1]


@case
def equinox_gru_scan() -> Case:
    make = functools.partial(EqxRecurrent, eqx.nn.GRUCell)
    return _eqx_case(make, EqxRecurrent.inputs, signal(2, 3, 3))


@case
def equinox_lstm_scan() -> Case:
    make = functools.partial(EqxRecurrent, eqx.nn.LSTMCell)
    return _eqx_case(make, EqxRecurrent.inputs, signal(2, 3, 3))


class EqxTied(eqx.Module):
    embedding: eqx.nn.Embedding
    norm: eqx.nn.LayerNorm

    def __init__(self):
        self.embedding = eqx.nn.Embedding(5, 4, key=jax.random.key(0))
        self.norm = eqx.nn.LayerNorm(4)

    def __call__(self, ids):
        rows = jax.vmap(self.norm)(self.look_up(ids))
        return rows @ self.embedding.weight.T

    def look_up(self, ids):
        return jax.vmap(self.embedding)(ids)


@case
def equinox_embedding_layer_norm_weight_tying() -> Case:
    return _eqx_case(EqxTied, EqxTied.look_up, jnp.asarray(IDS))


class EqxTransformer(eqx.Module):
    attention: eqx.nn.MultiheadAttention
    norms: list
    wide: eqx.nn.Linear
    narrow: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __init__(self):
        k = keys(3)
        self.attention = eqx.nn.MultiheadAttention(
            2, 4, dropout_p=0.2, inference=True, key=k[0]
        )
        self.norms = [eqx.nn.LayerNorm(4), eqx.nn.LayerNorm(4)]
        self.wide = eqx.nn.Linear(4, 6, key=k[1])
        self.narrow = eqx.nn.Linear(6, 4, key=k[2])
        self.dropout = eqx.nn.Dropout(0.5, inference=True)

    def __call__(self, xs):
        rows = jax.vmap(self.norms[0])(xs)
        xs = xs + self.attention(rows, rows, rows)
        rows = jax.vmap(self.norms[1])(xs)
        rows = jax.nn.gelu(jax.vmap(self.wide)(rows))
        return xs + self.dropout(jax.vmap(self.narrow)(rows))

    def queries(self, xs):
        rows = jax.vmap(self.norms[0])(xs)
        return jax.vmap(self.attention.query_proj)(rows)


@case
def equinox_attention_residual_dropout() -> Case:
    return _eqx_case(EqxTransformer, EqxTransformer.queries, signal(2, 3, 4))


class EqxCheckpointed(eqx.Module):
    layers: list

    def __init__(self):
        self.layers = [eqx.nn.Linear(3, 3, key=k) for k in keys(2)]

    def __call__(self, x):
        for layer in self.layers:
            block = jax.checkpoint(lambda layer, x: jnp.tanh(layer(x)))
            x = x + block(layer, x)
        return x

    def first(self, x):
        return jax.checkpoint(lambda layer, x: layer(x))(self.layers[0], x)


@case
def equinox_checkpoint_blocks() -> Case:
    return _eqx_case(EqxCheckpointed, EqxCheckpointed.first, signal(2, 3))


class EqxStacked(eqx.Module):
    layers: eqx.nn.Linear

    def __init__(self):
        self.layers = eqx.filter_vmap(lambda k: eqx.nn.Linear(3, 3, key=k))(keys(4))

    def __call__(self, x):
        arrays, static = eqx.partition(self.layers, eqx.is_array)

        def step(x, layer):
            return jnp.tanh(eqx.combine(layer, static)(x)), None

        return lax.scan(step, x, arrays)[0]

    def first(self, x):
        arrays, static = eqx.partition(self.layers, eqx.is_array)
        return lax.scan(lambda x, layer: (x, eqx.combine(layer, static)(x)), x, arrays)[
            1
        ]


@case
def equinox_stacked_layers_run_by_scan() -> Case:
    return _eqx_case(EqxStacked, EqxStacked.first, signal(2, 3))


# Flax Linen: a module takes the batch.


def _linen_case(module: nn.Module, x: Any, method: Any = "first") -> Case:
    variables = filled(jax.eval_shape(module.init, jax.random.key(0), x))
    cut = method if callable(method) else getattr(type(module), method)
    return Case(
        module.apply,
        lambda variables, x: module.apply(variables, x, method=cut),
        variables,
        x,
    )


class LinenMLP(nn.Module):
    def setup(self):
        self.dense = nn.Dense(4)
        self.dropout = nn.Dropout(0.5, deterministic=True)
        self.head = nn.Dense(2)

    def __call__(self, x):
        return self.head(self.dropout(nn.relu(self.first(x))))

    def first(self, x):
        return self.dense(x)


@case
def linen_mlp_dropout() -> Case:
    return _linen_case(LinenMLP(), signal(2, 3))


class LinenSeries(nn.Module):
    def setup(self):
        self.conv = nn.Conv(3, (3,))
        self.head = nn.Dense(2)

    def __call__(self, x):
        x = nn.avg_pool(nn.gelu(self.first(x)), (2,), (2,))
        return self.head(x.reshape(x.shape[0], -1))

    def first(self, x):
        return self.conv(x)


@case
def linen_conv1d_average_pool() -> Case:
    return _linen_case(LinenSeries(), signal(2, 4, 2))


class LinenImages(nn.Module):
    def setup(self):
        self.stem = nn.Conv(4, (3, 3), strides=2)
        self.norm = nn.GroupNorm(2)
        self.block = nn.Conv(4, (3, 3), feature_group_count=2)
        self.head = nn.Dense(3)

    def __call__(self, x):
        x = nn.relu(self.norm(self.first(x)))
        x = nn.max_pool(x + self.block(x), (2, 2))
        return self.head(x.reshape(x.shape[0], -1))

    def first(self, x):
        return self.stem(x)


@case
def linen_conv2d_max_pool_group_norm_residual() -> Case:
    return _linen_case(LinenImages(), signal(2, 4, 4, 1))


class LinenUpwards(nn.Module):
    def setup(self):
        self.up = nn.ConvTranspose(3, (3, 3), strides=(2, 2))
        self.out = nn.ConvTranspose(1, (2, 2))

    def __call__(self, x):
        return self.out(jnp.tanh(self.first(x)))

    def first(self, x):
        return self.up(x)


@case
def linen_transposed_conv() -> Case:
    return _linen_case(LinenUpwards(), signal(2, 2, 2, 2))


class LinenRecurrent(nn.Module):
    kind: Any
    gate: str

    def setup(self):
        self.rnn = nn.RNN(self.kind(4))
        self.head = nn.Dense(2)

    def __call__(self, xs):
        return self.head(self.rnn(xs)[:, -1])

    def first(self, xs):
        kernel = self.variables["params"]["rnn"]["cell"][self.gate]["kernel"]
        steps = jnp.swapaxes(xs, 0, 1)
        return lax.scan(lambda _, x: (None, x @ kernel), None, steps)[1].swapaxes(0, 1)


@case
def linen_gru_scan() -> Case:
    return _linen_case(LinenRecurrent(nn.GRUCell, "ir"), signal(2, 3, 3))


@case
def linen_lstm_scan() -> Case:
    return _linen_case(LinenRecurrent(nn.LSTMCell, "if"), signal(2, 3, 3))


class LinenTied(nn.Module):
    def setup(self):
        self.embed = nn.Embed(5, 4)
        self.norm = nn.LayerNorm()

    def __call__(self, ids):
        return self.embed.attend(self.norm(self.first(ids)))

    def first(self, ids):
        return self.embed(ids)


@case
def linen_embedding_layer_norm_weight_tying() -> Case:
    return _linen_case(LinenTied(), jnp.asarray(IDS))


class LinenTransformer(nn.Module):
    def setup(self):
        self.norm = nn.LayerNorm()
        self.attention = nn.MultiHeadDotProductAttention(
            2, dropout_rate=0.2, deterministic=True
        )

    def __call__(self, xs):
        return xs + self.attention(self.norm(xs))

    def first(self, xs):
        query = self.variables["params"]["attention"]["query"]
        return jnp.einsum("bti,ihd->bthd", self.norm(xs), query["kernel"])


@case
def linen_attention_residual_dropout() -> Case:
    return _linen_case(LinenTransformer(), signal(2, 3, 4))


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x):
        return x + jnp.tanh(nn.Dense(3)(x))


class LinenCheckpointed(nn.Module):
    def setup(self):
        self.blocks = [nn.remat(LinenBlock)() for _ in range(2)]

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x

    def first(self, x):
        dense = self.variables["params"]["blocks_0"]["Dense_0"]
        return jax.checkpoint(lambda w, x: x @ w)(dense["kernel"], x)


@case
def linen_checkpoint_blocks() -> Case:
    return _linen_case(LinenCheckpointed(), signal(2, 3))


class LinenLayer(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + jnp.tanh(nn.Dense(3)(x)), None


class LinenStacked(nn.Module):
    def setup(self):
        stack = nn.scan(
            LinenLayer, variable_axes={"params": 0}, split_rngs={"params": True}
        )
        self.layers = stack()

    def __call__(self, x):
        return self.layers(x, jnp.zeros(3))[0]

    def first(self, x):
        kernels = self.variables["params"]["layers"]["Dense_0"]["kernel"]
        return lax.scan(lambda x, w: (x, x @ w), x, kernels)[1].swapaxes(0, 1)


@case
def linen_stacked_layers_run_by_scan() -> Case:
    return _linen_case(LinenStacked(), signal(2, 3))


# Flax NNX: a module takes the batch and owns its arrays.


def _nnx_case(make: Callable[[nnx.Rngs], nnx.Module], x: Any) -> Case:
    graph, state = nnx.split(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    return Case(
        lambda state, x: nnx.merge(graph, state)(x),
        lambda state, x: nnx.merge(graph, state).first(x),
        filled(state),
        x,
    )


class NNXMLP(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, deterministic=True)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.first(x))))

    def first(self, x):
        return self.dense(x)


@case
def nnx_mlp_dropout() -> Case:
    return _nnx_case(NNXMLP, signal(2, 3))


class NNXSeries(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (3,), rngs=rngs)
        self.head = nnx.Linear(6, 2, rngs=rngs)

    def __call__(self, x):
        x = nnx.avg_pool(nnx.gelu(self.first(x)), (2,), (2,))
        return self.head(x.reshape(x.shape[0], -1))

    def first(self, x):
        return self.conv(x)


@case
def nnx_conv1d_average_pool() -> Case:
    return _nnx_case(NNXSeries, signal(2, 4, 2))


class NNXImages(nnx.Module):
    def __init__(self, rngs):
        self.stem = nnx.Conv(1, 4, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.GroupNorm(4, 2, rngs=rngs)
        self.block = nnx.Conv(4, 4, (3, 3), feature_group_count=2, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        x = nnx.max_pool(x + self.block(x), (2, 2))
        return self.head(x.reshape(x.shape[0], -1))

    def first(self, x):
        return self.stem(x)


@case
def nnx_conv2d_max_pool_group_norm_residual() -> Case:
    return _nnx_case(NNXImages, signal(2, 4, 4, 1))


class NNXUpwards(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.ConvTranspose(2, 3, (3, 3), strides=(2, 2), rngs=rngs)
        self.out = nnx.ConvTranspose(3, 1, (2, 2), rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.first(x)))

    def first(self, x):
        return self.up(x)


@case
def nnx_transposed_conv() -> Case:
    return _nnx_case(NNXUpwards, signal(2, 2, 2, 2))


class NNXRecurrent(nnx.Module):
    def __init__(self, cell, rngs):
        self.rnn = nnx.RNN(cell(3, 4, rngs=rngs))
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, xs):
        return self.head(self.rnn(xs)[:, -1])

    def first(self, xs):
        cell = self.rnn.cell
        inputs = cell.ii if hasattr(cell, "ii") else cell.dense_i
        steps = jnp.swapaxes(xs, 0, 1)
        return lax.scan(lambda _, x: (None, inputs(x)), None, steps)[1].swapaxes(0, 1)


@case
def nnx_gru_scan() -> Case:
    make = functools.partial(NNXRecurrent, nnx.GRUCell)
    return _nnx_case(make, signal(2, 3, 3))


@case
def nnx_lstm_scan() -> Case:
    make = functools.partial(NNXRecurrent, nnx.LSTMCell)
    return _nnx_case(make, signal(2, 3, 3))


class NNXTied(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(5, 4, rngs=rngs)
        self.norm = nnx.LayerNorm(4, rngs=rngs)

    def __call__(self, ids):
        return self.embed.attend(self.norm(self.first(ids)))

    def first(self, ids):
        return self.embed(ids)


@case
def nnx_embedding_layer_norm_weight_tying() -> Case:
    return _nnx_case(NNXTied, jnp.asarray(IDS))


class NNXTransformer(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(4, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(
            2, 4, dropout_rate=0.2, deterministic=True, decode=False, rngs=rngs
        )

    def __call__(self, xs):
        return xs + self.attention(self.norm(xs))

    def first(self, xs):
        return self.attention.query(self.norm(xs))


@case
def nnx_attention_residual_dropout() -> Case:
    return _nnx_case(NNXTransformer, signal(2, 3, 4))


class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(3, 3, rngs=rngs)

    def __call__(self, x):
        return x + jnp.tanh(self.dense(x))


class NNXCheckpointed(nnx.Module):
    def __init__(self, rngs):
        self.block, self.other = NNXBlock(rngs), NNXBlock(rngs)

    def __call__(self, x):
        for block in (self.block, self.other):
            x = nnx.remat(lambda block, x: block(x))(block, x)
        return x

    def first(self, x):
        return nnx.remat(lambda dense, x: dense(x))(self.block.dense, x)


@case
def nnx_checkpoint_blocks() -> Case:
    return _nnx_case(NNXCheckpointed, signal(2, 3))


class NNXStacked(nnx.Module):
    def __init__(self, rngs):
        @nnx.split_rngs(splits=3)
        @nnx.vmap(in_axes=0, out_axes=0)
        def make(rngs):
            return NNXBlock(rngs)

        self.blocks = make(rngs)

    def __call__(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def run(x, block):
            return block(x)

        # Twice: the second pass reads the arrays that the first one gave back.
        return run(run(x, self.blocks), self.blocks)

    def first(self, x):
        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
        def run(x, block):
            return x, block.dense(x)

        return run(x, self.blocks)[1].swapaxes(0, 1)


@case
def nnx_stacked_layers_run_by_scan() -> Case:
    return _nnx_case(NNXStacked, signal(2, 3))
