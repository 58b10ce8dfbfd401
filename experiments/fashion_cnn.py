"""A convolutional network in Flax NNX on Fashion-MNIST, unchanged, as an ensemble.

    python experiments/fashion_cnn.py --data-dir DIR
    python experiments/fashion_cnn.py --quick                  # digits, small

The model is an ordinary `nnx.Module`; `Ensemble.from_model` takes it as it is, and a
drawn sub-network is again an `nnx.Module`.
"""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from shared import label_table, options

import meanfield as mf
from meanfield import plots
from meanfield.credit.labels import mean_entropy
from meanfield.data import load
from meanfield.files import write_text

SEED = 0
CHANNELS = (8, 32)
WIDTH = 100
EPOCHS = 12
BATCH_SIZE = 128
STEP_SIZE = 2e-3


class CNN(nnx.Module):
    """Two convolutions of stride 2, then two dense layers.

    Strides instead of pooling need a third of the time on a CPU.
    """

    def __init__(self, size: int, channels, width: int, classes: int, rngs: nnx.Rngs):
        first, second = channels
        self.conv1 = nnx.Conv(1, first, (5, 5), strides=2, rngs=rngs)
        self.conv2 = nnx.Conv(first, second, (3, 3), strides=2, rngs=rngs)
        self.dense = nnx.Linear((size // 4) ** 2 * second, width, rngs=rngs)
        self.out = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x):
        """Logits for images (batch, height, width, 1)."""
        x = nnx.relu(self.conv1(x))
        x = nnx.relu(self.conv2(x))
        x = nnx.relu(self.dense(x.reshape(x.shape[0], -1)))
        return self.out(x)


def accuracy(model: CNN, x, y) -> float:
    """Accuracy of an ordinary network."""
    predict = nnx.jit(lambda model, x: model(x).argmax(1))
    parts = [
        predict(model, jnp.asarray(x[i : i + 2000])) for i in range(0, len(x), 2000)
    ]
    return float((np.concatenate(parts) == y).mean())


def main() -> None:
    """Train, evaluate, label; print tables, save figures."""
    args = options(__doc__, out="runs/fashion_cnn").parse_args()
    name = "digits" if args.quick else "fashion_mnist"
    data = load(name) if args.quick else load(name, data_dir=args.data_dir)
    channels, width, epochs = (CHANNELS, WIDTH, EPOCHS)
    if args.quick:
        channels, width, epochs = (4, 8), 32, 30
    shape = (*data.image_shape[:2], 1)
    x, x_test = (array.reshape(-1, *shape) for array in (data.x_train, data.x_test))
    model_key, fit_key, test_key, draw_key, label_key = jax.random.split(
        jax.random.key(SEED), 5
    )

    model = CNN(shape[0], channels, width, len(data.class_names), nnx.Rngs(SEED))
    ensemble = mf.Ensemble.from_model(model, key=model_key)
    steps = epochs * (len(x) // BATCH_SIZE)
    began = time.perf_counter()
    result = mf.fit(
        ensemble,
        (x, data.y_train),
        key=fit_key,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        optimizer=optax.adam(optax.cosine_decay_schedule(STEP_SIZE, steps)),
        prior=None,
    )
    seconds = time.perf_counter() - began
    ensemble = result.ensemble
    metrics = mf.evaluate(ensemble, (x_test, data.y_test), num_samples=10, key=test_key)
    drawn = [ensemble.sample(key) for key in jax.random.split(draw_key, 3)]
    scores = {
        "mean network": accuracy(ensemble.mean_network(), x_test, data.y_test),
        "average of 10 noise draws": metrics.accuracy,
        "one sub-network (mean of 3)": float(
            np.mean([accuracy(net, x_test, data.y_test) for net in drawn])
        ),
    }
    print(
        f"\n{ensemble.num_weights:,} random weights, {epochs} epochs, {seconds:.0f} s"
    )
    for name, value in scores.items():
        print(f"{name:28s} {100 * value:6.2f} %")
    print(f"NLL {metrics.nll:.4f} nats   ECE {metrics.ece:.4f}")

    labels = mf.label_connections(
        ensemble, tolerance=0.0, data=x[:5000], key=label_key, batch_size=500
    )
    entropy = mean_entropy(ensemble, labels.never_learned)
    print(f"\n{label_table(labels, entropy)}")
    plots.save(plots.label_fractions(labels.learned_fractions), args.out / "labels.png")
    plots.save(plots.training_history(result.history), args.out / "history.png")
    numbers = {"accuracy": scores, **metrics.to_dict(), "entropy": entropy}
    numbers |= {"labels": labels.learned_fractions}
    write_text(args.out / "results.json", json.dumps(numbers, indent=1))
    print(f"\nfigures and numbers in {args.out}")


if __name__ == "__main__":
    main()
