"""MNIST, 784-100-100-10: the predictive distribution of one pass against 100 samples.

In the moments reading, mean and variance are propagated through the network once; 100
draws of its last layer give the class probabilities. Accuracy, NLL and the time for the
10,000 test images are compared with those of 100 noise draws through the whole network.
Both alternate in one process.

    python experiments/benchmarks/one_pass.py --data-dir DIR
"""

import argparse
import os
import time

import jax
import numpy as np

import meanfield as mf
from meanfield import data
from meanfield.ensemble.networks import mlp

WIDTHS, EPOCHS, BATCH, SEEDS = (784, 100, 100, 10), 8, 128, (0, 1, 2)
SAMPLES, LAST_LAYER_DRAWS, REPEATS = 100, 100, 3
ARMS = {
    "no prior": {"prior": None},
    "prior, T = 1": {
        "prior": mf.SpikeSlabPrior(inclusion_prob=0.1, slab_scale="learned"),
        "temperature": 1.0,
    },
}


def main() -> None:
    """Print a row for every prior and seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=os.environ.get("MEANFIELD_DATA"))
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    settings = parser.parse_args()
    epochs = 1 if settings.quick else EPOCHS
    seeds = SEEDS[: 1 if settings.quick else settings.seeds]
    images = data.load("mnist", data_dir=settings.data_dir)
    test = (images.x_test, images.y_test)
    print(
        f"{'':<14}{'seed':>5}{'acc. 100':>10}{'one pass':>10}{'points':>8}"
        f"{'NLL 100':>10}{'one pass':>10}{'change':>9}{'time ratio':>12}"
    )
    for name, arm in ARMS.items():
        for seed in seeds:
            key = jax.random.key(seed)
            ensemble = mf.Ensemble.from_model(mlp(WIDTHS, key=key), key=key)
            ensemble = mf.fit(
                ensemble,
                (images.x_train, images.y_train),
                key=key,
                epochs=epochs,
                batch_size=BATCH,
                progress=False,
                **arm,
            ).ensemble
            ways = {
                "sampled": {"num_samples": SAMPLES},
                "moments": {"num_samples": LAST_LAYER_DRAWS, "reading": "moments"},
            }
            seconds, scores = {way: [] for way in ways}, {}
            for _ in range(REPEATS):
                for way, options in ways.items():
                    start = time.perf_counter()
                    scores[way] = mf.evaluate(ensemble, test, key=key, **options)
                    seconds[way].append(time.perf_counter() - start)
            many, one = scores["sampled"], scores["moments"]
            ratio = np.min(seconds["sampled"]) / np.min(seconds["moments"])
            points = 100 * (one.accuracy - many.accuracy)
            change = one.nll / many.nll - 1
            print(
                f"{name:<14}{seed:>5}{many.accuracy:>10.4f}{one.accuracy:>10.4f}"
                f"{points:>+8.2f}{many.nll:>10.4f}{one.nll:>10.4f}{change:>+9.1%}"
                f"{ratio:>12.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
