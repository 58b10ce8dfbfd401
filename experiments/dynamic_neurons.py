"""Neurons as degrees of freedom: the layered Hamiltonian, decimation, critical lines.

    python experiments/dynamic_neurons.py --out OUT

1. The Hamiltonian of neurons between layers: the ordinary network is its ground state,
   which is reached as the noise of the constraint vanishes.
2. Exact decimation in depth of chains, linear layers and wide layers: b layers become
   one, ξ becomes ξ/b, and the relevant eigenvalue is 1.
3. Critical points and exponents of wide layers.
4. The spike-and-slab ensemble's own maps and critical lines, against simulation.

`depth_flow.py` does the same for trained networks. The decimations are this project's
own construction, in the spirit of arXiv:2410.00396; the theory of wide layers is
arXiv:1606.05340 and arXiv:1611.01232.
"""

import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from shared import options

import meanfield as mf
from meanfield.keys import numpy_generator
from meanfield.physics.renormalization.activations import ACTIVATIONS
from meanfield.physics.renormalization.ensemble_map import READINGS

WIDTH = 600
DRAWS = 30
DEPTH = 8


def ground_state(steps: int) -> None:
    """Relax the hidden neurons of a small network under a cost, at falling noise."""
    keys = jax.random.split(jax.random.key(0), 3)
    weights = [jax.random.normal(key, (3, 3)) / math.sqrt(3) for key in keys]
    layers = [lambda h, w=w: jnp.tanh(h @ w.T) for w in weights]
    x, target = jnp.ones((2, 3)), jnp.full((2, 3), 0.5)
    exact = mf.physics.forward_states(x, layers)
    energies = mf.physics.layer_energies(exact, layers)
    print(f"coupling energies of the ordinary network: {np.asarray(energies)}")
    print("noise ε   largest difference of a neuron from the ordinary network")
    for noise in (1e-1, 1e-2, 1e-3):
        hidden = relaxed(layers, x, target, noise, steps)
        pairs = zip(hidden, exact[1:], strict=True)
        apart = max(float(jnp.abs(h - e).max()) for h, e in pairs)
        print(f"{noise:7.0e}   {apart:.5f}")


def relaxed(layers: list, x, target, noise: float, steps: int) -> list[jax.Array]:
    """Neurons of minimal energy, by gradient descent from zero."""

    def step(hidden: list[jax.Array], _: None) -> tuple[list[jax.Array], None]:
        energy = lambda hidden: mf.physics.layered_hamiltonian(
            [x, *hidden], target, layers, noise_var=noise
        )
        return [
            h - 0.3 * noise * gradient
            for h, gradient in zip(hidden, jax.grad(energy)(hidden), strict=True)
        ], None

    start = [jnp.zeros_like(target) for _ in layers]
    return jax.jit(lambda: jax.lax.scan(step, start, None, steps)[0])()


