"""Are the weights of real networks lognormal? The claim of the Jaynes Machine, tested.

    python experiments/jaynes_machine.py --data-dir DIR --out OUT

Prints the null table, the verdict on every weight tensor of the networks in
DIR/pretrained_weights, and on a network trained here (scikit-learn digits, or MNIST
with --data mnist) before and after training, started from He-normal and from
variance-matched lognormal weights. Writes two figures to OUT.

The claim is that of arXiv:2310.06960: lognormal weights in every highly connected
layer. The verdict rule is ours (meanfield.physics.microstructure.lognormality).
"""

import argparse
import collections
import gzip
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
from meanfield.ensemble.jaynes import critical_initialize, jaynes_initialize
from meanfield.ensemble.networks import mlp
from meanfield.physics.microstructure.arbitrage import arbitrage_between_layers
from meanfield.physics.microstructure.lognormal_fit import (
    Microstructure,
    analyze_microstructure,
    fit_microstructure,
)

HIDDEN = (256, 256, 256)
EPOCHS = 20
BATCH = 128
LEARNING_RATE = 1e-3
NULL_SIZE = 200_000
ENSEMBLE_SEEDS = (0, 1, 2, 3, 4)
ENSEMBLE_EPOCHS = 40


def load_images(name: str, data_dir: Path | None) -> tuple[np.ndarray, ...]:
    """Train and test images in [0, 1] and labels, of "digits" or "mnist"."""
    if name == "digits":
        x, y = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(x))
        x, y = (x[order] / 16).astype(np.float32), y[order].astype(np.int32)
        return x[:1437], y[:1437], x[1437:], y[1437:]
    if data_dir is None:
        raise SystemExit("mnist needs --data-dir or MEANFIELD_DATA")

    def read(file: str, header: int) -> np.ndarray:
        with gzip.open(data_dir / "mnist" / file) as stream:
            return np.frombuffer(stream.read(), np.uint8, offset=header)

    images = [read(f"{s}-images-idx3-ubyte.gz", 16) for s in ("train", "t10k")]
    labels = [read(f"{s}-labels-idx1-ubyte.gz", 8) for s in ("train", "t10k")]
    x, x_test = ((i.reshape(-1, 784) / 255).astype(np.float32) for i in images)
    y, y_test = (label.astype(np.int32) for label in labels)
    return x, y, x_test, y_test


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


@jax.jit
def _train(params, x, y, order):
    optimizer = optax.adam(LEARNING_RATE)

    def loss(params, batch):
        logits = forward(params, x[batch])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()

    def step(carry, batch):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), order)
    return params


def train(params, x, y, *, key: jax.Array, epochs: int):
    """Adam on cross-entropy; batches drawn anew every epoch."""
    steps = len(x) // BATCH
    order = jnp.concatenate(
        [
            jax.random.permutation(k, len(x))[: steps * BATCH].reshape(steps, BATCH)
            for k in jax.random.split(key, epochs)
        ]
    )
    return _train(params, jnp.asarray(x), jnp.asarray(y), order)


def hidden_outputs(params, x: np.ndarray) -> dict[str, np.ndarray]:
    """Activations of every hidden layer."""
    outputs, state = {}, jnp.asarray(x)
    for index, layer in enumerate(params[:-1]):
        state = jax.nn.relu(state @ layer["weight"].T + layer["bias"])
        outputs[f"outputs {index}"] = np.asarray(state)
    return outputs


def show(name: str, fits: dict[str, Microstructure], kinds: tuple[str, ...]) -> None:
    """One row for every tensor of the given kinds, then a count of verdicts."""
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


def null_table() -> None:
    """The verdict on known distributions."""
    rng = np.random.default_rng(0)
    gaussian = rng.normal(size=NULL_SIZE)
    known = {
        "gaussian": gaussian,
        "laplace": rng.laplace(size=NULL_SIZE),
        "student-3": rng.standard_t(3, size=NULL_SIZE),
        "uniform": rng.uniform(-1, 1, size=NULL_SIZE),
        "gaussian, |w| < 0.25 rms dropped": gaussian[np.abs(gaussian) >= 0.25],
        "lognormal": rng.lognormal(-3.2225, 0.65, size=NULL_SIZE),
    }
    fits = {name: fit_microstructure(values) for name, values in known.items()}
    show("known distributions, n = 200,000", fits, ("values",))


