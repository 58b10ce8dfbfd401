"""A compiled transformer with hidden zeros.

Tracr (Lindner et al. 2023, arXiv:2301.05062; `tracr-pypi`, with `dm-haiku`) compiles
RASP's program for the fraction of previous tokens that are x to two blocks of attention
and perceptron, in which only a quarter of the inner units have an effect. Three steps
hide which units these are:

- queries and keys are scaled to a largest weight of 4, so that attention is as sharp as
  the targets need but no longer all or nothing;
- the residual stream is rotated: the function stays the same, and every matrix that
  reads or writes the stream becomes dense. The truth is whether an inner unit (a column
  of a reading matrix or a row of a writing one) is used;
- every weight gets noise with a quarter of the standard deviation of its matrix's used
  weights (the median over the other matrices where it has none). The output is then off
  by 0.8 of its standard deviation, and the network has to learn again, with all units.
  A circuit that it finds in other units counts as false.
"""

import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import meanfield as mf

from .designs import Design

NOISE, LARGEST, SEQUENCE, TARGET_NOISE = 0.25, 4.0, 6, 0.05
READS = ("key", "query", "value", "linear_1")


def missing() -> str | None:
    """The reason why the design cannot run here, or None."""
    for module, package in (("haiku", "dm-haiku"), ("tracr", "tracr-pypi")):
        if importlib.util.find_spec(module) is None:
            return f"{package} is not installed"
    return None


def compiled() -> Any:
    """The compiled program."""
    from tracr.compiler import compiling, lib
    from tracr.rasp import rasp

    return compiling.compile_rasp_to_model(
        lib.make_frac_prevs(rasp.tokens == "x"),
        vocab={"x", "y", "z"},
        max_seq_len=SEQUENCE,
        compiler_bos="BOS",
    )


def layer_of(params: Any, name: str) -> dict[str, np.ndarray]:
    """The layer that holds a parameter."""
    return params[name.removesuffix("/w")]


def is_inner(name: str, array: Any) -> bool:
    """Whether a parameter is a matrix of a block."""
    return name.startswith("transformer/") and array.ndim == 2


def transformer(seed: int = 0) -> Design:
    """The design; the seed draws rotation and noise."""
    import haiku as hk

    program = compiled()
    model = program.get_compiled_model
    forward = hk.without_apply_rng(
        hk.transform(lambda x: model()(x, use_dropout=False).transformer_output.output)
    )
    rng = np.random.default_rng(seed)
    params = jax.tree.map(np.array, program.params)
    width = params["token_embed"]["embeddings"].shape[1]
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0]
    result = program.residual_labels.index("frac_prevs_1")
    tokens = [program.input_encoder.encoding_map[t] for t in ("BOS", "x", "y", "z")]
    truth = {}
    for path, layer in params.items():
        if "embed" in path:
            layer["embeddings"] = layer["embeddings"] @ rotation
            continue
        weight = layer["w"]
        axis = 0 if path.endswith(READS) else 1
        used = np.broadcast_to((weight != 0).any(axis, keepdims=True), weight.shape)
        truth[f"{path}/w"] = used.copy()
        if path.endswith(("key", "query")) and used.any():
            weight = weight * LARGEST / np.abs(weight).max()
        layer["w"] = rotation.T @ weight if axis == 0 else weight @ rotation
    spreads = {
        name: layer_of(params, name)["w"][used].std()
        for name, used in truth.items()
        if used.any()
    }
    usual = float(np.median(list(spreads.values())))
    for name in truth:
        layer = layer_of(params, name)
        noise = rng.normal(size=layer["w"].shape)
        layer["w"] = layer["w"] + NOISE * spreads.get(name, usual) * noise
    params = jax.tree.map(lambda part: jnp.asarray(part, jnp.float32), params)
    column = jnp.asarray(rotation[result], jnp.float32)

    def apply(params: Any, x: Any) -> Any:
        return (forward.apply(params, x) @ column)[:, 1:]

    def draw(rng, number):
        x = rng.choice(tokens[1:], (number, SEQUENCE - 1))
        y = (x == tokens[1]).cumsum(1) / np.arange(1, SEQUENCE)
        start = np.full((number, 1), tokens[0])
        noise = TARGET_NOISE * rng.normal(size=y.shape)
        return np.concatenate([start, x], 1).astype(np.int32), y + noise

    return Design(
        draw,
        lambda key: mf.Ensemble.from_model(
            (apply, params), initial="model", where=is_inner
        ),
        mf.Gaussian(TARGET_NOISE),
        truth=truth,
    )