def exact_decimation() -> None:
    """Repeated decimation of two layers to one, and its invariants."""
    print("\nlinear chain: w, τ, stationary variance τ/(1 − w²)")
    weight, noise = 0.95, 0.2
    for _ in range(4):
        print(f"  {weight:.5f}  {noise:.5f}  {noise / (1 - weight**2):.5f}")
        weight, noise = mf.physics.decimate_chain(weight, noise)
    print("chain of spins: K, ξ")
    coupling = 1.5
    for _ in range(4):
        scale = mf.physics.binary_depth_scale(coupling)
        print(f"  {coupling:.5f}  {scale:.5f}")
        coupling = mf.physics.decimate_binary_chain(coupling)
    print("mean-field layer of spins: gain, m*, gradient there")
    for gain in (0.9, 1.0, 1.02, 1.1):
        m, gradient = mf.physics.binary_layer_fixed_point(gain)
        print(f"  {gain:.2f}  {m:.5f}  {gradient:.5f}")
    rng = np.random.default_rng(0)
    layers = [
        mf.physics.LinearLayer(
            rng.normal(size=(3, 3)) / 2, rng.normal(size=3), 0.1 * np.eye(3)
        )
        for _ in range(4)
    ]
    (at_once,) = mf.physics.decimate_linear(layers, 4)
    (twice,) = mf.physics.decimate_linear(mf.physics.decimate_linear(layers))
    apart = np.abs(at_once.noise_cov - twice.noise_cov).max()
    print(f"4 linear layers at once and by twos: noise differs by {apart:.0e}")
    eigenvalues = {
        "linear chain at w = 1": mf.physics.relevant_eigenvalue(
            lambda w: mf.physics.decimate_chain(w, 0.0)[0], 1.0
        ),
        "wide layers at χ₁ = 1": mf.physics.relevant_eigenvalue(lambda c: c**2, 1.0),
    }
    print(f"relevant eigenvalues y = 1/ν: {eigenvalues}")
    layer = mf.physics.wide_layer(1.7, 0.05)
    print("wide tanh layers from (1.7, 0.05): σ_w², σ_b², χ₁, ξ")
    for point in mf.physics.wide_flow(layer, num_steps=4):
        print(
            f"  {point.weight_var:.4f}  {point.bias_var:.4f}  {point.gradient:.4f}  "
            f"{point.depth_scale:.3f}"
        )


def critical_points() -> None:
    """Critical σ_w², q* and the exponent ν of tanh and erf."""
    print("critical points of wide layers")
    print("φ      σ_b²   critical σ_w²   q*        ν from ξ at δσ_w² = 1e-3…1e-5")
    distances = [1e-3, 1e-4, 1e-5]
    for name in ("tanh", "erf"):
        for bias_var in (0.0, 0.05, 0.10):
            critical = mf.physics.critical_weight_var(bias_var, name)
            points = [
                mf.physics.fixed_point(critical - d, bias_var, name) for d in distances
            ]
            scales = [point.depth_scale for point in points]
            nu, error = mf.physics.critical_exponent(distances, scales)
            length = mf.physics.fixed_point(critical, bias_var, name).length
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
        mean_var = mf.physics.critical_slab_mean_var(
            spike, slab_var, bias_var, "tanh", reading
        )
        variances = mf.physics.slab_variances(spike, mean_var, slab_var)
        point = mf.physics.ensemble_fixed_point(variances, bias_var, "tanh", reading)
        runs = np.array(
            [
                simulate(reading, spike, mean_var, slab_var, bias_var, key=key)
                for key in jax.random.split(jax.random.key(0), draws)
            ]
        )
        total = variances.shared if reading == "mean" else variances.total
        seen = variances.total if reading == "drawn" else variances.shared
        path = mf.physics.trajectory(1.0, 0.4, DEPTH, total, bias_var, "tanh", seen)
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


def draw_figures(checks, out: Path) -> None:
    """Flows through the phase diagram; critical lines with simulation."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(figsize=(5.5, 4.5), layout="constrained")
    critical = mf.physics.critical_weight_var(0.05)
    starts = [(critical + d, 0.05) for d in (-0.4, -0.15, 0.0, 0.15, 0.4)]
    starts += [(mf.physics.critical_weight_var(0.15) + d, 0.15) for d in (-0.3, 0.3)]
    mf.plots.decimation_flow(starts, axes)
    figure.savefig(out / "dynamic_neurons_flow.png", dpi=130)

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
    print(f"\nfigures in {out}")


def main() -> None:
    """Run all four parts."""
    parser = options(__doc__, out="runs/dynamic_neurons")
    parser.add_argument("--draws", type=int, default=DRAWS)
    settings = parser.parse_args()
    start = time.perf_counter()
    ground_state(steps=400)
    exact_decimation()
    print()
    critical_points()
    checks = ensemble_checks(3 if settings.quick else settings.draws)
    draw_figures(checks, settings.out)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
