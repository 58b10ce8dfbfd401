"""Calibration of a mean field, MC dropout, a deep ensemble and a single network.

All have the layer widths 784-300-100-10, the same images and batch size, and Adam with
a step size that falls along a cosine.

Scores are accuracy, NLL and ECE of the predictive distribution on MNIST's test images,
and how well its entropy (total) and the epistemic part of it separate Fashion-MNIST,
not used in training, from MNIST. The prior of the mean field is as wide as the
library's default, s = 1: weights that the training images do not determine, such as
those of pixels that are always dark, stay uncertain.

All train on images shifted by up to one pixel, with new random shifts in each step.

The mean field's temperature, step size and number of draws were chosen by --select:
trained on the first 50,000 training images, scored on the last 10,000, and for
Fashion-MNIST also on its last 10,000 training images. The other step sizes, the dropout
rate and the epochs were set without a search. Test scores are from runs on all 60,000
images.

    python experiments/calibration.py --data-dir DIR
    python experiments/calibration.py --quick                # digits, small, seconds

Finished runs are stored in the output folder, and are not run again.
"""

import functools
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from shared import once, options

import meanfield as mf
from meanfield.data import load, shift_images
from meanfield.ensemble.networks import mlp
from meanfield.files import atomic_path
from meanfield.learning.schedule import random_batches
from meanfield.prediction import metrics, ood
from meanfield.prediction.uncertainty import decompose_classes

WIDTHS = (784, 300, 100, 10)
BATCH, MEMBERS, DRAWS = 250, 5, 128
STEP_SIZE, POINT_STEP_SIZE = 5e-3, 1.5e-3
DROPOUT = 0.2
SHIFT = 1
TEMPERATURE = 0.02
PRIOR = mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale=1.0)
SEEDS = (0, 1, 2)
EPOCHS = {"mean field": 15, "one network": 10, "dropout": 15, "deep ensemble": 10}
OUT = "runs/calibration"


class Dropped(eqx.Module):
    """A multilayer perceptron with dropout of its hidden activations."""

    network: eqx.nn.MLP
    rate: float = eqx.field(static=True)

    def __call__(self, x, key):
        """Logits of one image."""
        *hidden, last = self.network.layers
        for layer, layer_key in zip(
            hidden, jax.random.split(key, len(hidden)), strict=True
        ):
            x = jax.nn.relu(layer(x))
            if self.rate > 0:
                keep = jax.random.bernoulli(layer_key, 1 - self.rate, x.shape)
                x = jnp.where(keep, x / (1 - self.rate), 0)
        return last(x)


def start_of(widths, key) -> mf.Ensemble:
    """Spike-and-slab weights at the critical scale."""
    return mf.Ensemble.from_model(mlp(widths, key=key), key=key)


