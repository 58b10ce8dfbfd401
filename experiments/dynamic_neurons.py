"""Depth as a renormalization direction: critical points, flows, a trained network.

    python experiments/dynamic_neurons.py --data-dir DIR --out OUT

1. Critical points and exponents of wide layers, against finite drawn networks.
2. The spike-and-slab ensemble's own maps and critical lines, against simulation.
3. A deep tanh network on scikit-learn digits, before and after training: place in the
   phase diagram, translational symmetry, and measured decimation with its nulls.
4. The real networks of DIR/pretrained_weights, read from their weights.

The decimations are this project's own construction, in the spirit of
arXiv:2410.00396; the theory of wide layers is arXiv:1606.05340 and arXiv:1611.01232.
"""

import argparse
import math
import os
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from sklearn.datasets import load_digits

import meanfield as mf
from meanfield.keys import numpy_generator
from meanfield.physics.renormalization.activations import ACTIVATIONS
from meanfield.physics.renormalization.ensemble_map import (
    READINGS,
    critical_slab_mean_var,
    ensemble_fixed_point,
    slab_variances,
)
from meanfield.physics.renormalization.fitted_decimation import (
    EffectiveLayer,
    decimate_network,
    redrawn_network,
)
from meanfield.physics.renormalization.fixed_points import (
    critical_weight_var,
    fixed_length,
    fixed_point,
)
from meanfield.physics.renormalization.meanfield_map import trajectory
from meanfield.physics.renormalization.network_phase import (
    Renormalization,
    analyze_renormalization,
)
from meanfield.physics.renormalization.symmetry import translational_symmetry
from meanfield.physics.renormalization.wide_flow import (
    critical_exponent,
    wide_flow,
    wide_layer,
)

WIDTH = 600
DRAWS = 30
DEPTH = 8
TRAINED_WIDTH = 64
TRAINED_LAYERS = 9
EPOCHS = 60
BATCH = 64
LEARNING_RATE = 1e-3


def critical_points() -> None:
    """Critical σ_w², q* and the exponent ν of tanh and erf."""
    print("critical points of wide layers")
    print("φ      σ_b²   critical σ_w²   q*        ν from ξ at δσ_w² = 1e-3…1e-5")
    distances = [1e-3, 1e-4, 1e-5]
    for name in ("tanh", "erf"):
        for bias_var in (0.0, 0.05, 0.10):
            critical = critical_weight_var(bias_var, name)
            scales = [
                fixed_point(critical - d, bias_var, name).depth_scale for d in distances
            ]
            nu, error = critical_exponent(distances, scales)
            length = fixed_length(critical, bias_var, name)
            print(
                f"{name:6s} {bias_var:4.2f}   {critical:.6f}        {length:.6f}  "
                f"{nu:.5f} ± {error:.1g}"
            )


def simulate(
    reading: str,
    spike_prob: float,
    slab_mean_var: float,
    slab_var: float,
    bias_var: float,
    *,
    key: jax.Array,
    depth: int = DEPTH,
) -> np.ndarray:
    """q, covariance of two inputs, mean square gradient, through one tanh ensemble."""
    rng = numpy_generator(key, spawn_key=(1,))
    z = rng.normal(size=(2, WIDTH))
    z[1] = 0.4 * z[0] + math.sqrt(1 - 0.4**2) * z[1]
    tangent = rng.normal(size=WIDTH)
    rows = [(np.mean(z[0] ** 2), np.mean(z[0] * z[1]), np.mean(tangent**2))]
    for _ in range(depth):
        shape = (WIDTH, WIDTH)
        m = rng.normal(size=shape) * math.sqrt(slab_mean_var / WIDTH)
        v = slab_var / WIDTH
        bias = rng.normal(size=WIDTH) * math.sqrt(bias_var)
        a, derivative = np.tanh(z), 1 - np.tanh(z[0]) ** 2
        mu = (1 - spike_prob) * m
        if reading == "drawn":
            w = m + math.sqrt(v) * rng.normal(size=shape)
            w = np.where(rng.random(shape) < spike_prob, 0.0, w)
            z, tangent = a @ w.T + bias, w @ (derivative * tangent)
        elif reading == "mean":
            z, tangent = a @ mu.T + bias, mu @ (derivative * tangent)
        else:
            var = (1 - spike_prob) * (v + spike_prob * m**2)
            spread = np.sqrt(np.square(a) @ var.T)
            noise = rng.normal(size=z.shape)
            z = a @ mu.T + bias + noise * spread
            gain = (noise[0] / np.maximum(spread[0], 1e-300))[:, None]
            tangent = (mu + gain * var * a[0]) @ (derivative * tangent)
        rows.append((np.mean(z[0] ** 2), np.mean(z[0] * z[1]), np.mean(tangent**2)))
    return np.array(rows)


