"""What a shipped sub-network saves: bytes, latency, accuracy; and what it keeps.

Four parts, each a table; MNIST where data are needed:

- `small`: 784-300-100-10. A point network and an ensemble whose units share spikes are
  trained with the same budget; one sub-network of ten, chosen on images kept apart,
  and all ten in one ONNX file, against the point network.
- `wide`: the same for one sub-network of 784-1024-1024-10.
- `shrink`: random masked networks of every structure; the largest difference that
  shrinking makes.
- `large`: seconds to export a network of 30 million weights.

Latencies are medians of ONNX Runtime on one thread, the two networks timed in turn.

    python experiments/benchmarks/deployment.py --data-dir DIR --parts small,shrink
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax

import meanfield as mf
from meanfield import data
from meanfield.deploy.evaluate import evaluate, outputs_of
from meanfield.deploy.formats import export, load_predictor, onnx_predictor
from meanfield.deploy.graph import trace_symbolic
from meanfield.deploy.network import as_network
from meanfield.deploy.scores import payoff, score, score_average
from meanfield.deploy.selection import choose_best, measure_diversity
from meanfield.deploy.together import export_together, run_together
from meanfield.learning.optimizers import cosine_adam, scale_steps
from meanfield.learning.parametrization import Unconstrained
from meanfield.networks import mlp

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from deploy_networks import STRUCTURES, batch, mask  # noqa: E402

SMALL, WIDE, LARGE = (784, 300, 100, 10), (784, 1024, 1024, 10), (1000, 5000, 5000, 10)
EPOCHS = {SMALL: 12, WIDE: 4}
BATCH, STEP_SIZE, SEED, NETWORKS, VALIDATION = 128, 2e-3, 0, 10, 5_000
INCLUSION, TEMPERATURE, LOGIT_STEPS = 0.1, 0.3, 10.0
# One in so many of the random networks is run by JAX, the others by NumPy.
RANDOM_NETWORKS, BY_JAX = 1_000, 25
LIKELIHOOD = mf.Categorical()


def train(ensemble, images, epochs, **settings):
    """An ensemble, or a point network, with the budget that all have."""
    optimizer = cosine_adam(STEP_SIZE, epochs * (len(images[0]) // BATCH))
    if ensemble.weights():
        rates = scale_steps({"spike_logit": LOGIT_STEPS})
        optimizer = optax.chain(optimizer, rates)
    start = time.perf_counter()
    result = mf.fit(
        ensemble,
        images,
        key=jax.random.key(SEED),
        epochs=epochs,
        batch_size=BATCH,
        optimizer=optimizer,
        progress=False,
        **settings,
    )
    return result.ensemble, time.perf_counter() - start


def in_turn(predictors, x, rounds=40):
    """Median microseconds of several networks, called one after the other."""
    times = {name: [] for name in predictors}
    for number in range(rounds + 3):
        for name, predict in predictors.items():
            start = time.perf_counter()
            predict(x)
            if number >= 3:
                times[name].append(1e6 * (time.perf_counter() - start))
    return {name: float(np.median(each)) for name, each in times.items()}


def compare_networks(images, widths, folder, save):
    """Train both, ship one sub-network (and ten together), print the table."""
    kept = len(images.x_train) - VALIDATION
    learn = images.x_train[:kept], images.y_train[:kept]
    choose = images.x_train[kept:], images.y_train[kept:]
    x, y = images.x_test, images.y_test
    model, epochs = mlp(widths, key=jax.random.key(SEED)), EPOCHS[widths]
    start = mf.Ensemble.from_model(
        model,
        key=jax.random.key(SEED + 1),
        spikes="unit",
        initial=mf.critical(spike_prob=0.1),
    )
    point, point_seconds = train(
        mf.Ensemble.from_points(start.mean_network()), learn, epochs
    )
    ensemble, seconds = train(
        start,
        learn,
        epochs,
        prior=mf.SpikeSlabPrior(INCLUSION, "learned"),
        temperature=TEMPERATURE,
        parametrization=Unconstrained(),
    )
    dense = point.rebuild(point.params)
    drawn = mf.sample_subnetworks(ensemble, NETWORKS, key=jax.random.key(SEED + 2))
    shrunk = [mf.shrink(one.model, x[:256]) for one in drawn]
    probe = x[:256]
    network = as_network(dense)
    whole = export(dense, folder / "dense.onnx", probe=probe)
    files, members, payoffs = [], [], []
    for number, one in enumerate(shrunk):
        files.append(export(one, folder / f"{number}.onnx", probe=probe))
        predict = onnx_predictor(files[-1].path)
        members.append(predict(x))
        payoffs.append(payoff(score(predict(choose[0]), choose[1], LIKELIHOOD)))
    best = choose_best(payoffs)
    archives = {
        dtype: export(
            shrunk[best],
            folder / f"best-{dtype}.safetensors",
            probe=probe,
            format="safetensors",
            dtype=dtype,
        ).bytes
        for dtype in ("float32", "float16")
    }
    predictors = {
        "dense": onnx_predictor(whole.path),
        "best": onnx_predictor(files[best].path),
    }
    dense_bytes = sum(np.asarray(a).nbytes for a in network.arrays.values())
    scores = {
        "dense": score(predictors["dense"](x), y, LIKELIHOOD),
        "best": score(members[best], y, LIKELIHOOD),
        "ten": score_average(members, y, LIKELIHOOD),
    }
    sizes = "-".join(map(str, widths))
    print(f"\n{sizes}, {epochs} epochs: {point_seconds:.0f} and {seconds:.0f} s")
    print("layers of the sub-network:", [a.weight.shape for a in layers(shrunk[best])])
    print(f"bytes: dense float32 {dense_bytes:,}; dense ONNX {whole.bytes:,}")
    for dtype, size in archives.items():
        print(f"  archive {dtype}: {size:,} ({dense_bytes / size:.1f} times fewer)")
    print(
        f"  ONNX: {files[best].bytes:,} ({whole.bytes / files[best].bytes:.1f} times)"
    )
    together = None
    if save:
        ten = export_together(shrunk, folder / "ten.onnx", probe=probe)
        together = onnx_ensemble(ten.path)
        predictors["ten"] = together
        gap = ten.largest_difference
        print(f"  ten in one ONNX file: {ten.bytes:,}, difference {gap:.1g}")
    times = {size: in_turn(predictors, x[:size]) for size in (1, 256)}
    for size, found in times.items():
        ratios = {n: round(found["dense"] / t, 2) for n, t in found.items()}
        print(f"batch {size}: µs {found}; times faster {ratios}")
    for name, each in scores.items():
        print(f"{name}: " + ", ".join(f"{k} {v:.4f}" for k, v in each.items()))
    masks = [one.masks for one in drawn]
    print(measure_diversity(np.stack([m.argmax(-1) for m in members]), masks))
    single = [score(m, y, LIKELIHOOD)["accuracy"] for m in members]
    print(f"the ten alone: {np.mean(single):.4f} ± {np.std(single):.4f}")
    if save:
        formats(shrunk[best], x, y, members[best], folder, choose[0])
        draw_figure(whole.bytes, files, ten.bytes, scores, single, times[256])


def layers(shrunk):
    """Those with weights."""
    return [layer for layer in shrunk.model.layers if hasattr(layer, "weight")]


def onnx_ensemble(path):
    """The ensemble file as a function, on one thread as the others."""
    predict = onnx_predictor(path)
    assert set(run_together(path, np.zeros((1, 784), np.float32))) >= {"mean", "std"}
    return predict


def formats(model, x, y, exact, folder, calibration):
    """Largest difference of every format on the whole test set."""
    probs = jax.nn.softmax(exact, axis=-1)
    hits = np.mean(exact.argmax(-1) == y)
    for format in ("safetensors", "numpy", "onnx", "stablehlo", "onnx-int8"):
        path = folder / f"format-{format}"
        try:
            export(model, path, probe=x[:256], format=format, calibration=calibration)
        except ValueError as refused:
            print(f"{format}: {refused}")
            continue
        found = load_predictor(path, format, like=model.model)(x)
        change = float(np.mean(found.argmax(-1) == y) - hits)
        gap = np.abs(jax.nn.softmax(found, axis=-1) - probs).max()
        print(
            f"{format}: {os.path.getsize(path):,} bytes, outputs "
            f"{np.abs(found - exact).max():.2g}, probabilities {gap:.2g}, accuracy "
            f"{100 * change:+.2f} points"
        )


def draw_figure(dense_bytes, files, ten_bytes, scores, single, times):
    """Accuracy against bytes, and the latency of each."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
    small = [done.bytes / 1e3 for done in files]
    left.plot(small, single, "o", alpha=0.6, label="one sub-network")
    left.plot(ten_bytes / 1e3, scores["ten"]["accuracy"], "s", label="ten in one file")
    left.plot(dense_bytes / 1e3, scores["dense"]["accuracy"], "k^", label="dense")
    left.set(xlabel="kilobytes, ONNX", ylabel="test accuracy", xscale="log")
    left.legend(fontsize=8)
    right.barh(list(times), list(times.values()), color="C0")
    right.set(xlabel="microseconds, batch 256, one thread")
    figure.tight_layout()
    Path("runs").mkdir(exist_ok=True)
    figure.savefig("runs/deployment.png", dpi=150)
    plt.close(figure)
    print("wrote runs/deployment.png")


