"""ResNet-20 in plain JAX, with its images and its scores.

    3×3 convolution, 3 stages of 3 blocks (width, 2 width, 4 width), mean, dense layer
    block: relu(norm(conv(relu(norm(conv(x))))) + x), x subsampled and padded by zeros
    where width and resolution change (option A)

The parameters are {"weights": ..., "norms": ..., "state": running statistics}.

Sources: He et al. 2016, arXiv:1512.03385; the trained tensors are those of
akamaster/pytorch_resnet_cifar10.
"""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import meanfield as mf
from meanfield.data import load
from meanfield.prediction import metrics, ood
from meanfield.prediction.uncertainty import decompose_classes

STAGES, CLASSES = 3, 10
MOMENTUM, EPSILON = 0.9, 1e-5
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def names(width: int, blocks: int = 3) -> dict[str, tuple[int, int, int]]:
    """Every convolution: channels in, channels out, stride."""
    found, inputs = {"conv1": (3, width, 1)}, width
    for stage in range(STAGES):
        for block in range(blocks):
            outputs = width * 2**stage
            stride = 2 if stage > 0 and block == 0 else 1
            name = f"layer{stage + 1}.{block}"
            found[f"{name}.conv1"] = (inputs, outputs, stride)
            found[f"{name}.conv2"] = (outputs, outputs, 1)
            inputs = outputs
    return found


def initial(width: int, key: Any, blocks: int = 3) -> dict[str, Any]:
    """Random weights, initial norms and statistics; 3 blocks give ResNet-20."""
    convs = names(width, blocks)
    every = jax.random.split(key, len(convs) + 1)
    keys = dict(zip([*convs, "linear"], every, strict=True))
    normal = lambda name, shape, fan: (
        jax.random.normal(keys[name], shape) * (2 / fan) ** 0.5
    )
    weights, norms, state = {}, {}, {}
    for name, (inputs, outputs, _) in convs.items():
        weights[name] = normal(name, (3, 3, inputs, outputs), 9 * inputs)
        norms[name] = {"scale": jnp.ones(outputs), "shift": jnp.zeros(outputs)}
        state[name] = {"mean": jnp.zeros(outputs), "var": jnp.ones(outputs)}
    weights["linear"] = normal("linear", (4 * width, CLASSES), 8 * width)
    norms["linear"] = {"shift": jnp.zeros(CLASSES)}
    return {"weights": weights, "norms": norms, "state": state}


def pretrained(folder: Path) -> dict[str, Any]:
    """The trained network in the data folder."""
    with np.load(folder / "pretrained_weights" / "cifar10_resnet20.npz") as file:
        given = {name: jnp.asarray(file[name]) for name in file.files}
    weights, norms, state = {}, {}, {}
    for name in names(16):
        norm = name.replace("conv", "bn")
        weights[name] = given[f"{name}.weight"].transpose(2, 3, 1, 0)
        norms[name] = {"scale": given[f"{norm}.weight"], "shift": given[f"{norm}.bias"]}
        state[name] = {
            "mean": given[f"{norm}.running_mean"],
            "var": given[f"{norm}.running_var"],
        }
    weights["linear"] = given["linear.weight"].T
    norms["linear"] = {"shift": given["linear.bias"]}
    return {"weights": weights, "norms": norms, "state": state}


def strided(x, first, last, step: int):
    """Every `step`-th row and column, without a gather, which cannot be exported."""
    for axis in (1, 2):
        x = jax.lax.slice_in_dim(x, first[axis - 1], last[axis - 1], step, axis)
    return x