def ensemble_checks(draws: int) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Theory against simulation at a critical point of every reading."""
    print(f"\nensemble maps, tanh, σ_b² = 0.05, width {WIDTH}, {draws} draws")
    print(
        "reading  π    N Ξ   σ_m²    χ       c*      largest deviation (s.e.): q cov ∇"
    )
    kept = {}
    bias_var, slab_var, spike = 0.05, 0.5, 0.3
    for reading in READINGS:
        mean_var = critical_slab_mean_var(spike, slab_var, bias_var, "tanh", reading)
        variances = slab_variances(spike, mean_var, slab_var)
        point = ensemble_fixed_point(variances, bias_var, "tanh", reading)
        runs = np.array(
            [
                simulate(reading, spike, mean_var, slab_var, bias_var, key=key)
                for key in jax.random.split(jax.random.key(0), draws)
            ]
        )
        total = variances.shared if reading == "mean" else variances.total
        seen = variances.total if reading == "drawn" else variances.shared
        path = trajectory(1.0, 0.4, DEPTH, total, bias_var, "tanh", seen)
        gradients = [
            seen * ACTIVATIONS["tanh"].derivative_moment(q) for q in path[:-1, 0]
        ]
        expected = np.stack(
            [path[:, 0], path[:, 0] * path[:, 1], np.cumprod([1.0, *gradients])], axis=1
        )
        errors = runs.std(axis=0, ddof=1) / math.sqrt(draws)
        deviation = np.abs(runs.mean(axis=0) - expected) / errors
        print(
            f"{reading:8s} {spike:.1f}  {slab_var:.1f}  {mean_var:.4f}  "
            f"{point.gradient:.4f}  {point.correlation:.4f}  "
            + " ".join(f"{d:.1f}" for d in deviation[1:].max(axis=0))
        )
        kept[reading] = (expected, runs.mean(axis=0), errors)
    return kept


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


@jax.jit
def _train(layers, x, y, order):
    optimizer = optax.adam(LEARNING_RATE)

    def loss(layers, batch):
        logits = forward(layers, x[batch])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()

    def step(carry, batch):
        layers, state = carry
        updates, state = optimizer.update(jax.grad(loss)(layers, batch), state)
        return (optax.apply_updates(layers, updates), state), None

    (layers, _), _ = jax.lax.scan(step, (layers, optimizer.init(layers)), order)
    return layers


def trained_networks(epochs: int) -> tuple[dict[str, list], np.ndarray]:
    """Critical and ordered networks, before and after training, on digits."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 8 - 1).astype(np.float32), y[order].astype(np.int32)
    steps = 1400 // BATCH
    batches = jnp.concatenate(
        [
            jax.random.permutation(k, 1400)[: steps * BATCH].reshape(steps, BATCH)
            for k in jax.random.split(jax.random.key(2), epochs)
        ]
    )
    critical = critical_weight_var(0.05, "tanh")
    networks = {}
    for label, weight_var in (("critical", critical), ("ordered", 1.0)):
        start = initial_network(weight_var, 0.05, jax.random.key(1))
        end = _train(start, jnp.asarray(x), jnp.asarray(y), batches)
        accuracy = float(
            (forward(end, jnp.asarray(x[1400:])).argmax(1) == y[1400:]).mean()
        )
        print(f"digits, start {label}: test accuracy {accuracy:.4f}")
        networks[f"{label} start"] = start
        networks[f"{label} start, trained"] = end
    return networks, x


def as_arrays(layers: list) -> list[tuple[np.ndarray, np.ndarray]]:
    """Hidden layers as float64 NumPy arrays."""
    return [(np.asarray(w, np.float64), np.asarray(b, np.float64)) for w, b in layers]


def show_levels(label: str, levels: list[list[EffectiveLayer]]) -> None:
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
        flows[label] = decimate_network(hidden, states, "tanh", key=key)
        show_levels(label, flows[label])
        if "trained" in label:
            order = numpy_generator(key, spawn_key=(1,)).permutation(len(hidden))
            nulls = {
                "  its layers shuffled": [hidden[i] for i in order],
                "  redrawn, same variances": redrawn_network(hidden, key=key),
            }
            for name, null in nulls.items():
                flow = decimate_network(null, states, "tanh", key=key)
                flows[f"{label}: {name.strip()}"] = flow
                show_levels(name, flow)
    return flows


