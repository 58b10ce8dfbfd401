"""Renormalization in depth of trained networks: phases, symmetry, measured flows.

    python experiments/depth_flow.py --data-dir DIR --out OUT

1. A deep tanh network on scikit-learn digits, before and after training: its position
   in the phase diagram, translational symmetry, and measured decimation with its nulls.
2. The pretrained networks of DIR/pretrained_weights, from their weights.

The underlying theory is tested in `dynamic_neurons.py`. The measured decimation is this
project's own construction, in the spirit of arXiv:2410.00396.
"""

import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from shared import accuracy, epochs_of_batches, options, train
from sklearn.datasets import load_digits

import meanfield as mf
from meanfield.keys import numpy_generator
from meanfield.physics.renormalization.fitted_decimation import redrawn_network

TRAINED_WIDTH = 64
TRAINED_LAYERS = 9
EPOCHS = 60
BATCH = 64
LEARNING_RATE = 1e-3


def initial_network(weight_var: float, bias_var: float, key: jax.Array) -> list:
    """Dense tanh layers drawn at (σ_w², σ_b²), with a linear read-out."""
    sizes = (64, *(TRAINED_WIDTH,) * TRAINED_LAYERS, 10)
    layers = []
    for (inputs, outputs), k in zip(
        zip(sizes[:-1], sizes[1:], strict=True),
        jax.random.split(key, len(sizes) - 1),
        strict=True,
    ):
        w_key, b_key = jax.random.split(k)
        weight = jax.random.normal(w_key, (outputs, inputs))
        bias = jax.random.normal(b_key, (outputs,)) * math.sqrt(bias_var)
        layers.append((weight * math.sqrt(weight_var / inputs), bias))
    return layers


def forward(layers: list, x: jax.Array) -> jax.Array:
    """Logits of a tanh network."""
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight.T + bias)
    return x @ layers[-1][0].T + layers[-1][1]


