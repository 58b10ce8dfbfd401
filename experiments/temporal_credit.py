"""Temporal credit: a recurrent network reads MNIST row by row.

    python experiments/temporal_credit.py --data-dir DIR
    python experiments/temporal_credit.py --data-dir DIR --noise weights
    python experiments/temporal_credit.py --quick              # digits, small

    h(t) = ReLU(W_in x(t) + W_rec h(t − 1) + b),  t = 1 … 28;  logits = W_out h(28) + c

The network is an ordinary function with a `lax.scan`. The ensemble draws new noise in
every step of the scan, ε(t) for each neuron and example, with variance Δ_in² + Δ_rec²;
its gradient through time is generalized back-propagation through time. With --noise
weights, the weights are drawn once per batch, and all steps share them, as in a shipped
sub-network. The recurrent slab means start at the identity, as published. The baseline
is back-propagation through time of the same network with point weights.

Source: Zou, Li & Huang, Ensemble perspective for understanding temporal credit
assignment, arXiv:2102.03740. There the neurons are leaky and training is longer.
"""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from shared import label_table, options

import meanfield as mf
from meanfield import plots
from meanfield.credit.labels import mean_entropy
from meanfield.data import load
from meanfield.files import write_text

SEED = 0
WIDTH = 100
EPOCHS = 10
BATCH_SIZE = 128
STEP_SIZE = 3e-3
LARGEST_NORM = 1.0
# The initial Ξ, in units of 1/fan-in, and the steps of Ξ and π relative to those of the
# means. All times share a drawn recurrent matrix, and multiply its noise 28 times: with
# steps as large as those of the means, Ξ grows so fast that the activations explode.
SLAB_SHARE = {"preactivations": 0.01, "weights": 0.001}
SPREAD_STEPS = {
    "preactivations": {},
    "weights": {"slab_var": 1e-4, "spike_prob": 0.01},
}
PERTURBED_EXAMPLES = 5000
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)


def network(params, x):
    """Logits for images (batch, time, features), read one row after the other."""

    def step(state, drive):
        return jax.nn.relu(drive + state @ params["rec"]), None

    # The input term depends on no state, so one product serves all times.
    drive = jnp.swapaxes(x, 0, 1) @ params["in"] + params["bias"]
    state, _ = jax.lax.scan(step, jnp.zeros_like(drive[0]), drive)
    return state @ params["out"] + params["out_bias"]


def start(features: int, width: int, classes: int, key, noise: str, ordinary: bool):
    """The initial network, with the identity as recurrent slab means."""
    in_key, out_key = jax.random.split(key)
    params = {
        "in": jax.random.normal(in_key, (features, width)) / features**0.5,
        "rec": jnp.eye(width),
        "out": jax.random.normal(out_key, (width, classes)) / width**0.5,
        "bias": jnp.zeros(width),
        "out_bias": jnp.zeros(classes),
    }

    def initial(name, value, fan_in, key):
        var = jnp.full_like(value, 0.0 if ordinary else SLAB_SHARE[noise] / fan_in)
        return mf.SpikeSlab(jnp.zeros_like(value), value, var)

    # With point weights, only the readout becomes random, with Ξ = 0.
    where = (lambda name, leaf: name == "out") if ordinary else None
    return mf.Ensemble.from_model(
        (network, params), initial=initial, where=where, noise=noise
    )


def optimizer(steps: int, noise: str, ordinary: bool) -> optax.GradientTransformation:
    """Adam with clipped gradient norm; point weights hold π and Ξ fixed."""

    def held(tree):
        def choose(path, leaf):
            return getattr(path[-1], "name", "") in ("spike_prob", "slab_var")

        return jax.tree_util.tree_map_with_path(choose, tree)

    return optax.chain(
        optax.clip_by_global_norm(LARGEST_NORM),
        optax.adam(optax.cosine_decay_schedule(STEP_SIZE, steps)),
        mf.learning.scale_steps(SPREAD_STEPS[noise]),
        optax.masked(optax.set_to_zero(), held) if ordinary else optax.identity(),
    )