def places(networks: dict[str, list]) -> dict[str, Renormalization]:
    """Phase and translational symmetry of the hidden layers."""
    found = {}
    print("\nplace in the phase diagram, and translational symmetry")
    for label, layers in networks.items():
        hidden = {
            f"{i}": {"weight": w, "bias": b} for i, (w, b) in enumerate(layers[1:-1])
        }
        result = analyze_renormalization(
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
        result = analyze_renormalization(
            tensors,
            key=jax.random.key(5),
            activation=activations.get(family, "relu"),
            layout=layouts.get(family, "auto"),
        )
        matrices = {n: tensors[n] for n in list(result.layers)[1:-1]}
        symmetry = translational_symmetry(
            matrices, key=jax.random.key(5), layout=layouts.get(family, "auto")
        )
        print(f"{path.stem}: {result.verdict}. {result.reason}")
        gains = [point.weight_var for point in result.layers.values()]
        print(f"  σ_w² between {min(gains):.3g} and {max(gains):.3g}")
        print(f"  inner layers {symmetry.verdict}: {symmetry.reason}")


def _natural(name: str) -> list:
    return [int(p) if p.isdigit() else p for p in name.replace(".", "_").split("_")]


def draw_figures(checks, flows, found, out: Path) -> None:
    """Phase diagram, flows, critical lines with simulation, measured flows."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    mf.plots.phase_diagram(found, axes[0])
    critical = critical_weight_var(0.05)
    starts = [(critical + d, 0.05) for d in (-0.4, -0.15, 0.0, 0.15, 0.4)]
    starts += [(critical_weight_var(0.15) + d, 0.15) for d in (-0.3, 0.3)]
    mf.plots.decimation_flow(starts, axes[1])
    figure.savefig(out / "dynamic_neurons_phases.png", dpi=130)

    figure, axes = plt.subplots(1, 4, figsize=(18, 4.3), layout="constrained")
    mf.plots.critical_slabs(axes[0])
    titles = ("length q", "covariance of two inputs", "mean square gradient")
    colours = dict(zip(READINGS, ("#0072B2", "#D55E00", "#009E73"), strict=True))
    for axis, index, title in zip(axes[1:], range(3), titles, strict=True):
        for reading, (expected, measured, errors) in checks.items():
            depth = np.arange(len(expected))
            colour = colours[reading]
            shift = 0.1 * (READINGS.index(reading) - 1)
            style = "--" if reading == "mean" else "-"
            axis.plot(depth, expected[:, index], style, color=colour, label=reading)
            axis.errorbar(
                depth + shift,
                measured[:, index],
                yerr=5 * errors[:, index],
                fmt="o",
                markersize=4,
                color=colour,
            )
        axis.set_title(f"{title} (bars: 5 s.e.)", fontsize="medium")
        axis.set_xlabel("layer")
    axes[2].legend(frameon=False, fontsize="small")
    figure.savefig(out / "dynamic_neurons_ensemble.png", dpi=130)

    shown = {n: f for n, f in flows.items() if ":" not in n}
    figure, axes = plt.subplots(
        1, len(shown), figsize=(4 * len(shown), 4), layout="constrained", sharey=True
    )
    for axis, (label, levels) in zip(axes, shown.items(), strict=True):
        mf.plots.measured_flow(levels, axis)
        axis.set_title(label, fontsize="medium")
    axes[0].set_ylabel("χ₁ (filled: R² ≥ 0.9)")
    figure.savefig(out / "dynamic_neurons_measured.png", dpi=130)
    print(f"\nfigures in {out}")


def main() -> None:
    """Run all four parts."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=Path("plots"))
    settings = parser.parse_args()
    folder = settings.data_dir or (
        Path(os.environ["MEANFIELD_DATA"]) if "MEANFIELD_DATA" in os.environ else None
    )
    start = time.perf_counter()
    critical_points()
    flow = wide_flow(wide_layer(1.7, 0.05), num_steps=4)
    print("\nflow of (1.7, 0.05), tanh, b = 2: σ_w², σ_b², χ₁, ξ")
    for layer in flow:
        print(
            f"  {layer.weight_var:.4f}  {layer.bias_var:.4f}  {layer.gradient:.4f}  "
            f"{layer.depth_scale:.3f}"
        )
    checks = ensemble_checks(settings.draws)
    print()
    networks, x = trained_networks(settings.epochs)
    found = places(networks)
    flows = measured_flows(networks, x)
    if folder is not None and (folder / "pretrained_weights").is_dir():
        real_networks(folder / "pretrained_weights")
    draw_figures(checks, flows, found, settings.out)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
