"""Memory and time of learning against the number of weights, 0.1 to 30 million.

784-n-n-10 at batch 128 with Adam, as an ensemble and as point weights in the same loop;
every measurement has its own process. Memory is in units of what the point network
needs anyway, its parameters and its optimizer's state:

| column      | what is measured                                                       |
|-------------|------------------------------------------------------------------------|
| `state`     | live arrays on the device between two steps, without the data          |
| `program`   | peak of the compiled epoch by the compiler's own analysis: arguments,  |
|             | outputs that reuse none of them, and temporaries, without the data     |
| `process`   | growth of the process' peak resident memory while it learns (Linux);   |
|             | of a small network that is the compiler's own memory                   |

    python experiments/benchmarks/scaling.py
    python experiments/benchmarks/scaling.py --widths 2795      # only 10 million
    python experiments/benchmarks/scaling.py --widths 2795 --noise weights
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from epoch_time import point_epoch

import meanfield as mf
from meanfield import plots
from meanfield.ensemble.networks import mlp
from meanfield.learning.epochs import learn_epoch
from meanfield.learning.state import starting_state
from meanfield.learning.training import Recipe, split_learned

OUT = Path("runs/scaling")
WIDTHS = (105, 450, 1400, 5100)
run_epoch = eqx.filter_jit(learn_epoch, donate="all-except-first")
FEATURES, CLASSES, BATCH, STEPS, EPOCHS = 784, 10, 128, 4, 3
KINDS = ("point", "ensemble")


def resident() -> tuple[int, int]:
    """Resident bytes of this process: now, and at most since the last reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = {line.split(":")[0]: line.split()[1] for line in lines if "kB" in line}
    return 1024 * int(kilobytes["VmRSS"]), 1024 * int(kilobytes["VmHWM"])


def reset_peak() -> None:
    """Reset the peak of the resident memory to its present size."""
    Path("/proc/self/clear_refs").write_text("5")


def prepare(kind: str, width: int, noise: str, x, y, key):
    """A function of (state, epoch) that learns, the state, and the lowered program."""
    model = mlp((FEATURES, width, width, CLASSES), key=key)
    optimizer = optax.adam(1e-3)
    if kind == "point":
        epoch, state = point_epoch(model, optimizer)
        learn = lambda state, number: epoch(
            state, x, y, jax.random.fold_in(key, number)
        )
        return learn, state, epoch.lower(state, x, y, key)
    ensemble = mf.Ensemble.from_model(model, key=key, noise=noise)
    likelihood, parametrization = mf.Categorical(), mf.learning.Projected()
    learned, fixed = split_learned(ensemble, likelihood, parametrization)
    recipe = Recipe(
        fixed=fixed,
        prior=None,
        optimizer=optimizer,
        parametrization=parametrization,
        temperature=1.0,
        num_data=len(x),
    )
    state = starting_state(learned, optimizer)

    def constants(number):
        return recipe, x, y, jax.random.split(key), jnp.asarray(number), BATCH

    learn = lambda state, number: run_epoch(constants(number), state)
    return learn, state, run_epoch.lower(constants(0), state)


def program_bytes(lowered) -> int:
    """Peak bytes of a program by the compiler's analysis."""
    compiled = lowered.compile()
    # Equinox wraps the compiled program once more.
    found = getattr(compiled, "compiled", compiled).memory_analysis()
    fresh = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + fresh + found.temp_size_in_bytes


def work(kind: str, width: int, noise: str) -> dict[str, float]:
    """One measurement in this process."""
    key = jax.random.key(0)
    x = jax.random.uniform(key, (STEPS * BATCH, FEATURES))
    y = jax.random.randint(key, (STEPS * BATCH,), 0, CLASSES)
    data = x.nbytes + y.nbytes
    before, _ = resident()
    learn, state, lowered = prepare(kind, width, noise, x, y, key)
    found = {"program": program_bytes(lowered) - data}
    state, _ = learn(state, 0)
    jax.block_until_ready(state)
    arrays = filter(eqx.is_array, jax.tree.leaves(state))
    found["state"] = sum(array.nbytes for array in arrays)
    reset_peak()
    wall, processor = [], []
    for number in range(1, EPOCHS):
        start = time.perf_counter(), time.process_time()
        state, _ = learn(state, number)
        jax.block_until_ready(state)
        wall.append((time.perf_counter() - start[0]) / STEPS)
        processor.append((time.process_time() - start[1]) / STEPS)
    found["process"] = resident()[1] - before
    return found | {"seconds": min(wall), "processor": min(processor)}


def measure(kind: str, width: int, noise: str) -> dict[str, float]:
    """One measurement in a fresh process."""
    command = [sys.executable, __file__, "--job", kind, str(width)]
    command += ["--noise", noise]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def slope(sizes, values) -> float:
    """Exponent of a power law: least squares of logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def draw(sizes, rows) -> None:
    """Processor seconds of a step, with the line of cost in proportion."""
    axis = plots.new_axis()
    for kind, marker in zip(KINDS, "os", strict=True):
        seconds = [row[kind]["processor"] for row in rows]
        axis.loglog(sizes, seconds, marker + "-", label=kind)
    last = rows[-1]["ensemble"]["processor"]
    line = [last * size / sizes[-1] for size in sizes]
    axis.loglog(sizes, line, "k:", label="in proportion to the weights")
    axis.set(xlabel="weights", ylabel="processor seconds a step")
    axis.legend(frameon=False, fontsize="small")
    plots.save(axis, OUT / "seconds.png")


def main() -> None:
    """Measure every size and kind; print tables and exponents, save a figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    noises = ("preactivations", "weights")
    parser.add_argument("--noise", choices=noises, default=noises[0])
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    args = parser.parse_args()
    job, widths = args.job, args.widths[:2] if args.quick else args.widths
    if job is not None:
        print(json.dumps(work(job[0], int(job[1]), args.noise)))
        return
    print(
        f"jax {jax.__version__}, batch {BATCH}; memory in units of the point network's"
    )
    print("parameters and optimizer state; processor seconds of a step\n")
    heads = [f"{kind} {what}" for what in ("state", "program") for kind in KINDS]
    heads += ["ens. process", "point s", "ensemble s", "ratio"]
    print(f"{'weights':>11}" + "".join(f"{head:>17}" for head in heads))
    sizes, rows = [], []
    for width in widths:
        size = FEATURES * width + width**2 + CLASSES * width
        row = {kind: measure(kind, width, args.noise) for kind in KINDS}
        unit = row["point"]["state"]
        seconds = [row[kind]["processor"] for kind in KINDS]
        cells = [row[k][what] / unit for what in ("state", "program") for k in KINDS]
        cells += [row["ensemble"]["process"] / unit]
        cells += [*seconds, seconds[1] / seconds[0]]
        print(f"{size:11,}" + "".join(f"{cell:17.4g}" for cell in cells), flush=True)
        sizes.append(size)
        rows.append(row)
    for kind in KINDS if len(rows) > 2 else ():
        for what in ("program", "processor"):
            values = [row[kind][what] for row in rows]
            late = slope(sizes[1:], values[1:])
            print(
                f"{kind} {what}: exponent {slope(sizes, values):.2f} over all, "
                f"{late:.2f} from {sizes[1] / 1e6:.1f} million weights on"
            )
    draw(sizes, rows)
    print(f"figure in {OUT}")


if __name__ == "__main__":
    main()
