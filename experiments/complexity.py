"""Entropic complexity of trained networks, by layer, by depth, and during training.

    python experiments/complexity.py --data-dir DIR --data digits [--quick]

Trains plain networks (Equinox, Adam) of 1, 2 and 4 hidden layers of 128 units on
digits, MNIST and Fashion-MNIST, three seeds each, and measures at log-spaced steps the
marginal complexity and the effective dimension of every layer on 2,000 of the training
examples (1,438 for digits). Prints

1. complexity, joint entropy and effective dimension by layer, before and after;
2. the same for training on shuffled labels, the null model;
3. verdicts on power laws along training.

Writes complexity.png and complexity.json to OUT. The definitions are this project's
own, after the idea of arXiv:2006.04791: so these numbers should not be compared with
those of the paper.
"""

import json
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from shared import options

from meanfield.data import Dataset, load
from meanfield.files import atomic_path, write_text
from meanfield.physics.complexity.measure import NetworkComplexity, measure_complexity
from meanfield.physics.complexity.recording import layer_activations
from meanfield.physics.complexity.scaling import ScalingFit, fit_scaling
from meanfield.physics.complexity.trace import ComplexityTrace

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402  (after the backend is chosen)

DATA = ("digits", "mnist", "fashion_mnist")
DEPTHS = (1, 2, 4)
WIDTH = 128
SEEDS = 3
STEPS = 3000
BATCH = 128
LEARNING_RATE = 1e-3
TRAIN = 10_000  # examples to learn from, at most
MEASURE = 2_000  # examples to measure on: more than 10 per unit
SHUFFLED_DEPTH = 2
TERMS = 8
# Range of the fits, chosen in advance: after the first few steps, to the end.
FIRST, LAST = 10, STEPS


def train(data: Dataset, depth: int, labels: np.ndarray, marks: np.ndarray, key):
    """Networks of all seeds at the marked steps: a list of stacked models."""
    x, y = jnp.asarray(data.x_train[:TRAIN]), jnp.asarray(labels[:TRAIN])
    optimizer = optax.adam(LEARNING_RATE)

    def start(seed_key):
        return eqx.nn.MLP(
            data.num_features, data.num_classes or 1, WIDTH, depth, key=seed_key
        )

    models = eqx.filter_vmap(start)(jax.random.split(key, SEEDS))
    params, static = eqx.partition(models, eqx.is_array)
    state = jax.vmap(optimizer.init)(params)

    def loss(one, batch):
        logits = jax.vmap(eqx.combine(one, static))(x[batch])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()

    @jax.jit
    def advance(params, state, first, last):
        def step(number, carried):
            params, state = carried
            keys = jax.random.split(jax.random.fold_in(key, number), SEEDS)
            batch = jax.vmap(lambda k: jax.random.randint(k, (BATCH,), 0, len(x)))(keys)
            gradients = jax.vmap(jax.grad(loss))(params, batch)
            updates, state = jax.vmap(optimizer.update)(gradients, state)
            return optax.apply_updates(params, updates), state

        return jax.lax.fori_loop(first, last, step, (params, state))

    snapshots, done = [], 0
    for mark in marks:
        params, state = advance(params, state, done, int(mark))
        done = int(mark)
        snapshots.append(eqx.combine(params, static))
    return snapshots


def pick(models, seed: int):
    """The network of one seed."""
    return jax.tree.map(lambda leaf: leaf[seed] if eqx.is_array(leaf) else leaf, models)


def follow(snapshots, marks, x, key, name: str) -> list[ComplexityTrace]:
    """One trace of measurements for each seed."""
    traces = []
    for seed in range(SEEDS):
        trace = ComplexityTrace(x, key=key, data=name)
        for mark, models in zip(marks, snapshots, strict=True):
            trace.add(int(mark), layer_activations(pick(models, seed), x))
        traces.append(trace)
    return traces


def curves(traces: list[ComplexityTrace], layer: str, number: str) -> np.ndarray:
    """(seeds, marks) of one number of one layer."""
    return np.array([trace.curve(layer, number) for trace in traces], dtype=float)


def accuracy(model, data: Dataset) -> float:
    """Fraction of test examples that are classified correctly."""
    logits = jax.vmap(model)(jnp.asarray(data.x_test))
    return float((np.asarray(logits).argmax(axis=1) == data.y_test).mean())


def print_layers(
    title: str, traces: list[ComplexityTrace], joints: NetworkComplexity | None
) -> None:
    """Print a row for each layer: means over seeds before and after training."""
    print(f"\n{title}")
    print(
        f"{'layer':10} {'units':>5} {'bits a unit':>14} {'joint bits':>20} "
        f"{'TC':>6} {'D before':>9} {'after':>6} {'null':>6} {'PR':>6} {'dead':>6}"
    )
    for index, layer in enumerate(traces[0].measurements[-1].layers):
        name, units = layer.layer, layer.num_units
        bits = curves(traces, name, "marginal").mean(axis=0) / units
        size = curves(traces, name, "dimension").mean(axis=0)
        ratio = curves(traces, name, "participation").mean(axis=0)
        dead = curves(traces, name, "always_off").mean(axis=0)
        joint = joints.layers[index].joint if joints else None
        text, shared = "-", "-"
        if joint:
            low, high = joint.interval
            text = f"{joint.bits:.1f} [{low:.1f}, {high:.1f}]"
            shared = f"{joint.total_correlation:.1f}"
        null = layer.dimension.dimension_null if layer.dimension else float("nan")
        print(
            f"{name:10} {units:5d} {bits[0]:6.3f} → {bits[-1]:.3f} {text:>20} "
            f"{shared:>6} {size[0]:9.1f} {size[-1]:6.1f} {null:6.1f} {ratio[-1]:6.1f} "
            f"{dead[-1]:6.1f}"
        )