def run_by_numpy(model, x):
    """A network's outputs, its program carried out by NumPy (nothing to compile)."""
    graph = trace_symbolic(as_network(model), x)
    return outputs_of(graph, evaluate(graph, x))[0]


def run_by_jax(model, x):
    """A network's outputs."""
    return np.asarray(jax.vmap(model)(x))


def shrink_many(number):
    """Shrink random masked networks of every structure; all must be equal.

    They are compared on inputs that `shrink` has not seen.
    """
    random = np.random.default_rng(SEED)
    worst, smaller = dict.fromkeys(STRUCTURES, 0.0), dict.fromkeys(STRUCTURES, 0)
    names = list(STRUCTURES)
    for i in range(number):
        name = names[i % len(names)]
        make, shape = STRUCTURES[name]
        model = mask(make(jax.random.key(i)), random.uniform(0.05, 0.9), i)
        x, other = batch(shape, 2, seed=i), batch(shape, 4, seed=number + i)
        shrunk = mf.shrink(model, x, allow_constant=True)
        run = run_by_jax if i % BY_JAX == 0 else run_by_numpy
        gap = np.abs(run(shrunk.model, shrunk.select_inputs(other)) - run(model, other))
        worst[name] = max(worst[name], float(gap.max()))
        before, after = (
            sum(a.size for a in as_network(m).arrays.values())
            for m in (model, shrunk.model)
        )
        smaller[name] += after < before
        if i % 100 == 99:
            jax.clear_caches()
    print(f"\n{number} random masked networks: largest difference, how many shrank")
    for name in names:
        print(f"  {name}: {worst[name]:.2g}, {smaller[name]}")
    assert max(worst.values()) <= 1e-5


