"""Are the weights of real networks lognormal? The claim of the Jaynes Machine, tested.

    python experiments/jaynes_machine.py --data-dir DIR --out OUT

Prints

1. exact arbitrage equilibria: a lognormal layer, a Boltzmann machine and, at low
   temperature, a Hopfield network are states of equal effective utility;
2. the verdict on known distributions, on every weight tensor of the networks in
   DIR/pretrained_weights, and on a network trained here (scikit-learn digits, or MNIST
   with --data mnist) before and after training, started from He-normal and from
   variance-matched lognormal weights.

Writes two figures to OUT.

The claim of arXiv:2310.06960 is that every highly connected layer has lognormal
weights. The rule for the verdict is ours
(meanfield.physics.microstructure.lognormality).
"""

import collections
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from shared import accuracy, epochs_of_batches, options, plus_minus, train
from sklearn.datasets import load_digits

import meanfield as mf
from meanfield.data import load
from meanfield.ensemble.jaynes import critical_initialize, jaynes_initialize
from meanfield.ensemble.networks import mlp

Microstructure = mf.physics.Microstructure
HIDDEN = (256, 256, 256)
EPOCHS = 20
BATCH = 128
LEARNING_RATE = 1e-3
NULL_SIZE = 200_000
ENSEMBLE_SEEDS = 5
ENSEMBLE_EPOCHS = 40


def load_images(name: str, data_dir: Path | None) -> tuple[np.ndarray, ...]:
    """Train and test images in [0, 1] and labels, of "digits" or "mnist"."""
    if name == "digits":
        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int32)
        return x[:1437], y[:1437], x[1437:], y[1437:]
    data = load(name, data_dir=data_dir)
    return data.x_train, data.y_train, data.x_test, data.y_test


