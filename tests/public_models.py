"""Public models and layers, small: the rows of the conversion matrix.

Where a package is missing, its rows raise an ImportError. The compositions of layers
are those of the zoo in `models`.
"""

import os
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import models
from conversions import EXAMPLES, Model
from flax import nnx
from models import ZOO, signal

MODELS: dict[str, Callable[[], Model]] = {}
KEY = jax.random.key(0)


def row(name: str) -> Callable[[Callable[[], Model]], Callable[[], Model]]:
    """Add a function that makes a model to the table."""

    def add(make: Callable[[], Model]) -> Callable[[], Model]:
        MODELS[name] = make
        return make

    return add


def each(model: Any, x: Any) -> Any:
    """An Equinox module on every example."""
    return jax.vmap(model)(x)


def whole(model: Any, x: Any) -> Any:
    """A module on the batch."""
    return model(x)


def pair(model: Any, x: Any) -> Any:
    """A pair (apply_fn, params) on the batch."""
    apply_fn, params = model
    return apply_fn(params, x)


def equinox(module: Any, x: Any, call: Any = None) -> Model:
    if call is None:
        return Model(module, x, each)
    return Model(module, x, lambda m, x: jax.vmap(lambda x: call(m, x))(x), call)


def of_zoo(name: str) -> Callable[[], Model]:
    """A model of the zoo on more examples."""

    def make() -> Model:
        case = ZOO[name]()
        x = jnp.tile(case.x, (EXAMPLES // 2, *[1] * (case.x.ndim - 1)))
        if jnp.issubdtype(x.dtype, jnp.floating):
            x = x + 0.3 * signal(*x.shape, seed=8)
        if isinstance(case.params, eqx.Module):
            return equinox(case.params, x)
        return Model((case.apply, case.params), x, pair)

    return make


FROM_ZOO = {
    "equinox.nn.MLP": "equinox_mlp",
    "equinox.nn.Conv1d, AvgPool1d": "equinox_conv1d_average_pool",
    "equinox.nn.Conv2d, GroupNorm, MaxPool2d": (
        "equinox_conv2d_max_pool_group_norm_residual"
    ),
    "equinox.nn.ConvTranspose2d": "equinox_transposed_conv",
    "equinox.nn.GRUCell, a scan": "equinox_gru_scan",
    "equinox.nn.LSTMCell, a scan": "equinox_lstm_scan",
    "equinox.nn.Embedding, LayerNorm, tied": (
        "equinox_embedding_layer_norm_weight_tying"
    ),
    "equinox.nn.MultiheadAttention, a block": "equinox_attention_residual_dropout",
    "equinox.nn.Linear, stacked for a scan": "equinox_stacked_layers_run_by_scan",
    "flax.linen.Dense, Dropout": "linen_mlp_dropout",
    "flax.linen.Conv, GroupNorm": "linen_conv2d_max_pool_group_norm_residual",
    "flax.linen.RNN, OptimizedLSTMCell": "linen_lstm_scan",
    "flax.linen.MultiHeadDotProductAttention": "linen_attention_residual_dropout",
}
MODELS |= {name: of_zoo(zoo) for name, zoo in FROM_ZOO.items()}


@row("equinox.nn.GRUCell, input and state")
def gru_cell() -> Model:
    cell = eqx.nn.GRUCell(3, 4, key=KEY)
    x = signal(EXAMPLES, 3), signal(EXAMPLES, 4, seed=8)
    return equinox(cell, x, lambda cell, x: cell(*x))


@row("equinox.nn.MultiheadAttention, query and memory")
def cross_attention() -> Model:
    layer = eqx.nn.MultiheadAttention(2, 4, key=KEY)
    x = {"query": signal(EXAMPLES, 2, 4), "memory": signal(EXAMPLES, 3, 4, seed=8)}
    return equinox(layer, x, lambda m, x: m(x["query"], x["memory"], x["memory"]))


def nnx_model(module: nnx.Module, x: Any) -> Model:
    return Model(module, x, whole)


@row("flax.nnx.Linear, Dropout")
def nnx_mlp() -> Model:
    return nnx_model(models.NNXMLP(nnx.Rngs(0)), signal(EXAMPLES, 3))


@row("flax.nnx.Conv, GroupNorm")
def nnx_images() -> Model:
    return nnx_model(models.NNXImages(nnx.Rngs(0)), signal(EXAMPLES, 4, 4, 1))


@row("flax.nnx.MultiHeadAttention")
def nnx_attention() -> Model:
    return nnx_model(models.NNXTransformer(nnx.Rngs(0)), signal(EXAMPLES, 3, 4))


@row("flax.nnx.LoRALinear")
def nnx_lora() -> Model:
    layer = nnx.LoRALinear(4, 3, lora_rank=2, rngs=nnx.Rngs(0))
    layer.lora.lora_b[...] = signal(2, 3)  # zeros at first
    return nnx_model(layer, signal(EXAMPLES, 4))


def keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    keras.utils.set_random_seed(0)
    return keras


@row("keras.Sequential, Dense, BatchNormalization")
def keras_dense() -> Model:
    k = keras()
    layers = [
        k.Input((4,)),
        k.layers.Dense(6, activation="relu"),
        k.layers.BatchNormalization(),
        k.layers.Dense(2),
    ]
    return Model(k.Sequential(layers), signal(EXAMPLES, 4), whole)


@row("keras.Sequential, Conv2D, MaxPooling2D")
def keras_conv() -> Model:
    k = keras()
    layers = [
        k.Input((6, 6, 1)),
        k.layers.Conv2D(3, 3, activation="relu"),
        k.layers.MaxPooling2D(2),
        k.layers.Flatten(),
        k.layers.Dense(2),
    ]
    return Model(k.Sequential(layers), signal(EXAMPLES, 6, 6, 1), whole)


@row("keras.Model, two named inputs")
def keras_inputs() -> Model:
    k = keras()
    a, b = k.Input((4,), name="a"), k.Input((3,), name="b")
    hidden = k.layers.Dense(5, activation="tanh")(k.layers.Concatenate()([a, b]))
    model = k.Model({"a": a, "b": b}, k.layers.Dense(2)(hidden))
    return Model(model, {"a": signal(EXAMPLES, 4), "b": signal(EXAMPLES, 3)}, whole)


def haiku(function: Callable[[Any], Any], x: Any) -> Model:
    import haiku as hk

    network = hk.without_apply_rng(hk.transform(function))
    return Model((network.apply, network.init(KEY, x)), x, pair)


@row("haiku.nets.MLP")
def haiku_mlp() -> Model:
    import haiku as hk

    return haiku(lambda x: hk.nets.MLP([5, 2])(x), signal(EXAMPLES, 3))


@row("haiku.LSTM, dynamic_unroll")
def haiku_lstm() -> Model:
    import haiku as hk

    def run(x: Any) -> Any:
        core = hk.LSTM(4)
        start = core.initial_state(x.shape[0])
        outputs, _ = hk.dynamic_unroll(core, x, start, time_major=False)
        return hk.Linear(2)(outputs[:, -1])

    return haiku(run, signal(EXAMPLES, 3, 3))


@row("attention as its user wrote it, jax.numpy")
def own_attention() -> Model:
    keys = jax.random.split(KEY, 5)
    shapes = {"q": (4, 4), "k": (4, 4), "v": (4, 4), "out": (4, 4), "read": (12, 2)}
    params = {
        name: jax.random.normal(key, shape) / shape[0] ** 0.5
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }

    def apply_fn(params: Any, x: Any) -> Any:
        split = lambda a: a.reshape(-1, 3, 2, 2).swapaxes(1, 2)
        q, k, v = (split(x @ params[name]) for name in "qkv")
        scores = jnp.einsum("bhid,bhjd->bhij", q, k) / 2**0.5
        scores = scores - jnp.max(scores, -1, keepdims=True)
        share = jnp.exp(scores) / jnp.exp(scores).sum(-1, keepdims=True)
        mixed = jnp.einsum("bhij,bhjd->bihd", share, v).reshape(-1, 3, 4)
        return (x + mixed @ params["out"]).reshape(-1, 12) @ params["read"]

    return Model((apply_fn, params), signal(EXAMPLES, 3, 4), pair)


@row("flowjax coupling_flow, log density")
def coupling_flow() -> Model:
    from flowjax.distributions import Normal
    from flowjax.flows import coupling_flow

    flow = coupling_flow(KEY, base_dist=Normal(jnp.zeros(3)), flow_layers=2, nn_width=4)
    return equinox(flow, signal(EXAMPLES, 3), lambda flow, x: flow.log_prob(x)[None])


@row("flowjax masked_autoregressive_flow, log density")
def autoregressive_flow() -> Model:
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow

    flow = masked_autoregressive_flow(
        KEY, base_dist=Normal(jnp.zeros(2)), flow_layers=1, nn_width=4
    )
    return equinox(flow, signal(EXAMPLES, 2), lambda flow, x: flow.log_prob(x)[None])


@row("equimo VisionTransformer")
def vision_transformer() -> Model:
    from equimo.models.vit import VisionTransformer

    model = VisionTransformer(
        img_size=8,
        in_channels=1,
        dim=8,
        patch_size=4,
        num_heads=[2],
        depths=[1],
        num_classes=3,
        key=KEY,
    )
    model = eqx.nn.inference_mode(model)
    call = lambda m, x: m(x, key=jax.random.key(0), inference=True)
    return equinox(model, signal(EXAMPLES, 1, 8, 8), call)


@row("equimo ConvNeXt")
def convnext() -> Model:
    from equimo.models.convnext import ConvNeXt

    model = ConvNeXt(1, depths=[1, 1], dims=[4, 4], num_classes=3, key=KEY)
    call = lambda m, x: m(x, key=jax.random.key(0), inference=True)
    return equinox(model, signal(EXAMPLES, 1, 8, 8), call)


@row("equimo Mamba2Mixer")
def mamba() -> Model:
    from equimo.layers.mamba import Mamba2Mixer

    model = Mamba2Mixer(4, head_dim=4, d_state=3, d_conv=3, key=KEY)
    call = lambda m, x: m(x, key=jax.random.key(0), inference=True)
    return equinox(model, signal(EXAMPLES, 5, 4), call)


@row("equimo WeightNormLinear")
def weight_norm() -> Model:
    from equimo.layers.ffn import WeightNormLinear

    return equinox(WeightNormLinear(4, 3, key=KEY), signal(EXAMPLES, 4))


@row("diffrax neural ODE of an equinox.nn.MLP")
def neural_ode() -> Model:
    import diffrax

    def call(field: Any, x: Any) -> Any:
        return diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: field(y)),
            diffrax.Heun(),
            t0=0.0,
            t1=1.0,
            dt0=0.25,
            y0=x,
            stepsize_controller=diffrax.ConstantStepSize(),
            adjoint=diffrax.DirectAdjoint(),
        ).ys[-1]

    field = eqx.nn.MLP(2, 2, 4, 1, activation=jnp.tanh, key=KEY)
    return equinox(field, signal(EXAMPLES, 2), call)


