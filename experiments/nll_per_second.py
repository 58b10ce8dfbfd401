"""Fashion-MNIST: test NLL against seconds of training, at equal budgets.

All networks have the shape 784-300-100-10 and learn by Adam in batches of 250, in the
loop of `mf.fit`, on one machine and in one process:

    mean field      for a part of the budget, an ordinary network with a constant step
                    size; then an ensemble whose slab means are its weights
                    (`Ensemble.from_model` without a key), along a cosine
    one network     back-propagation along a cosine that ends with the budget
    five networks   a deep ensemble whose members share the budget

Each learns the original images and ("moved") images shifted by up to one pixel, with
new shifts in every step.

Budgets are converted to epochs by the median time of several epochs without the first,
which compiles; compile time is not counted.

Temperature, step size and length of the ordinary part were chosen with --select, which
trains on the first 50,000 images and scores the last 10,000, with seed 0. Test scores
are from runs on all 60,000 images.

    python experiments/nll_per_second.py --data-dir DIR
    python experiments/nll_per_second.py --quick             # digits, small, seconds

Finished runs are stored in the output folder and not repeated.
"""

from pathlib import Path

import jax
import numpy as np
import optax
from calibration import read, scores, spread
from shared import once, options

import meanfield as mf
from meanfield import plots
from meanfield.data import shift_images
from meanfield.ensemble.networks import mlp
from meanfield.files import atomic_path
from meanfield.plots.style import curve_style
from meanfield.prediction.uncertainty import decompose_classes

WIDTHS, BATCH, MEMBERS, DRAWS = (784, 300, 100, 10), 250, 5, 32
POINT_STEP_SIZE = 1.5e-3
PRIOR = mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale=1.0)
STEP_SIZES, TEMPERATURES = {False: 2e-3, True: 1.5e-3}, {False: 0.1, True: 0.02}
# Original images are soon memorized, moved ones never.
MOST_ORDINARY, ORDINARY_PART = 10, 0.5
BUDGETS = (14, 20, 37, 65)  # in epochs of the one network
SEEDS = (0, 1, 2)
FIELD, ONE, FIVE, MOVED = "mean field", "one network", "five networks", ", moved"
METHODS = tuple(name + end for end in ("", MOVED) for name in (FIELD, ONE, FIVE))
OUT = "runs/nll_per_second"


