"""Bytes, latency and accuracy of shipped sub-networks.

Four parts, each with a table; data are those of MNIST:

- `small`: 784-300-100-10. An ensemble is trained by the recipe of `sparsity.py`, and a
  point network with the same epochs and the same shifted images. Compared with the
  point network are the ensemble's median network; ten networks with the median's
  connections in one ONNX file, which share the hidden layers and have drawn slab values
  in the last layer; and ten draws of all layers.
- `wide`: the same for the median network of 784-1024-1024-10.
- `shrink`: random masked networks of every structure; the largest difference that
  shrinking makes.
- `large`: seconds to export a network of 30 million weights.

The last 5,000 training images are held out to choose the temperature and the ranges of
int8. Latencies are medians of ONNX Runtime on one thread, with the networks timed in
turn. Trained networks are stored in runs/deployment and not trained again.

    python experiments/benchmarks/deployment.py --data-dir DIR --parts small,shrink
"""

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import meanfield as mf
from meanfield.deploy.formats.formats import export, load_predictor, onnx_predictor
from meanfield.deploy.formats.together import export_together, run_together
from meanfield.deploy.graph.execute import evaluate, outputs_of
from meanfield.deploy.graph.network import as_network
from meanfield.deploy.graph.tracing import trace_symbolic
from meanfield.deploy.shipping.scores import score
from meanfield.deploy.shipping.selection import measure_diversity
from meanfield.ensemble.networks import mlp
from meanfield.tensors import load_tree, save_tree

EXPERIMENTS = Path(__file__).parents[1]
sys.path[:0] = [str(EXPERIMENTS), str(EXPERIMENTS.parent / "tests")]
import sparsity  # noqa: E402
from deploy_networks import STRUCTURES, batch, mask  # noqa: E402

SMALL, WIDE, LARGE = (784, 300, 100, 10), (784, 1024, 1024, 10), (1000, 5000, 5000, 10)
STAGES = {SMALL: sparsity.STAGES, WIDE: (4, 4, 6, 14)}
# Final temperature, price of a connection in nats.
POINTS = {SMALL: (0.02, 80.0), WIDE: (0.015, 80.0)}
SEED, NETWORKS, VALIDATION = 0, 10, 5_000
# Layers that the members of the ensemble share.
STEM = 2
# One in this number of random networks is run by JAX, the others by NumPy.
RANDOM_NETWORKS, BY_JAX = 1_000, 25
LIKELIHOOD = mf.Categorical()
OUT = Path("runs/deployment")


def trained(name, like, learn):
    """Parameters from the output folder, learned if they are not there."""
    path = OUT / f"{name}.safetensors"
    if not path.exists():
        start = time.process_time()
        OUT.mkdir(parents=True, exist_ok=True)
        save_tree(path, learn(), {"seconds": time.process_time() - start})
    params, about = load_tree(path, like)
    print(f"{name}: {about['seconds']:.0f} s of CPU")
    return params


def train_both(images, widths):
    """The sparse ensemble and the dense network."""
    (temperature, price), stages = POINTS[widths], STAGES[widths]
    key = jax.random.key(SEED)
    model = mlp(widths, key=key)
    full = mf.Ensemble.from_model(model, key=key, initial=sparsity.START)
    budget = "-".join(map(str, widths)) + f" {sum(stages)} epochs"
    params = trained(
        f"sparse {budget} {temperature:g} {price:g}",
        full.params,
        lambda: (
            sparsity.learn(
                images, widths, stages, sparsity.BATCH, (temperature, price), SEED
            ).params
        ),
    )
    dense = trained(
        f"dense {budget}",
        model,
        lambda: sparsity.learn_dense(images, widths, sum(stages), sparsity.BATCH, SEED),
    )
    return dataclasses.replace(full, params=params), dense


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


def compare_networks(data_dir, widths, folder, save):
    """Train both, ship one sub-network (and ten together), print the table."""
    whole = sparsity.read(False, False, data_dir)
    kept = len(whole.x) - VALIDATION
    images = sparsity.Images(
        whole.x[:kept], whole.y[:kept], whole.x[kept:], whole.y[kept:], whole.shape
    )
    x, y = whole.x_score, whole.y_score
    probe = x[:256]
    ensemble, dense = train_both(images, widths)
    (median,) = mf.deploy.sample_subnetworks(ensemble, 1, rule="median")
    shrunk = mf.deploy.shrink(median.model, probe)
    files = {
        "dense": export(dense, folder / "dense.onnx", probe=probe),
        "median": export(shrunk, folder / "median.onnx", probe=probe),
    }
    predictors = {name: onnx_predictor(file.path) for name, file in files.items()}
    for name, predict in predictors.items():
        held = score(predict(images.x_score), images.y_score, LIKELIHOOD)
        print(f"{name}, validation: {describe(held)}")
    scores = {n: score(run(x), y, LIKELIHOOD) for n, run in predictors.items()}
    dense_bytes = sum(a.nbytes for a in as_network(dense).arrays.values())
    print("layers of the sub-network:", [a.weight.shape for a in layers(shrunk)])
    print(f"weights: {median.num_nonzero:,} of {median.num_weights:,}")
    print(f"bytes: dense float32 {dense_bytes:,}; dense ONNX {files['dense'].bytes:,}")
    for dtype in ("float32", "float16"):
        path = folder / f"median-{dtype}.safetensors"
        size = export(
            shrunk, path, probe=probe, format="safetensors", dtype=dtype
        ).bytes
        print(f"  archive {dtype}: {size:,} ({dense_bytes / size:.1f} times fewer)")
        found = load_predictor(path, "safetensors", like=shrunk.model)(x)
        print(f"    test: {describe(score(found, y, LIKELIHOOD))}")
    if save:
        key = jax.random.key(SEED)
        groups = {
            "ten": draw_on_support(ensemble, key),
            "ten draws": mf.deploy.sample_subnetworks(ensemble, NETWORKS, key=key),
        }
        for name, drawn in groups.items():
            path = folder / f"{name}.onnx"
            files[name], scores[name] = ship_together(name, path, drawn, x, y)
            predictors[name] = onnx_predictor(path)
    for name, file in files.items():
        ratio = files["dense"].bytes / file.bytes
        print(
            f"{name}: ONNX {file.bytes:,} bytes ({ratio:.1f} times fewer), difference "
            f"{file.largest_difference:.1g}; test: {describe(scores[name])}"
        )
    times = {size: in_turn(predictors, x[:size]) for size in (1, 256)}
    for size, found in times.items():
        faster = ", ".join(
            f"{name} {each:.0f} µs ({found['dense'] / each:.2f} times faster)"
            for name, each in found.items()
        )
        print(f"batch {size}: {faster}")
    if save:
        formats(shrunk, x, y, predictors["median"](x), folder, images.x_score)
        draw_figure(files, scores, times[256])