def pretrained(folder: Path) -> dict[str, Microstructure]:
    """Verdicts on every weight matrix of the networks in a folder of npz files."""
    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as tensors:
            fits = analyze_microstructure(tensors)
        show(path.stem, fits, ("connections", "embedding"))
        found |= {f"{path.stem}/{name}": fit for name, fit in fits.items()}
    return {name: fit for name, fit in found.items() if fit.kind == "connections"}


def trained_here(name: str, data_dir: Path | None, epochs: int) -> dict:
    """Networks before and after training, from two initial distributions."""
    x, y, x_test, y_test = load_images(name, data_dir)
    sizes = (x.shape[1], *HIDDEN, 10)
    key = jax.random.key(0)
    he = critical_initialize(empty_network(sizes), key=key, weight_var=2.0)
    jaynes = jaynes_initialize(empty_network(sizes), key=key, gain=2.0)
    found = {}
    for label, start in (("He normal", he), ("Jaynes lognormal", jaynes)):
        begin = time.perf_counter()
        end = train(start, x, y, key=jax.random.key(1), epochs=epochs)
        accuracy = float((forward(end, jnp.asarray(x_test)).argmax(1) == y_test).mean())
        seconds = time.perf_counter() - begin
        print(f"\n{name}, {label}: test accuracy {accuracy:.4f}, {seconds:.0f} s")
        for moment, params in (("before", start), ("after", end)):
            title = f"{label}, {moment} training"
            fits = analyze_microstructure({str(i): p for i, p in enumerate(params)})
            show(title, fits, ("connections",))
            matrices = {f"layer {i}": p["weight"] for i, p in enumerate(params[1:-1])}
            level = arbitrage_between_layers(matrices)
            print(
                f"  equal-width hidden layers: levels spread {level.spread:.4f} nats "
                f"(counting noise {level.noise_spread:.4f}, p = {level.p_value:.2g})"
            )
            outputs = analyze_microstructure(hidden_outputs(params, x_test[:1000]))
            show(f"{title}, neuron outputs", outputs, ("connections",))
            found[label, moment] = (params, fits)
    return found


def ensembles_compared(images: tuple[np.ndarray, ...]) -> None:
    """Test accuracy of ensembles from a critical and from a Jaynes start, by `fit`."""
    x, y, x_test, y_test = images
    widths = (x.shape[1], *HIDDEN, int(y.max()) + 1)
    starts = {
        "critical": mf.ensemble.critical(),
        "Jaynes": mf.ensemble.jaynes_initial(),
    }
    print("\nensembles learned by fit: test accuracy, σ of ln|m| before → after")
    for name, initial in starts.items():
        scores, before, after = [], [], []
        for seed in ENSEMBLE_SEEDS:
            key = jax.random.key(seed)
            network = mlp(widths, key=key)
            ensemble = mf.Ensemble.from_model(network, key=key, initial=initial)
            result = mf.fit(
                ensemble, (x, y), key=key, epochs=ENSEMBLE_EPOCHS, progress=False
            )
            metrics = mf.evaluate(result.ensemble, (x_test, y_test), key=key)
            scores.append(metrics.accuracy)
            before.append(_spread(ensemble))
            after.append(_spread(result.ensemble))
        error = np.std(scores, ddof=1) / np.sqrt(len(scores))
        print(
            f"  {name:<10}{np.mean(scores):.4f} ± {error:.4f}   "
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
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=["digits", "mnist"], default="digits")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=Path("plots"))
    settings = parser.parse_args()
    folder = settings.data_dir or (
        Path(os.environ["MEANFIELD_DATA"]) if "MEANFIELD_DATA" in os.environ else None
    )
    start = time.perf_counter()
    null_table()
    real = {}
    if folder is not None and (folder / "pretrained_weights").is_dir():
        real = pretrained(folder / "pretrained_weights")
    ours = trained_here(settings.data, folder, settings.epochs)
    ensembles_compared(load_images(settings.data, folder))
    draw_figures(real, ours, settings.out)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
