"""Permuted MNIST, five tasks in a row: the posterior of one as the prior of the next.

Every task has its own permutation of the pixels. The network (784-100-100-10, one
output layer for all tasks) learns one task after another, and is not trained on an
earlier one again.

    posterior as prior   KL to the posterior of the previous tasks: weights that they
                         determined hardly change, the other weights are free
    fine-tuning          the same start, data, steps and noise, without a KL term

The table has the test accuracy averaged over the tasks so far, and that of each task
after the last one, with mean and standard error over seeds.

With --noise weights, weights are drawn once per batch, in training and when scored.

    python experiments/continual.py --data-dir DIR [--quick] [--noise weights]
"""

import jax
import matplotlib.pyplot as plt
import numpy as np
from shared import mean_and_error, options, plus_minus

import meanfield as mf
from meanfield import data, plots
from meanfield.ensemble.networks import mlp
from meanfield.learning.optimizers import steady_adam

WIDTHS, TASKS, SEEDS = (784, 100, 100, 10), 5, 3
IMAGES, EPOCHS, BATCH, STEP_SIZE = 10_000, 8, 128, 2e-3
FIRST_PRIOR = mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale="learned")
TEMPERATURE, SAMPLES = 1.0, 10
ARMS = ("posterior as prior", "fine-tuning")


def run(images, arm: str, seed: int, settings) -> np.ndarray:
    """Accuracies [after task, on task]; NaN for tasks not yet learned."""
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(images.x_train))[: settings.images]
    judged = images.x_test[: settings.images]
    orders = [np.arange(784), *(rng.permutation(784) for _ in range(TASKS - 1))]
    key = jax.random.key(seed)
    # Biases are random too, because point values could change freely.
    ensemble = mf.Ensemble.from_model(
        mlp(WIDTHS, key=key),
        key=key,
        where=lambda name, array: True,
        noise=settings.noise,
    )
    prior, found = FIRST_PRIOR, np.full((TASKS, TASKS), np.nan)
    for task, order in enumerate(orders):
        result = mf.fit(
            ensemble,
            (images.x_train[rows][:, order], images.y_train[rows]),
            key=jax.random.fold_in(key, task),
            epochs=settings.epochs,
            batch_size=BATCH,
            optimizer=steady_adam(STEP_SIZE),
            prior=prior if arm == ARMS[0] else None,
            temperature=settings.temperature,
            parametrization=mf.learning.Unconstrained(),
            progress=False,
        )
        ensemble = result.ensemble
        prior = mf.learning.posterior_as_prior(ensemble.weights())
        for earlier in range(task + 1):
            metrics = mf.evaluate(
                ensemble,
                (judged[:, orders[earlier]], images.y_test[: settings.images]),
                num_samples=SAMPLES,
                key=key,
            )
            found[task, earlier] = metrics.accuracy
    return found


def figure(curves: dict[str, np.ndarray]):
    """Average accuracy over the tasks learned so far, against their number."""
    drawing, axes = plt.subplots(figsize=(5.5, 4))
    for arm, values in curves.items():
        mean, error = np.transpose([mean_and_error(column) for column in values.T])
        axes.errorbar(np.arange(1, TASKS + 1), mean, error, marker="o", label=arm)
    axes.set(xlabel="tasks learned", ylabel="test accuracy over these tasks")
    axes.set_xticks(range(1, TASKS + 1))
    axes.legend()
    return axes


def main() -> None:
    """Train both arms on every seed; print the table and save the figure."""
    parser = options(__doc__, out="runs/continual", seeds=SEEDS)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--temperature", type=float, default=TEMPERATURE)
    parser.add_argument(
        "--noise", choices=("preactivations", "weights"), default="preactivations"
    )
    settings = parser.parse_args()
    if settings.quick:
        settings.seeds, settings.images, settings.epochs = 1, 500, 1
    images = data.load("mnist", data_dir=settings.data_dir)
    curves = {}
    print(f"{'arm':<20}{'seed':>5}  average after task 1 … {TASKS} | each at the end")
    for arm in ARMS:
        found = []
        for seed in range(settings.seeds):
            accuracies = run(images, arm, seed, settings)
            found.append(accuracies)
            averages = np.nanmean(accuracies, axis=1)
            numbers = [
                " ".join(f"{a:.3f}" for a in x) for x in (averages, found[-1][-1])
            ]
            print(f"{arm:<20}{seed:>5}  {numbers[0]} | {numbers[1]}", flush=True)
        curves[arm] = np.nanmean(np.array(found), axis=2)
        last = curves[arm][:, -1]
        print(f"{arm:<20} mean  {plus_minus(last)} after {TASKS} tasks")
    picture = settings.out / "continual.png"
    plots.save(figure(curves), picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