def forward(params, x, *, training=False, key=None, rate=0.0):
    """Logits of images (batch, height, width, 3) in [0, 1], and the new state."""
    weights, norms, state = params["weights"], params["norms"], {}
    width = norms["conv1"]["scale"].shape[0]
    blocks = (len(weights) - 2) // (2 * STAGES)
    strides = {name: stride for name, (_, _, stride) in names(width, blocks).items()}

    def conv(name, x):
        # A matrix product of patches is fast on CPUs, forward and backward.
        stride, (height, breadth) = strides[name], x.shape[1:3]
        x = jnp.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
        patches = [
            strided(x, (row, column), (row + height, column + breadth), stride)
            for row in range(3)
            for column in range(3)
        ]
        kernel = weights[name]
        x = jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1])
        old, norm = params["state"][name], norms[name]
        mean, var = old["mean"], old["var"]
        if training:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
            pairs = (("mean", mean), ("var", var))
            moved = {n: MOMENTUM * old[n] + (1 - MOMENTUM) * v for n, v in pairs}
            state[name] = moved
        scale = norm["scale"] * jax.lax.rsqrt(var + EPSILON)
        return x * scale + (norm["shift"] - mean * scale)

    def dropped(x, number):
        if rate == 0.0:
            return x
        keep = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - rate, x.shape)
        return jnp.where(keep, x / (1 - rate), 0)

    x = (x - jnp.array(MEAN)[None, None, None]) / jnp.array(DEVIATION)[None, None, None]
    x = jax.nn.relu(conv("conv1", x))
    number = 0
    for stage in range(STAGES):
        for block in range(blocks):
            name, number = f"layer{stage + 1}.{block}", number + 1
            inner = dropped(jax.nn.relu(conv(f"{name}.conv1", x)), number)
            inner = conv(f"{name}.conv2", inner)
            if inner.shape != x.shape:
                pad = (inner.shape[-1] - x.shape[-1]) // 2
                x = strided(x, (0, 0), x.shape[1:3], 2)
                x = jnp.pad(x, [(0, 0)] * 3 + [(pad, pad)])
            x = jax.nn.relu(inner + x)
    x = dropped(x.mean((1, 2)), 0)
    return x @ weights["linear"] + norms["linear"]["shift"], {"state": state}


def infer(params, x):
    """Logits in inference mode."""
    return forward(params, x)[0]


@functools.cache
def modes(rate: float = 0.0) -> mf.ensemble.Modes:
    """Training and inference modes of the network, with dropout in training."""
    train = lambda params, x, key: forward(params, x, training=True, key=key, rate=rate)
    return mf.ensemble.Modes(infer, train, state=("state",))


def flip(x, *, key):
    """Flip half of the images left to right."""
    return jnp.where(
        jax.random.bernoulli(key, 0.5, (len(x), 1, 1, 1)), x[:, :, ::-1], x
    )


def images(folder: Path, side: int, count: int, scored: int):
    """CIFAR-10 in three parts, and images of Fashion-MNIST.

    Args:
        folder: the data folder.
        side: pixels per side.
        count: number of training images.
        scored: number of images for choices, for scores, and from Fashion-MNIST.
    """
    with np.load(folder / "cifar10" / "cifar10_10k_2k.npz") as file:
        x, y, x_test, y_test = (
            file[n] for n in ("x_train", "y_train", "x_test", "y_test")
        )
    foreign = load("fashion_mnist", data_dir=folder).x_test.reshape(-1, 28, 28)
    foreign = np.pad(foreign[:scored], [(0, 0), (2, 2), (2, 2)])

    def small(x):
        step = 32 // side
        x = x.reshape(len(x), side, step, side, step, 3).mean((2, 4))
        return jnp.asarray(x, jnp.float32)

    order = np.random.default_rng(0).permutation(len(x))[:count]
    rows = np.random.default_rng(1).permutation(len(x_test))
    held, test = rows[:1000][:scored], rows[1000:][:scored]
    pair = lambda x, y, rows: (small(x[rows] / 255), jnp.asarray(y[rows], jnp.int32))
    wide = np.repeat(foreign[..., None], 3, -1)
    held, test = (pair(x_test, y_test, rows) for rows in (held, test))
    return pair(x, y, order), held, test, small(wide)


@functools.partial(jax.jit, static_argnames="rate")
def probabilities(params, x, key, rate):
    """Class probabilities in inference mode, except for dropout."""
    return jax.nn.softmax(forward(params, x, key=key, rate=rate)[0])


def scores(draws, inside, outside, rate=0.0):
    """Scores of the average over drawn parameters."""
    keys = jax.random.split(jax.random.key(7), len(draws))
    said = [
        decompose_classes(
            np.concatenate(
                [
                    probabilities(params, x[i : i + 100], key, rate)
                    for i in range(0, len(x), 100)
                ]
            )
            for params, key in zip(draws, keys, strict=True)
        )
        for x in (inside[0], outside)
    ]
    y = np.asarray(inside[1])
    return {
        "accuracy": metrics.accuracy(said[0].mean, y),
        "nll": metrics.nll(said[0].mean, y),
        "ece": metrics.ece(said[0].mean, y),
        "auroc": ood.ood_scores(said[0].total, said[1].total).auroc,
    }