@row("jraph GraphConvolution")
def graph_convolution() -> Model:
    import jraph

    layer = eqx.nn.Linear(3, 2, key=KEY)
    senders, receivers = jnp.array([0, 1, 2, 3, 1]), jnp.array([1, 2, 3, 0, 0])

    def call(layer: Any, x: Any) -> Any:
        graph = jraph.GraphsTuple(
            nodes=x["nodes"],
            edges=None,
            senders=x["senders"],
            receivers=x["receivers"],
            globals=None,
            n_node=jnp.array([4]),
            n_edge=jnp.array([5]),
        )
        return jraph.GraphConvolution(jax.vmap(layer))(graph).nodes

    x = {
        "nodes": signal(EXAMPLES, 4, 3),
        "senders": jnp.tile(senders, (EXAMPLES, 1)),
        "receivers": jnp.tile(receivers, (EXAMPLES, 1)),
    }
    return equinox(layer, x, call)


@row("jaxkan KAN")
def kan() -> Model:
    from jaxkan.models.KAN import KAN

    module = KAN([2, 3, 1], "base", {"k": 3, "G": 3}, seed=0)
    return nnx_model(module, jnp.tanh(signal(EXAMPLES, 2)))


@row("e3nn_jax.haiku.Linear")
def equivariant() -> Model:
    import e3nn_jax as e3nn

    def run(x: Any) -> Any:
        features = e3nn.IrrepsArray("2x0e + 1x1o", x)
        return e3nn.haiku.Linear("3x0e + 2x1o")(features).array

    return haiku(run, signal(EXAMPLES, 5))


@row("expaloma EspalomaModel, pretrained, one molecule")
def espaloma() -> Model:
    from expaloma.nn.model import load_eqx
    from expaloma.paths import bundled_eqx_path

    model = load_eqx(bundled_eqx_path())
    senders, receivers = jnp.array([0, 1, 1, 2]), jnp.array([1, 0, 2, 1])
    molecule, formal = jnp.zeros(3, jnp.int32), jnp.zeros((3, 1))

    def call(model: Any, x: Any) -> Any:
        charges = model(x, senders, receivers, molecule, 1, 0.0, q_ref=formal)
        return charges.reshape(-1)

    return equinox(model, jax.nn.relu(signal(EXAMPLES, 3, 116)), call)
