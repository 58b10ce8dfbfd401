"""Time to a first result: imports, opening a network, estimators, memory.

Every part is measured in separate processes, and compared parts alternate. Processor
seconds are reported, because they are reproducible on a busy machine.

| part        | what is measured                                                    |
|-------------|---------------------------------------------------------------------|
| `import`    | importing meanfield against importing jax and numpyro               |
| `open`      | programs that `Ensemble.from_model` compiles                        |
| `estimator` | the first and a repeated `fit` on a table, against `MLPClassifier`  |
| `memory`    | memory that each of twelve fits of other shapes keeps               |

The cold start to 98 % on MNIST has a script of its own, `time_to_accuracy.py`.

    python experiments/benchmarks/first_result.py [--parts import,open]
"""

import argparse
import gc
import statistics
import subprocess
import sys
import time

PARTS = ("import", "open", "estimator", "memory")
REPEATS = 9
IMPORTS = {
    "jax and numpyro": "import jax, numpyro",
    "meanfield": "import meanfield",
    "meanfield, Ensemble, fit, evaluate": (
        "import meanfield as mf; mf.Ensemble, mf.fit, mf.evaluate"
    ),
}
# Number of features in each of the twelve fits.
SHAPES = range(4, 16)


def import_seconds(repeats: int) -> None:
    """Alternating imports in fresh processes."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(repeats):
        for name, words in IMPORTS.items():
            code = f"import time\n{words}\nprint(time.process_time())"
            done = subprocess.run(
                [sys.executable, "-c", code], check=True, capture_output=True, text=True
            )
            seconds[name].append(float(done.stdout.split()[-1]))
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    base = medians["jax and numpyro"]
    for name, median in medians.items():
        print(f"import  {name:34}{median:7.2f} s{median / base:8.2f} times")


def count_programs() -> None:
    """Programs compiled while networks are opened."""
    import equinox as eqx
    import jax
    import jax.monitoring

    import meanfield as mf
    from meanfield.ensemble.networks import cnn

    programs = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event.endswith("backend_compile_duration"):
            programs.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    key = jax.random.key(0)
    networks = {
        "perceptron 64-100-100-10": eqx.nn.MLP(64, 10, 100, 2, key=key),
        "convolutions, 8 × 8": cnn((8, 8), (100,), 10, key=key),
    }
    for name, network in networks.items():
        for kind, drawn in (("drawn weights", key), ("its own weights", None)):
            programs.clear()
            mf.Ensemble.from_model(network, key=drawn)
            print(f"open    {name}, {kind}: {len(programs)} programs")


def fit_seconds(repeats: int) -> None:
    """`fit` of two estimators on the 178 wines, the first time and again."""
    from sklearn.datasets import load_wine
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    import meanfield as mf

    x, y = load_wine(return_X_y=True)
    before = time.process_time(), time.perf_counter()
    mf.MeanFieldClassifier(random_state=0).fit(x, y)
    first = time.process_time() - before[0], time.perf_counter() - before[1]
    print(f"first fit of a process: {first[0]:.2f} s of processor, {first[1]:.2f} s")
    rivals = {
        "MeanFieldClassifier": lambda s: mf.MeanFieldClassifier(random_state=s),
        "the same, fixed prior": lambda s: mf.MeanFieldClassifier(
            prior=mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale="learned"),
            temperature=0.05,
            random_state=s,
        ),
        "MLPClassifier": lambda s: make_pipeline(
            StandardScaler(), MLPClassifier(max_iter=1000, random_state=s)
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for seed in range(repeats + 1):
        for name, make in rivals.items():
            start = time.process_time()
            make(seed).fit(x, y)
            seconds[name].append(time.process_time() - start)
    medians = {name: statistics.median(found[1:]) for name, found in seconds.items()}
    base = medians["MLPClassifier"]
    for name, median in medians.items():
        print(f"again   {name:34}{median:7.2f} s{median / base:8.2f} times")


def kept_memory() -> None:
    """Resident memory after each of twelve fits of different shapes."""
    import numpy as np

    import meanfield as mf

    rng, sizes = np.random.default_rng(0), []
    for features in SHAPES:
        x, y = rng.normal(size=(100, features)), rng.integers(0, 2, 100)
        mf.MeanFieldClassifier(random_state=0, epochs=5).fit(x, y)
        gc.collect()
        with open("/proc/self/statm") as file:
            sizes.append(int(file.read().split()[1]) * 4096 / 2**20)
    growth = [after - before for before, after in zip(sizes, sizes[1:], strict=False)]
    print(
        f"memory  after the first fit {sizes[0]:.0f} MiB; each further shape "
        f"{statistics.mean(growth):.1f} MiB (at most {max(growth):.1f})"
    )


def main() -> None:
    """Measure some parts, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    repeats = 2 if args.quick else REPEATS
    work = {
        "import": lambda: import_seconds(repeats),
        "open": count_programs,
        "estimator": lambda: fit_seconds(repeats),
        "memory": kept_memory,
    }
    if args.one:
        work[args.one]()
        return
    for part in args.parts.split(","):
        command = [sys.executable, __file__, "--one", part]
        subprocess.run(command + ["--quick"] * args.quick, check=True)


if __name__ == "__main__":
    main()