class Trainer:
    """Trains on one data set, and a network that two methods share only once.

    The five networks of seed s have the seeds s … s + 4.
    """

    def __init__(self, data, widths, shape, x, folder: Path):
        self.data, self.widths, self.shape = data, widths, shape
        self.x, self.folder = x, folder

    def learn(self, start, epochs, key, step_size, moved=False, **settings):
        """The trained ensemble, and the seconds of its epochs."""
        result = mf.fit(
            start,
            self.data,
            key=key,
            epochs=epochs,
            batch_size=BATCH,
            optimizer=optax.adam(step_size),
            augment=shift_images(self.shape, 1) if moved else None,
            progress=False,
            **{"prior": None, **settings},
        )
        return result.ensemble, result.history["seconds"]

    def falling(self, step_size: float, epochs: int):
        """A step size that falls along a cosine to 0 at the last epoch."""
        return optax.cosine_decay_schedule(
            step_size, epochs * (len(self.data[0]) // BATCH)
        )

    def start(self, key) -> mf.Ensemble:
        """An ordinary network before learning."""
        return mf.Ensemble.from_points(mlp(self.widths, key=key))

    def network(self, epochs: int, seed: int, moved: bool):
        """An ordinary network, trained by back-propagation."""
        key, step_size = jax.random.key(seed), self.falling(POINT_STEP_SIZE, epochs)
        return self.learn(self.start(key), epochs, key, step_size, moved)

    def mean_field(self, point_epochs: int, epochs: int, seed: int, moved: bool):
        """An ensemble that starts from an ordinary network, which is trained first."""
        first, second = jax.random.split(jax.random.key(seed))
        points, _ = self.learn(
            self.start(first), point_epochs, first, POINT_STEP_SIZE, moved
        )
        return self.learn(
            mf.Ensemble.from_model(points.mean_network()),
            epochs,
            second,
            self.falling(STEP_SIZES[moved], epochs),
            moved,
            prior=PRIOR,
            temperature=TEMPERATURES[moved],
        )

    def probabilities(self, epochs: int, seed: int, moved: bool) -> np.ndarray:
        """Class probabilities of the scored images by one network."""
        path = self.folder / f"network-{epochs}-{'moved-' * moved}{seed}.npy"
        if not path.exists():
            network, _ = self.network(epochs, seed, moved)
            said = mf.predict(network, self.x, num_samples=1, key=jax.random.key(0))
            with atomic_path(path) as temporary, open(temporary, "wb") as file:
                np.save(file, said.mean)
        return np.load(path)

    def predict(self, method: str, epochs: int, point_epochs: int, seed: int):
        """Class probabilities of the scored images by one method."""
        moved = method.endswith(MOVED)
        if method.startswith(FIELD):
            ensemble, _ = self.mean_field(point_epochs, epochs, seed, moved)
            key = jax.random.key(seed)
            return mf.predict(ensemble, self.x, num_samples=DRAWS, key=key)
        members = MEMBERS if method.startswith(FIVE) else 1
        return decompose_classes(
            self.probabilities(epochs, seed + i, moved) for i in range(members)
        )

    def epoch_seconds(self) -> dict[str, float]:
        """Median seconds per epoch of each method, timed alternately."""
        ways = {}
        for end in ("", MOVED):
            ways[ONE + end] = lambda moved=bool(end): self.network(4, 0, moved)
            ways[FIELD + end] = lambda moved=bool(end): self.mean_field(1, 4, 0, moved)
        took = {name: [] for name in ways}
        for _ in range(2):
            for name, way in ways.items():
                took[name] += way()[1][1:]
        cost = {name: float(np.median(seconds)) for name, seconds in took.items()}
        many = {FIVE + end: MEMBERS * cost[ONE + end] for end in ("", MOVED)}
        return cost | many


def shares(method: str, seconds: float, cost: dict[str, float]) -> tuple[int, int]:
    """Epochs of ordinary training and of the method itself that fill a budget."""
    before = 0
    if method.startswith(FIELD):
        ordinary = cost[method.replace(FIELD, ONE)]
        before = round(ORDINARY_PART * seconds / ordinary)
        if not method.endswith(MOVED):
            before = min(before, MOST_ORDINARY)
        seconds -= before * ordinary
    return before, max(1, round(seconds / cost[method]))


def main() -> None:
    """Run missing cases; print the table, save the figure."""
    parser = options(__doc__, out=OUT, seeds=len(SEEDS))
    parser.add_argument("--select", action="store_true", help="hold out the last sixth")
    args = parser.parse_args()
    seeds = SEEDS[: 1 if args.select else args.seeds]
    name, widths, budgets = "fashion_mnist", WIDTHS, BUDGETS
    if args.quick:
        name, widths, budgets = "digits", (64, 20, 12, 10), (8, 15)
    folder = args.out / ("quick" if args.quick else "select" if args.select else "test")
    data, (x, y), shape = read(name, args.select, args.data_dir)
    trainer = Trainer(data, widths, shape, x, folder)
    cost = once(folder / "epoch.json", trainer.epoch_seconds)
    print(f"{'method':<22}{'budget s':>10}{'epochs':>9}{'NLL':>17}{'accuracy':>19}")
    axis = plots.new_axis()
    for number, method in enumerate(METHODS):
        curve = []
        for budget in budgets:
            seconds = budget * cost[ONE]
            before, epochs = shares(method, seconds, cost)
            rows = [
                once(
                    folder
                    / f"{method.replace(' ', '-')}-{before}-{epochs}-{seed}.json",
                    lambda seed=seed, epochs=epochs, before=before, method=method: (
                        scores([trainer.predict(method, epochs, before, seed)], y)
                    ),
                )
                for seed in seeds
            ]
            print(
                f"{method:<22}{seconds:>10.1f}{f'{before}+{epochs}':>9}"
                f"{spread(rows, 'nll')}{spread(rows, 'accuracy')}",
                flush=True,
            )
            curve.append((seconds, np.mean([row["nll"] for row in rows])))
        axis.plot(*zip(*curve, strict=True), label=method, **curve_style(number))
    axis.set_xlabel("seconds of training")
    axis.set_ylabel("test NLL, nats per image")
    axis.legend(frameon=False)
    plots.save(axis, folder / "nll_per_second.png")
    print(f"numbers and figure in {folder}")


if __name__ == "__main__":
    main()