def forward(params: list[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    """Logits of a ReLU network."""
    for layer in params[:-1]:
        x = jax.nn.relu(x @ layer["weight"].T + layer["bias"])
    return x @ params[-1]["weight"].T + params[-1]["bias"]


def empty_network(sizes: tuple[int, ...]) -> list[dict[str, jax.Array]]:
    """Zero weights and biases of dense layers."""
    return [
        {"weight": jnp.zeros((o, i)), "bias": jnp.zeros(o)}
        for i, o in zip(sizes[:-1], sizes[1:], strict=True)
    ]


def hidden_outputs(params, x: np.ndarray) -> dict[str, np.ndarray]:
    """Activations of every hidden layer."""
    outputs, state = {}, jnp.asarray(x)
    for index, layer in enumerate(params[:-1]):
        state = jax.nn.relu(state @ layer["weight"].T + layer["bias"])
        outputs[f"outputs {index}"] = np.asarray(state)
    return outputs


def show(name: str, fits: dict[str, Microstructure], kinds: tuple[str, ...]) -> None:
    """Print one row for every tensor of the given kinds, then a count of verdicts."""
    print(f"\n{name}")
    head = f"{'tensor':44s} {'n':>8s} {'σ':>6s} {'skew':>6s} {'Q-Q r²':>7s} {'KS':>6s}"
    print(f"{head} {'spread':>7s} {'best rival':>19s} {'ΔBIC':>9s}  verdict")
    chosen = {n: f for n, f in fits.items() if f.kind in kinds}
    for tensor, fit in chosen.items():
        if fit.mu is None or fit.bic_margin is None or fit.arbitrage is None:
            print(f"{tensor:44s} {fit.num_weights:8d}  {fit.verdict}: {fit.reason}")
            continue
        rival = fit.best_rival
        print(
            f"{tensor:44s} {fit.num_weights:8d} {fit.sigma:6.3f} {fit.skewness:6.2f} "
            f"{fit.qq_r_squared:7.4f} {fit.ks:6.4f} {fit.arbitrage.spread:7.3f} "
            f"{rival:>19s} {fit.bic_margin[rival]:9.0f}  {fit.verdict}"
        )
    counts = collections.Counter(fit.verdict for fit in chosen.values())
    print("  " + ", ".join(f"{v}: {c}" for v, c in sorted(counts.items())))


def equilibrium() -> None:
    """Show equal effective utility of a layer, a Boltzmann and a Hopfield network."""
    alpha, beta = mf.physics.utility_coefficients(-3.2, 0.65)
    mu, sigma = mf.physics.equilibrium_distribution(alpha, beta)
    w = np.geomspace(0.005, 0.4, 9)
    density = np.exp(-0.5 * ((np.log(w) - mu) / sigma) ** 2) / w / sigma
    h = mf.physics.effective_utility(w, density / np.sqrt(2 * np.pi), alpha, beta)
    print(
        f"lognormal layer, α = {alpha:.2f}, β = {beta:.2f}: h spreads {np.ptp(h):.1e}"
    )
    counts = np.array([300.0, 500.0, 200.0])
    moved = counts + [-1, 1, 0]
    values = [
        mf.physics.potential(n, w[3:6], alpha, beta) * n.sum() for n in (counts, moved)
    ]
    bins = alpha * np.log(w[3:6]) - beta * np.log(w[3:6]) ** 2 - np.log(counts)
    print(
        f"one connection moved between bins: potential {values[1] - values[0]:+.4f}, "
        f"its utility {bins[1] - bins[0]:+.4f} nats"
    )
    rng = np.random.default_rng(0)
    patterns = rng.choice([-1.0, 1.0], size=(2, 10))
    weights = mf.physics.hebbian_weights(patterns)
    states = mf.physics.spin_states(10)
    stored = np.abs(states @ patterns.T).max(1) == 10
    print("Boltzmann machine, 10 spins, 2 Hebbian patterns, enumerated")
    print("     T   spread of h   share of ± the patterns   −T h / lowest energy")
    for temperature in (2.0, 1.0, 0.5, 0.2, 0.05):
        utility = mf.physics.boltzmann_utility(
            states, weights, np.zeros(10), temperature
        )
        shares = mf.physics.equilibrium_shares(utility)
        seen = shares > 0
        h = utility[seen] - np.log(shares[seen])
        minus_lowest = temperature * utility.max()
        print(
            f"{temperature:6.2f}   {np.ptp(h):11.1e}   {shares[stored].sum():23.4f}   "
            f"{temperature * h[0] / minus_lowest:20.4f}"
        )


def null_table(size: int) -> None:
    """The verdict on known distributions."""
    rng = np.random.default_rng(0)
    gaussian = rng.normal(size=size)
    known = {
        "gaussian": gaussian,
        "laplace": rng.laplace(size=size),
        "student-3": rng.standard_t(3, size=size),
        "uniform": rng.uniform(-1, 1, size=size),
        "gaussian, |w| < 0.25 rms dropped": gaussian[np.abs(gaussian) >= 0.25],
        "inverse Gaussian": rng.wald(1.0, 1 / 0.45, size=size),
        "lognormal": rng.lognormal(-3.2225, 0.65, size=size),
    }
    fits = {n: mf.physics.fit_microstructure(values) for n, values in known.items()}
    show(f"known distributions, n = {size:,}", fits, ("values",))


def pretrained(folder: Path) -> dict[str, Microstructure]:
    """Verdicts on every weight matrix of the networks in a folder of npz files."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as tensors:
            fits = mf.physics.analyze_microstructure(tensors)
        show(path.stem, fits, ("connections", "embedding"))
        found |= {f"{path.stem}/{name}": fit for name, fit in fits.items()}
    return {name: fit for name, fit in found.items() if fit.kind == "connections"}


def trained_here(name: str, data_dir: Path | None, epochs: int) -> dict:
    """Microstructures before and after training, for two initial distributions."""
    x, y, x_test, y_test = load_images(name, data_dir)
    sizes = (x.shape[1], *HIDDEN, 10)
    key = jax.random.key(0)
    he = critical_initialize(empty_network(sizes), key=key, weight_var=2.0)
    jaynes = jaynes_initialize(empty_network(sizes), key=key, gain=2.0)
    found = {}
    order = epochs_of_batches(len(x), BATCH, epochs, key=jax.random.key(1))
    data = jnp.asarray(x), jnp.asarray(y)
    for label, start in (("He normal", he), ("Jaynes lognormal", jaynes)):
        begin = time.perf_counter()
        end = train(forward, start, *data, order, LEARNING_RATE)
        score = accuracy(forward(end, jnp.asarray(x_test)), y_test)
        seconds = time.perf_counter() - begin
        print(f"\n{name}, {label}: test accuracy {score:.4f}, {seconds:.0f} s")
        for moment, params in (("before", start), ("after", end)):
            title = f"{label}, {moment} training"
            fits = mf.physics.analyze_microstructure(
                {str(i): p for i, p in enumerate(params)}
            )
            show(title, fits, ("connections",))
            matrices = {f"layer {i}": p["weight"] for i, p in enumerate(params[1:-1])}
            level = mf.physics.arbitrage_between_layers(matrices)
            print(
                f"  equal-width hidden layers: levels spread {level.spread:.4f} nats "
                f"(counting noise {level.noise_spread:.4f}, p = {level.p_value:.2g})"
            )
            outputs = mf.physics.analyze_microstructure(
                hidden_outputs(params, x_test[:1000])
            )
            show(f"{title}, neuron outputs", outputs, ("connections",))
            found[label, moment] = (params, fits)
    return found


def ensembles_compared(images: tuple[np.ndarray, ...], seeds: int, epochs: int) -> None:
    """Compare accuracies by `fit` from a critical and from a lognormal start."""
    x, y, x_test, y_test = images
    widths = (x.shape[1], *HIDDEN, int(y.max()) + 1)
    starts = {
        "critical": mf.ensemble.critical(),
        "Jaynes": mf.ensemble.jaynes_initial(),
    }
    print("\nensembles learned by fit: test accuracy, σ of ln|m| before → after")
    for name, initial in starts.items():
        scores, before, after = [], [], []
        for seed in range(seeds):
            key = jax.random.key(seed)
            network = mlp(widths, key=key)
            ensemble = mf.Ensemble.from_model(network, key=key, initial=initial)
            result = mf.fit(
                ensemble, (x, y), key=key, epochs=epochs, progress=False, prior=None
            )
            metrics = mf.evaluate(result.ensemble, (x_test, y_test), key=key)
            scores.append(metrics.accuracy)
            before.append(_spread(ensemble))
            after.append(_spread(result.ensemble))
        print(
            f"  {name:<10}{plus_minus(scores)}   "
            f"{np.mean(before):.3f} → {np.mean(after):.3f}   {len(scores)} seeds"
        )


def _spread(ensemble) -> float:
    """Standard deviation of ln|m| in the second layer."""
    means = np.asarray(ensemble.weights()["layers/1/weight"].slab_mean)
    return float(np.log(np.abs(means[means != 0])).std())


def draw_figures(real: dict[str, Microstructure], ours: dict, out: Path) -> None:
    """The verdicts of real networks; one layer before and after training."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    out.mkdir(parents=True, exist_ok=True)
    if real:
        figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
        mf.plots.microstructure_verdicts(real, axis)
        axis.set_title("weight tensors of three real networks")
        figure.savefig(out / "jaynes_real.png", dpi=130)
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    tensor = "1/weight"
    for row, moment in zip(axes, ("before", "after"), strict=True):
        params, fits = ours["He normal", moment]
        values = params[1]["weight"]
        mf.plots.log_magnitudes(values, fits[tensor], row[0])
        row[0].set_ylabel(f"{moment} training\ndensity")
        mf.plots.log_magnitude_quantiles(values, fits[tensor], row[1])
        chosen = {
            f"{label}": ours[label, moment][1][tensor].arbitrage
            for label in ("He normal", "Jaynes lognormal")
        }
        mf.plots.utilities(chosen, row[2])
    figure.savefig(out / "jaynes_trained.png", dpi=130)
    print(f"\nfigures in {out}")


def main() -> None:
    """Run the whole comparison."""
    parser = options(__doc__, out="runs/jaynes_machine", seeds=ENSEMBLE_SEEDS)
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    settings = parser.parse_args()
    folder = settings.data_dir and Path(settings.data_dir)
    size, seeds, epochs = NULL_SIZE, settings.seeds, settings.epochs
    learned = ENSEMBLE_EPOCHS
    if settings.quick:
        size, seeds, epochs, learned = 20_000, 1, 2, 2
    start = time.perf_counter()
    equilibrium()
    null_table(size)
    real = {}
    if folder and not settings.quick and (folder / "pretrained_weights").is_dir():
        real = pretrained(folder / "pretrained_weights")
    ours = trained_here(settings.data, folder, epochs)
    ensembles_compared(load_images(settings.data, folder), seeds, learned)
    draw_figures(real, ours, settings.out)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