def draw_on_support(ensemble, key):
    """Ten networks with the median network's connections, which can share layers.

    The first layers, with most of the arithmetic, are the median network's in all of
    them; the slab values of the last are drawn.
    """
    laws = {}
    for number, (name, law) in enumerate(ensemble.weights().items()):
        spike = jnp.where(law.inclusion_prob > 0.5, 0.0, 1.0)
        var = law.slab_var if number >= STEM else jnp.zeros_like(law.slab_var)
        laws[name] = mf.SpikeSlab(spike, law.slab_mean, var)
    fixed = ensemble.with_weights(laws)
    return mf.deploy.sample_subnetworks(fixed, NETWORKS, key=key)


def describe(scores):
    """Scores in a line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


def ship_together(name, path, drawn, x, y):
    """Sub-networks in one ONNX file, and the scores of its mean."""
    members = [mf.deploy.shrink(one.model, x[:256]) for one in drawn]
    done = export_together(members, path, probe=x[:256])
    alone = [run_by_jax(one.model, one.select_inputs(x)) for one in members]
    accuracies = [score(each, y, LIKELIHOOD)["accuracy"] for each in alone]
    choices = np.stack([each.argmax(-1) for each in alone])
    print(f"{name}, alone: {np.mean(accuracies):.4f} ± {np.std(accuracies):.4f}")
    print(f"  {measure_diversity(choices, [one.masks for one in drawn])}")
    mean = run_together(path, x)["mean"]
    tiny = np.finfo(mean.dtype).tiny
    return done, score(np.log(np.maximum(mean, tiny)), y, LIKELIHOOD)


def layers(shrunk):
    """The layers with weights."""
    return [layer for layer in shrunk.model.layers if hasattr(layer, "weight")]


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


def draw_figure(files, scores, times):
    """Accuracy against bytes, and the latency of each."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
    for mark, (name, file) in zip("^osD", files.items(), strict=True):
        accuracy = 100 * scores[name]["accuracy"]
        left.plot(file.bytes / 1e3, accuracy, mark, label=name)
    left.set(xlabel="kilobytes, ONNX", ylabel="test accuracy, %")
    left.legend(fontsize=8)
    right.barh(list(times), list(times.values()), color="C0")
    right.set(xlabel="microseconds, batch 256, one thread")
    figure.tight_layout()
    figure.savefig(OUT / "deployment.png", dpi=150)
    plt.close(figure)
    print(f"wrote {OUT / 'deployment.png'}")


def run_by_numpy(model, x):
    """A network's outputs, computed by NumPy, which compiles nothing."""
    graph = trace_symbolic(as_network(model), x)
    return outputs_of(graph, evaluate(graph, x))[0]


def run_by_jax(model, x):
    """A network's outputs."""
    return np.asarray(jax.vmap(model)(x))


def shrink_many(number):
    """Shrink random masked networks of every structure; no output may change.

    Outputs are compared on inputs that `shrink` was not given.
    """
    random = np.random.default_rng(SEED)
    worst, smaller = dict.fromkeys(STRUCTURES, 0.0), dict.fromkeys(STRUCTURES, 0)
    names = list(STRUCTURES)
    for i in range(number):
        name = names[i % len(names)]
        make, shape = STRUCTURES[name]
        model = mask(make(jax.random.key(i)), random.uniform(0.05, 0.9), i)
        x, other = batch(shape, 2, seed=i), batch(shape, 4, seed=number + i)
        shrunk = mf.deploy.shrink(model, x, allow_constant=True)
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
    """Seconds to write 30 million weights, load them back and compare."""
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
    """Run the given parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", default=os.environ.get("MEANFIELD_DATA"))
    parser.add_argument("--parts", default="small,wide,shrink,large")
    parser.add_argument("--networks", type=int, default=RANDOM_NETWORKS)
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    given = parser.parse_args()
    if given.quick:
        given.parts, given.networks = "shrink", 50
    for part in given.parts.split(","):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if part in ("small", "wide"):
                widths = SMALL if part == "small" else WIDE
                compare_networks(given.data_dir, widths, folder, save=part == "small")
            elif part == "shrink":
                shrink_many(given.networks)
            elif part == "large":
                export_large(folder)
            else:
                parser.error(f"--parts takes small, wide, shrink, large; got {part}")


if __name__ == "__main__":
    main()