def train(
    data, x, width: int, epochs: int, noise: str, ordinary: bool = False
) -> mf.FitResult:
    """One run."""
    start_key, fit_key = jax.random.split(jax.random.key(SEED))
    classes = len(data.class_names)
    return mf.fit(
        start(x.shape[-1], width, classes, start_key, noise, ordinary),
        (x, data.y_train),
        key=fit_key,
        epochs=epochs,
        batch_size=BATCH_SIZE,
        optimizer=optimizer(epochs * (len(x) // BATCH_SIZE), noise, ordinary),
        parametrization=mf.learning.Projected(),
        prior=None,
    )


@jax.jit
def choices(params, x):
    """The likeliest class according to a network of point weights."""
    return network(params, x).argmax(1)


def main() -> None:
    """Train, label the recurrent weights, perturb them; print tables, save figures."""
    parser = options(__doc__, out="runs/temporal_credit")
    noises = ("preactivations", "weights")
    parser.add_argument("--noise", choices=noises, default=noises[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()
    data = load("digits") if args.quick else load("mnist", data_dir=args.data_dir)
    width, epochs = (32, 30) if args.quick else (WIDTH, args.epochs)
    rows = data.image_shape[:2]
    x, x_test = (array.reshape(-1, *rows) for array in (data.x_train, data.x_test))

    began = time.perf_counter()
    result = train(data, x, width, epochs, args.noise)
    seconds = time.perf_counter() - began
    point = train(data, x, width, epochs, args.noise, ordinary=True).ensemble
    ensemble = result.ensemble

    def accuracy(model):
        return float((np.asarray(choices(model[1], x_test)) == data.y_test).mean())

    keys = jax.random.split(jax.random.key(SEED + 1), 10)
    metrics = mf.evaluate(
        ensemble, (x_test, data.y_test), num_samples=10, key=jax.random.key(SEED + 2)
    )
    scores = {
        "mean network": accuracy(ensemble.mean_network()),
        "average of 10 noise draws": metrics.accuracy,
        "one sub-network": np.mean([accuracy(ensemble.sample(key)) for key in keys]),
        "point weights (BPTT)": accuracy(point.mean_network()),
    }
    print(f"\ntest accuracy after {epochs} epochs ({seconds:.0f} s for the ensemble)")
    for name, value in scores.items():
        print(f"{name:28s} {100 * value:6.2f} %")

    labels = mf.label_connections(
        ensemble, tolerance=0.0, data=x[:10_000], key=jax.random.key(SEED + 3)
    )
    entropy = mean_entropy(ensemble, labels.never_learned)
    print(f"\n{label_table(labels, entropy)}")
    perturbed = mf.credit.perturb_connections(
        ensemble,
        labels,
        (x_test[:PERTURBED_EXAMPLES], data.y_test[:PERTURBED_EXAMPLES]),
        layers=["rec"],
        fractions=FRACTIONS,
        num_samples=5,
        key=jax.random.key(SEED + 4),
    )
    print("\nrecurrent weights changed: test error % by fraction")
    for arm, mean in perturbed.mean.items():
        shown = " ".join(f"{100 * value:6.2f}" for value in mean)
        print(f"{arm:10s} {shown}   {perturbed.num_changed[arm][-1]} changed at 1")

    plots.save(plots.label_fractions(labels.learned_fractions), args.out / "labels.png")
    plots.save(plots.landscape(ensemble.weights()["rec"]), args.out / "landscape.png")
    plots.save(plots.perturbation_curves(perturbed), args.out / "perturbation.png")
    plots.save(plots.training_history(result.history), args.out / "history.png")
    numbers = {
        "accuracy": scores,
        "labels": labels.learned_fractions,
        "entropy": entropy,
        "error": {arm: mean.tolist() for arm, mean in perturbed.mean.items()},
    }
    write_text(args.out / "results.json", json.dumps(numbers, indent=1))
    print(f"\n{time.perf_counter() - began:.0f} s; figures and numbers in {args.out}")


if __name__ == "__main__":
    main()
