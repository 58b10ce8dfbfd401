"""MNIST, 60,000 images, 784-100-100-10: ensemble against ordinary back-propagation.

Both start from slab means or weights of the same critical scale and have the same
budget: 30 epochs of Adam at batch 128, with the same initial step size, which falls
along a cosine. The table has the test accuracy over seeds of the network of posterior
means, of the average of ten drawn sub-networks, of one sub-network, and of the point
network.

    python experiments/benchmarks/mnist_accuracy.py --data-dir DIR

With --compute bfloat16 it compares, seed by seed, ensembles whose networks compute in
that type with ensembles that compute in float32, without point networks.
"""

import argparse
import os
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from epoch_time import point_epoch

import meanfield as mf
from meanfield import data
from meanfield.ensemble.initial import critical
from meanfield.ensemble.networks import mlp
from meanfield.learning.optimizers import STEP_SIZE, cosine_adam

WIDTHS = (784, 100, 100, 10)
EPOCHS, BATCH, SEEDS, SUBNETWORKS = 30, 128, (0, 1, 2), 10
POINT_STEP_SIZES = (STEP_SIZE, STEP_SIZE / 2)


def accuracy(probs, labels) -> float:
    """Fraction of the examples whose label has the largest probability."""
    return float((np.asarray(probs).argmax(-1) == labels).mean())


def train_ensemble(images, seed, epochs=EPOCHS, compute_dtype=None):
    """One ensemble and its seconds."""
    key = jax.random.key(seed)
    ensemble = mf.Ensemble.from_model(mlp(WIDTHS, key=key), key=key)
    start = time.perf_counter()
    result = mf.fit(
        ensemble,
        (images.x_train, images.y_train),
        key=key,
        epochs=epochs,
        batch_size=BATCH,
        compute_dtype=compute_dtype,
        progress=False,
        prior=None,
    )
    return result.ensemble, time.perf_counter() - start


def train_point(images, seed, step_size, epochs):
    """One point network, by the same loop."""
    key = jax.random.key(seed)
    start = mf.Ensemble.from_model(
        mlp(WIDTHS, key=key), key=key, initial=critical(slab_share=0.0)
    )
    model = start.mean_network()
    steps = epochs * (len(images.x_train) // BATCH)
    epoch, state = point_epoch(model, cosine_adam(step_size, steps))
    x, y = jnp.asarray(images.x_train), jnp.asarray(images.y_train)
    for number in range(epochs):
        state, _ = epoch(state, x, y, jax.random.fold_in(key, number))
    return eqx.combine(state[0], model)


def compare_types(images, dtype: str, seeds: int, epochs: int) -> None:
    """Accuracy of the average of ten noise draws, computed in both types."""
    differences = []
    for seed in range(seeds):
        right = {}
        for name in ("float32", dtype):
            ensemble, _ = train_ensemble(images, seed, epochs, name)
            score = mf.evaluate(
                ensemble,
                (images.x_test, images.y_test),
                num_samples=SUBNETWORKS,
                key=jax.random.key(seed + 100),
            )
            right[name] = 100 * score.accuracy
        differences.append(right[dtype] - right["float32"])
        print(f"seed {seed}", right, flush=True)
    print(f"{dtype} less float32, points: {np.mean(differences):+.3f}", differences)


def main() -> None:
    """Print a row for each seed, then mean and standard error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=os.environ.get("MEANFIELD_DATA"))
    parser.add_argument("--compute", choices=("bfloat16", "float16"))
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="of --compute")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of --compute")
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    args = parser.parse_args()
    epochs, seeds = (1, SEEDS[:2]) if args.quick else (EPOCHS, SEEDS)
    images = data.load("mnist", data_dir=args.data_dir)
    if args.compute:
        compare_types(images, args.compute, args.seeds, args.epochs)
        return
    x, y = jnp.asarray(images.x_test), images.y_test
    names = ["mean network", f"average of {SUBNETWORKS}", "one sub-network"]
    names += [f"point, step {size:g}" for size in POINT_STEP_SIZES] + ["seconds"]
    print("seed  " + "  ".join(f"{name:>16}" for name in names))
    rows = []
    for seed in seeds:
        ensemble, seconds = train_ensemble(images, seed, epochs)
        mean = jax.vmap(ensemble.mean_network())(x)
        keys = jax.random.split(jax.random.key(seed + 100), SUBNETWORKS)
        drawn = [jax.nn.softmax(jax.vmap(ensemble.sample(key))(x)) for key in keys]
        row = [accuracy(p, y) for p in (mean, sum(drawn), drawn[0])]
        row += [
            accuracy(jax.vmap(train_point(images, seed, size, epochs))(x), y)
            for size in POINT_STEP_SIZES
        ]
        rows.append([*row, seconds])
        print(f"{seed:<6}" + "  ".join(f"{value:>16.4f}" for value in rows[-1]))
    table = np.array(rows)
    error = table.std(0, ddof=1) / np.sqrt(len(rows))
    print("mean  " + "  ".join(f"{value:>16.4f}" for value in table.mean(0)))
    print("s.e.  " + "  ".join(f"{value:>16.4f}" for value in error))


if __name__ == "__main__":
    main()