def export_large(folder):
    """Seconds to export 30 million weights, written, loaded back and compared."""
    model = mlp(LARGE, key=jax.random.key(SEED))
    count = sum(a.size for a in as_network(model).arrays.values())
    x = batch(LARGE[:1], 4)
    print(f"\n{count:,} numbers; seconds, and seconds of CPU")
    for format in ("onnx", "safetensors", "numpy"):
        start, cpu = time.perf_counter(), time.process_time()
        done = export(model, folder / f"large-{format}", probe=x, format=format)
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(
            f"  {format}: {seconds:.1f} ({cpu:.1f}), {done.bytes:,} bytes, difference "
            f"{done.largest_difference:.1g}"
        )


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=os.environ.get("MEANFIELD_DATA"))
    parser.add_argument("--parts", default="small,wide,shrink,large")
    parser.add_argument("--networks", type=int, default=RANDOM_NETWORKS)
    given = parser.parse_args()
    for part in given.parts.split(","):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if part in ("small", "wide"):
                images = data.load("mnist", data_dir=given.data_dir)
                widths = SMALL if part == "small" else WIDE
                compare_networks(images, widths, folder, save=part == "small")
            elif part == "shrink":
                shrink_many(given.networks)
            elif part == "large":
                export_large(folder)
            else:
                parser.error(f"--parts knows small, wide, shrink, large; got {part}")


if __name__ == "__main__":
    main()