def train_point(data, widths, epochs, key, rate, shape):
    """Train a point network by back-propagation with dropout."""
    x, y = data
    network = Dropped(start_of(widths, key).mean_network(), rate)
    learned, fixed = eqx.partition(network, eqx.is_inexact_array)
    steps = epochs * (len(x) // BATCH)
    optimizer = optax.adam(optax.cosine_decay_schedule(POINT_STEP_SIZE, steps))
    augment = shift_images(shape, SHIFT)

    def loss(learned, x, y, key):
        shift_key, key = jax.random.split(key)
        x = augment(x, key=shift_key)
        logits = jax.vmap(eqx.combine(learned, fixed))(x, jax.random.split(key, len(x)))
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    @functools.partial(jax.jit, donate_argnums=0)
    def epoch(state, x, y, key):
        def step(state, rows):
            learned, memory, key = state
            key, now = jax.random.split(key)
            gradient = jax.grad(loss)(learned, x[rows], y[rows], now)
            update, memory = optimizer.update(gradient, memory, learned)
            return (optax.apply_updates(learned, update), memory, key), None

        order_key, key = jax.random.split(key)
        batches = random_batches(order_key, len(x), BATCH)
        learned, memory, _ = jax.lax.scan(step, (*state, key), batches)[0]
        return learned, memory

    state = (jax.tree.map(jnp.copy, learned), optimizer.init(learned))
    for number in range(epochs):
        state = epoch(state, x, y, jax.random.fold_in(key, number))
    return eqx.combine(state[0], fixed)


def train_mean_field(data, widths, epochs, key, shape):
    """Train an ensemble with the same batch size."""
    steps = epochs * (len(data[0]) // BATCH)
    return mf.fit(
        start_of(widths, key),
        data,
        key=key,
        epochs=epochs,
        batch_size=BATCH,
        optimizer=optax.adam(optax.cosine_decay_schedule(STEP_SIZE, steps)),
        prior=PRIOR,
        temperature=TEMPERATURE,
        augment=shift_images(shape, SHIFT),
        progress=False,
    ).ensemble


@eqx.filter_jit
def probabilities(network: Dropped, x, key):
    """Class probabilities of a batch, with one dropout mask for each example."""
    return jax.nn.softmax(jax.vmap(network)(x, jax.random.split(key, len(x))))


def draws_of(data, widths, epochs, seed, rate, shape, inputs):
    """Train one point network; return its class probabilities for each input array."""
    key, draw_key = jax.random.split(jax.random.key(seed))
    network = train_point(data, widths, epochs, key, rate, shape)
    keys = jax.random.split(draw_key, DRAWS if rate > 0 else 1)
    return [np.stack([probabilities(network, x, key) for key in keys]) for x in inputs]


class Trainer:
    """Trains methods on one data set, and each network that ensembles share once.

    The ensemble of seed s has the networks of seeds s … s + 4.
    """

    def __init__(self, data, widths, shape, inputs, folder: Path):
        self.data, self.widths, self.shape = data, widths, shape
        self.inputs, self.folder = inputs, folder

    def predict(self, method: str, epochs: int, seed: int) -> list:
        """Predictive distribution of a method for each input array."""
        if method == "mean field":
            key, draw_key = jax.random.split(jax.random.key(seed))
            ensemble = train_mean_field(self.data, self.widths, epochs, key, self.shape)
            return [
                mf.predict(ensemble, x, num_samples=DRAWS, key=draw_key)
                for x in self.inputs
            ]
        rate = DROPOUT if method == "dropout" else 0.0
        count = MEMBERS if method == "deep ensemble" else 1
        members = [self.member(epochs, seed + i, rate) for i in range(count)]
        return [
            decompose_classes(draw for draws in per_input for draw in draws)
            for per_input in zip(*members, strict=True)
        ]

    def member(self, epochs: int, seed: int, rate: float) -> list[np.ndarray]:
        """Class probabilities of one network: (draws, batch, classes) per input."""
        path = self.folder / f"member-{rate:g}-{epochs}-{seed}.npz"
        if not path.exists():
            arrays = draws_of(
                self.data, self.widths, epochs, seed, rate, self.shape, self.inputs
            )
            with atomic_path(path) as temporary:
                np.savez(temporary, *arrays)
        with np.load(path) as file:
            return [file[name] for name in file.files]


def scores(said: list, y) -> dict:
    """Scores of the predictions for test images and for images of other data sets."""
    inside, *others = said
    row = {
        "accuracy": metrics.accuracy(inside.mean, y),
        "nll": metrics.nll(inside.mean, y),
        "ece": metrics.ece(inside.mean, y),
    }
    for other in others:
        for name in ("total", "epistemic"):
            found = ood.ood_scores(getattr(inside, name), getattr(other, name))
            row[f"auroc {name}"], row[f"fpr95 {name}"] = found.auroc, found.fpr95
    return row


def rows_of(trainer: Trainer, method: str, epochs: int, seeds, y) -> list[dict]:
    """Scores of a method for every seed, read from the folder if they are there."""
    name = method.replace(" ", "-")
    return [
        once(
            trainer.folder / f"{name}-{epochs}-{seed}.json",
            lambda seed=seed: scores(trainer.predict(method, epochs, seed), y),
        )
        for seed in seeds
    ]


def read(name: str, select: bool, data_dir: str | None):
    """Training images with labels, scored images with labels, shape of an image."""
    data = load(name, data_dir=data_dir) if name != "digits" else load(name)
    x, x_test = (
        jnp.asarray(part.reshape(len(part), -1)) for part in (data.x_train, data.x_test)
    )
    y, y_test = jnp.asarray(data.y_train), data.y_test
    shape = (8, 8) if name == "digits" else (28, 28)
    if select:
        held = len(x) // 6
        return (x[:-held], y[:-held]), (x[-held:], np.asarray(y[-held:])), shape
    return (x, y), (x_test, y_test), shape


COLUMNS = ("accuracy", "nll", "ece", "auroc total", "auroc epistemic")


def spread(rows: list[dict], name: str) -> str:
    """Mean and standard deviation over the seeds."""
    values = np.array([row[name] for row in rows])
    deviation = values.std(ddof=1) if len(values) > 1 else np.nan
    return f"{values.mean():>10.4f} ±{deviation:.4f}"


def main() -> None:
    """Run the methods that have no result yet; print the table."""
    parser = options(__doc__, out=OUT, seeds=len(SEEDS))
    parser.add_argument("--select", action="store_true", help="hold out the last sixth")
    parser.add_argument("--method", choices=EPOCHS, help="only this one")
    args = parser.parse_args()
    known, other, widths = "mnist", "fashion_mnist", WIDTHS
    seeds = SEEDS[: 1 if args.select else args.seeds]
    if args.quick:
        known, other, widths, seeds = "digits", "digits", (64, 20, 12, 10), SEEDS[:2]
    folder = args.out / ("quick" if args.quick else "select" if args.select else "test")
    data, (x, y), shape = read(known, args.select, args.data_dir)
    outside = read(other, args.select, args.data_dir)[1][0]
    trainer = Trainer(data, widths, shape, (x, outside), folder / "mnist")
    print(f"{'method':<15}" + "".join(f"{name:>18}" for name in COLUMNS))
    for method, epochs in EPOCHS.items():
        if not args.method or method == args.method:
            rows = rows_of(trainer, method, epochs, seeds, y)
            print(f"{method:<15}" + "".join(spread(rows, name) for name in COLUMNS))
    print(f"numbers in {folder}")


if __name__ == "__main__":
    main()