def trained_networks(epochs: int) -> tuple[dict[str, list], np.ndarray]:
    """Critical and ordered networks, before and after training, on digits."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 8 - 1).astype(np.float32), y[order].astype(np.int32)
    batches = epochs_of_batches(1400, BATCH, epochs, key=jax.random.key(2))
    data = jnp.asarray(x), jnp.asarray(y)
    critical = mf.physics.critical_weight_var(0.05, "tanh")
    networks = {}
    for label, weight_var in (("critical", critical), ("ordered", 1.0)):
        start = initial_network(weight_var, 0.05, jax.random.key(1))
        end = train(forward, start, *data, batches, LEARNING_RATE)
        score = accuracy(forward(end, data[0][1400:]), y[1400:])
        print(f"digits, start {label}: test accuracy {score:.4f}")
        networks[f"{label} start"] = start
        networks[f"{label} start, trained"] = end
    return networks, x


def as_arrays(layers: list) -> list[tuple[np.ndarray, np.ndarray]]:
    """Hidden layers as float64 NumPy arrays."""
    return [(np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in layers]


def show_levels(label: str, levels: list[list[mf.physics.EffectiveLayer]]) -> None:
    """Median of every level of a measured flow."""
    for level in levels:

        def middle(name, level=level):
            return np.median([getattr(layer, name) for layer in level])

        good = sum(layer.verdict == "good" for layer in level)
        print(
            f"{label:36s} b = {level[0].block}  σ_w² {middle('weight_var'):7.3f}  σ_b² "
            f"{middle('bias_var'):6.3f}  τ {middle('noise_var'):6.3f}  χ₁ "
            f"{middle('gradient'):6.3f}  R² {middle('r_squared'):.3f}  good {good}/"
            f"{len(level)}"
        )


def measured_flows(networks: dict[str, list], x: np.ndarray) -> dict[str, list]:
    """Decimation of the hidden layers, with the nulls of a trained network."""
    key = jax.random.key(3)
    flows = {}
    print("\nmeasured decimation of the 8 hidden-to-hidden layers (medians)")
    for label, layers in networks.items():
        hidden = as_arrays(layers[1:-1])
        weight, bias = (np.asarray(a, np.float64) for a in layers[0])
        states = np.tanh(x @ weight.T + bias)
        flows[label] = mf.physics.decimate_network(hidden, states, "tanh", key=key)
        show_levels(label, flows[label])
        if "trained" in label:
            order = numpy_generator(key, spawn_key=(1,)).permutation(len(hidden))
            nulls = {
                "  its layers shuffled": [hidden[i] for i in order],
                "  redrawn, same variances": redrawn_network(hidden, key=key),
            }
            for name, null in nulls.items():
                flow = mf.physics.decimate_network(null, states, "tanh", key=key)
                flows[f"{label}: {name.strip()}"] = flow
                show_levels(name, flow)
    return flows


def places(networks: dict[str, list]) -> dict[str, mf.physics.Renormalization]:
    """Phase and translational symmetry of the hidden layers."""
    found = {}
    print("\nplace in the phase diagram, and translational symmetry")
    for label, layers in networks.items():
        hidden = {
            f"{i}": {"weight": w, "bias": b} for i, (w, b) in enumerate(layers[1:-1])
        }
        result = mf.physics.analyze_renormalization(
            hidden, key=jax.random.key(4), activation="tanh"
        )
        found[label] = result
        print(f"{label:28s} {result.verdict}: {result.reason}")
        print(f"{'':28s} {result.symmetry.verdict}: {result.symmetry.reason}")
    return found


def real_networks(folder: Path) -> None:
    """Layers of pretrained networks, read from their weights alone."""
    print("\nreal networks, from their weights")
    activations = {"charrnn": "tanh", "cifar10": "relu", "imagenet": "relu"}
    layouts = {"charrnn": "in_out", "cifar10": "out_in", "imagenet": "in_out"}
    for path in sorted(folder.glob("*.npz")):
        family = path.stem.split("_")[0]
        with np.load(path) as file:
            names = sorted(file, key=_natural) if family == "imagenet" else list(file)
            tensors = {name: file[name] for name in names}
        result = mf.physics.analyze_renormalization(
            tensors,
            key=jax.random.key(5),
            activation=activations.get(family, "relu"),
            layout=layouts.get(family, "auto"),
        )
        matrices = {n: tensors[n] for n in list(result.layers)[1:-1]}
        symmetry = mf.physics.translational_symmetry(
            matrices, key=jax.random.key(5), layout=layouts.get(family, "auto")
        )
        print(f"{path.stem}: {result.verdict}. {result.reason}")
        gains = [point.weight_var for point in result.layers.values()]
        print(f"  σ_w² between {min(gains):.3g} and {max(gains):.3g}")
        print(f"  inner layers {symmetry.verdict}: {symmetry.reason}")


def _natural(name: str) -> list:
    return [int(p) if p.isdigit() else p for p in name.replace(".", "_").split("_")]


def draw_figures(flows, found, out: Path) -> None:
    """Layers in the phase diagram, and the measured flows."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    axis = mf.plots.phase_diagram(found)
    mf.plots.save(axis, out / "depth_flow_phases.png")
    shown = {n: f for n, f in flows.items() if ":" not in n}
    figure, axes = plt.subplots(
        1, len(shown), figsize=(4 * len(shown), 4), layout="constrained", sharey=True
    )
    for axis, (label, levels) in zip(axes, shown.items(), strict=True):
        mf.plots.measured_flow(levels, axis)
        axis.set_title(label, fontsize="medium")
    axes[0].set_ylabel("χ₁ (filled: R² ≥ 0.9)")
    figure.savefig(out / "depth_flow_measured.png", dpi=130)
    print(f"\nfigures in {out}")


def main() -> None:
    """Train networks and measure phases and flows; then analyze pretrained networks."""
    parser = options(__doc__, out="runs/depth_flow")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    settings = parser.parse_args()
    start = time.perf_counter()
    networks, x = trained_networks(2 if settings.quick else settings.epochs)
    found = places(networks)
    flows = measured_flows(networks, x)
    folder = settings.data_dir and Path(settings.data_dir) / "pretrained_weights"
    if folder and folder.is_dir() and not settings.quick:
        real_networks(folder)
    draw_figures(flows, found, settings.out)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