def power_laws(traces, marks, depth: int, key) -> dict[str, ScalingFit]:
    """Scaling of the bits of all hidden layers, and of the last one's dimension."""
    hidden = [f"layers/{index}" for index in range(depth)]
    bits = sum(curves(traces, layer, "marginal") for layer in hidden)
    followed = {
        "bits": bits,
        "dimension": curves(traces, hidden[-1], "dimension"),
    }
    steps = marks[1:]  # step 0 has no logarithm
    return {
        name: fit_scaling(
            steps, values[:, 1:], key=key, t_min=FIRST, t_max=LAST, num_bootstrap=200
        )
        for name, values in followed.items()
    }


def draw(results: dict, names: list[str], marks: np.ndarray, path: Path) -> None:
    """Curves of bits per unit and of D during training; true and shuffled labels."""
    figure, axes = plt.subplots(
        2,
        len(names),
        figsize=(2 + 3.5 * len(names), 6.5),
        sharex=True,
        sharey="row",
        squeeze=False,
    )
    for column, name in enumerate(names):
        for depth in DEPTHS:
            for kind, style in (("true", "-"), ("shuffled", ":")):
                traces = results.get((name, depth, kind))
                if traces is None:
                    continue
                for row, number in enumerate(("marginal", "dimension")):
                    for index in range(depth):
                        values = curves(traces, f"layers/{index}", number)
                        values = values / WIDTH if row == 0 else values
                        shade = plt.get_cmap("viridis")((index + 0.5) / max(DEPTHS))
                        axes[row, column].plot(
                            np.maximum(marks, 0.7),
                            values.mean(axis=0),
                            style,
                            color=shade,
                            linewidth=0.8 + 0.4 * depth,
                            alpha=0.85,
                        )
        axes[0, column].set_title(name)
        axes[1, column].set_xlabel("training step (leftmost: untrained)")
        axes[1, column].set_yscale("log")
        axes[0, column].set_xscale("log")
    axes[0, 0].set_ylabel("marginal complexity, bits a unit")
    axes[1, 0].set_ylabel("effective dimension D")
    handles = [
        plt.Line2D([], [], color=plt.get_cmap("viridis")((i + 0.5) / max(DEPTHS)))
        for i in range(max(DEPTHS))
    ]
    texts = [f"hidden layer {i + 1}" for i in range(max(DEPTHS))]
    handles.append(plt.Line2D([], [], color="grey", linestyle=":"))
    texts.append("shuffled labels")
    for depth in DEPTHS:
        handles.append(plt.Line2D([], [], color="grey", linewidth=0.8 + 0.4 * depth))
        texts.append(f"depth {depth}")
    figure.legend(handles, texts, loc="lower center", ncols=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)


def main() -> None:
    """Run everything and write the figure and the numbers."""
    parser = options(__doc__, out="runs/complexity")
    parser.add_argument("--data", nargs="+", choices=DATA, default=DATA)
    arguments = parser.parse_args()
    started = time.process_time()
    steps, num_marks = (200, 24) if arguments.quick else (STEPS, 20)
    marks = np.unique(np.r_[0, np.geomspace(1, steps, num_marks).round()]).astype(int)
    results, saved, verdicts = {}, {}, []
    for name in DATA[:1] if arguments.quick else arguments.data:
        data = load(name, data_dir=arguments.data_dir)
        x = data.x_train[:MEASURE]
        cases = [(depth, "true") for depth in DEPTHS] + [(SHUFFLED_DEPTH, "shuffled")]
        for depth, kind in cases[:1] if arguments.quick else cases:
            key = jax.random.key(depth)
            labels = data.y_train
            if kind == "shuffled":
                labels = np.random.default_rng(0).permutation(labels)
            snapshots = train(data, depth, labels, marks, key)
            traces = follow(snapshots, marks, x, key, name)
            results[name, depth, kind] = traces
            final = [pick(snapshots[-1], seed) for seed in range(SEEDS)]
            score = np.mean([accuracy(model, data) for model in final])
            joints = None
            if kind == "true":
                joints = measure_complexity(
                    layer_activations(final[0], x),
                    key=key,
                    data=name,
                    num_terms=TERMS,
                    num_permutations=0,
                )
            title = f"{name}, {depth} hidden layers, {kind} labels, test {score:.2%}"
            print_layers(title, traces, joints)
            fits = power_laws(traces, marks, depth, jax.random.key(0))
            verdicts += [(name, depth, kind, what, fit) for what, fit in fits.items()]
            saved[f"{name}/{depth}/{kind}"] = {
                "accuracy": float(score),
                "curves": [trace.to_dict() for trace in traces],
                "joint": joints.to_dict() if joints else None,
                "laws": {what: fit.to_dict() for what, fit in fits.items()},
            }
    print(f"\npower laws along training, steps {FIRST} to {LAST}, {SEEDS} seeds")
    for name, depth, kind, what, fit in verdicts:
        low, high = fit.interval
        print(
            f"{name:14} {depth} {kind:8} {what:9} exponent {fit.exponent:+.3f} "
            f"[{low:+.3f}, {high:+.3f}]  {fit.verdict:12} {fit.reason}"
        )
    draw(
        results,
        list(dict.fromkeys(name for name, *_ in results)),
        marks,
        arguments.out / "complexity.png",
    )
    write_text(arguments.out / "complexity.json", json.dumps(saved, indent=1))
    print(f"\nwrote {arguments.out}/complexity.png and complexity.json")
    print(f"{time.process_time() - started:.0f} s of CPU")


if __name__ == "__main__":
    main()
