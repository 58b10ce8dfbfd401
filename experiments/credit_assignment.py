"""Learning credit assignment: the experiments of arXiv:2001.03354 on MNIST.

    python experiments/credit_assignment.py --data-dir DIR           # everything
    python experiments/credit_assignment.py --data-dir DIR --parts error
    python experiments/credit_assignment.py --quick                  # digits, small

Parts:

- error: 784-100-100-10 on the first 10,000 images in the published setting, generalized
  against ordinary back-propagation of the same network, start, optimizer and budget.
- more: the same with all 60,000 images and about as many steps.
- depth: five layers of neurons (784-100-100-100-10); labels and entropy by layer for
  10,000 to 40,000 images, with the published number of steps for each.
- perturbation: connections of the first layer removed or randomised by label.

The published setting: z = N^{-1/2} Σ w a on every layer, no biases, ReLU; m ~ N(0,
2/784) in all layers, Ξ ~ U(0, 0.01), π = 0; Adam on (π, m, Ξ) projected after every
step, its moments reset after every epoch, step 0.1 halved every 20 epochs, decay 1e-4
on m and Ξ; batch 500, 200 epochs. Ordinary back-propagation is the same program with π
= 0 and Ξ = 0 held fixed, which is the ordinary network to the bit.

Source: Li & Huang 2020, Learning credit assignment, arXiv:2001.03354, and its code.
"""

import dataclasses
import functools
import json
import math
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from shared import options

import meanfield as mf
from meanfield import plots
from meanfield.credit.labels import mean_entropy
from meanfield.data import load
from meanfield.files import write_text

PARTS = ("error", "more", "depth", "perturbation")
NUM_SUBNETWORKS = 10


@dataclasses.dataclass(frozen=True)
class Setting:
    """One training setting."""

    widths: tuple[int, ...] = (784, 100, 100, 10)
    num_data: int = 10_000
    epochs: int = 200
    halve_every: float = 20
    batch_size: int = 500
    step_size: float = 0.1
    decay: float = 1e-4
    mean_std: float = math.sqrt(2 / 784)
    largest_var: float = 0.01
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of the optimizer in one epoch."""
        return self.num_data // self.batch_size

    def with_data(self, num_data: int) -> "Setting":
        """The same number of steps on another number of images."""
        ratio = self.num_data / num_data
        return dataclasses.replace(
            self,
            num_data=num_data,
            epochs=round(self.epochs * ratio),
            halve_every=self.halve_every * ratio,
        )


PUBLISHED = Setting()
# Number of passes with each step size, for about the published number of steps.
MORE = Setting(num_data=60_000, epochs=40, halve_every=4)
DEPTH = Setting(widths=(784, 100, 100, 100, 10), seeds=(0, 1, 2))
DEPTH_SIZES = (10_000, 20_000, 30_000, 40_000)

QUICK = {
    "widths": (64, 32, 32, 10),
    "num_data": 1000,
    "epochs": 20,
    "halve_every": 4,
    "batch_size": 50,
    "seeds": (0, 1),
}


def network(params, x):
    """Logits of the published network: weights (in, out), scaled by 1/√in."""
    *hidden, last = params["layers"]
    for weight in hidden:
        x = jax.nn.relu(x @ weight / math.sqrt(weight.shape[0]))
    return x @ last / math.sqrt(last.shape[0])


def start(setting: Setting, key, ordinary: bool) -> mf.Ensemble:
    """The published start; Ξ = 0 for the ordinary network."""

    def initial(name, value, fan_in, key):
        mean_key, var_key = jax.random.split(key)
        mean = setting.mean_std * jax.random.normal(mean_key, value.shape)
        largest = 0.0 if ordinary else setting.largest_var
        var = largest * jax.random.uniform(var_key, value.shape)
        return mf.SpikeSlab(jnp.zeros_like(mean), mean, var)

    shapes = zip(setting.widths, setting.widths[1:], strict=False)
    params = {"layers": [jnp.zeros(shape) for shape in shapes]}
    return mf.Ensemble.from_model((network, params), key=key, initial=initial)


@functools.lru_cache
def optimizer(setting: Setting, ordinary: bool) -> optax.GradientTransformation:
    """Adam with reset moments, decay on m and Ξ, and a step size that is halved."""

    def mask(*names):
        def choose(path, leaf):
            return getattr(path[-1], "name", "") in names

        return lambda tree: jax.tree_util.tree_map_with_path(choose, tree)

    steps = round(setting.halve_every * setting.steps_per_epoch)
    schedule = optax.exponential_decay(setting.step_size, steps, 0.5, staircase=True)
    frozen = ("spike_prob", "slab_var") if ordinary else ()
    return optax.chain(
        restarted(optax.scale_by_adam(), setting.steps_per_epoch),
        optax.add_decayed_weights(setting.decay, mask("slab_mean", "slab_var")),
        optax.scale_by_learning_rate(schedule),
        optax.masked(optax.set_to_zero(), mask(*frozen)),
    )


def restarted(inner, steps: int) -> optax.GradientTransformation:
    """An optimizer whose state is reset every `steps` steps."""

    def init(params):
        return jnp.zeros((), jnp.int32), inner.init(params)

    def update(gradient, state, params=None):
        count, memory = state
        empty = inner.init(gradient)
        memory = jax.tree.map(
            lambda new, old: jnp.where(count % steps == 0, new, old), empty, memory
        )
        change, memory = inner.update(gradient, memory, params)
        return change, (count + 1, memory)

    return optax.GradientTransformation(init, update)


def train(setting: Setting, data, seed: int, ordinary: bool = False):
    """One run; the seed gives the start, the order of the data and the noise."""
    start_key, fit_key = jax.random.split(jax.random.key(seed))
    size = setting.num_data
    return mf.fit(
        start(setting, start_key, ordinary),
        (data.x_train[:size], data.y_train[:size]),
        key=fit_key,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        optimizer=optimizer(setting, ordinary),
        parametrization=mf.learning.Projected(),
        progress=False,
        prior=None,
    ).ensemble


@jax.jit
def probabilities(params, x):
    """Class probabilities of a network of point weights."""
    return jax.nn.softmax(network(params, x))


def test_errors(ensemble: mf.Ensemble, data, seed: int) -> dict[str, float]:
    """Test errors of sub-networks, of their average and of the mean network."""

    def error(probs):
        return float((np.asarray(probs).argmax(1) != data.y_test).mean())

    keys = jax.random.split(
        jax.random.fold_in(jax.random.key(seed), 1), NUM_SUBNETWORKS
    )
    drawn = [probabilities(ensemble.sample(key)[1], data.x_test) for key in keys]
    return {
        "one sub-network": float(np.mean([error(probs) for probs in drawn])),
        "average of 10": error(sum(drawn)),
        "mean network": error(probabilities(ensemble.mean_network()[1], data.x_test)),
    }


def compare(setting: Setting, data, title: str) -> tuple[dict, list[mf.Ensemble]]:
    """Generalized against ordinary back-propagation, over the seeds."""
    rows: dict[str, list[float]] = {}
    ensembles = []
    for seed in setting.seeds:
        ensemble = train(setting, data, seed)
        ensembles.append(ensemble)
        for name, value in test_errors(ensemble, data, seed).items():
            rows.setdefault(f"gBP, {name}", []).append(value)
        point = train(setting, data, seed, ordinary=True)
        error = test_errors(point, data, seed)["mean network"]
        rows.setdefault("BP", []).append(error)
    print(f"\n{title}\n{'test error %':24s} {'mean':>6s} {'min':>6s} {'max':>6s}  s.d.")
    for name, values in rows.items():
        numbers = 100 * np.array(values)
        spread = numbers.std(ddof=1)
        print(
            f"{name:24s} {numbers.mean():6.2f} {numbers.min():6.2f} "
            f"{numbers.max():6.2f}  {spread:.2f}"
        )
    return rows, ensembles


def by_layer(ensemble: mf.Ensemble, x, seed: int) -> dict[str, dict[str, float]]:
    """Labels and entropy by layer, of all connections and of those that learned."""
    key = jax.random.fold_in(jax.random.key(seed), 2)
    labels = mf.label_connections(ensemble, tolerance=0.0, data=x, key=key)
    whole, learned = labels.fractions, labels.learned_fractions
    dead = labels.never_learned_fractions
    entropy = mean_entropy(ensemble)
    learned_entropy = mean_entropy(ensemble, labels.never_learned)
    return {
        name: whole[name]
        | {"never learned": dead[name], "entropy": entropy[name]}
        | {f"learned {label}": part for label, part in learned[name].items()}
        | {"learned entropy": learned_entropy[name]}
        for name in whole
    }


def print_layers(title: str, runs: list[dict[str, dict[str, float]]]) -> dict:
    """Print and return the mean over runs of every number of every layer."""
    mean = {
        layer: {name: float(np.mean([r[layer][name] for r in runs])) for name in row}
        for layer, row in runs[0].items()
    }
    names = ("important", "variable", "absent", "entropy")
    names = ("never learned", *names, *(f"learned {name}" for name in names))
    short = [name.replace("learned ", "l. ") for name in names]
    print(f"\n{title}, mean over {len(runs)} seeds (l.: of connections that learned)")
    print(f"{'layer':10s}" + "".join(f"{name:>15s}" for name in short))
    for layer, row in mean.items():
        print(f"{layer:10s}" + "".join(f"{row[name]:15.4f}" for name in names))
    return mean


def depth(setting: Setting, sizes: tuple[int, ...], data, out: Path) -> dict:
    """Labels and entropy by layer in the five-layer shape, by number of images."""
    results, curves = {}, {"all": {}, "learned": {}}
    for size in sizes:
        sized = setting.with_data(size)
        runs, errors = [], []
        for seed in setting.seeds:
            ensemble = train(sized, data, seed)
            errors.append(test_errors(ensemble, data, seed)["mean network"])
            runs.append(by_layer(ensemble, data.x_train[:size], seed))
        mean = print_layers(f"{size:,} images", runs)
        print(f"test error of the mean network: {100 * np.mean(errors):.2f} %")
        results[size] = {"layers": mean, "errors": errors}
        for kind, name in (("all", "entropy"), ("learned", "learned entropy")):
            curves[kind][f"{size:,} images"] = {
                layer: [run[layer][name] for run in runs] for layer in runs[0]
            }
        bars = plots.label_fractions(mean)
        plots.save(bars, out / f"labels-depth-{size}.png")
    for kind, curve in curves.items():
        plots.save(plots.entropy_by_layer(curve), out / f"entropy-depth-{kind}.png")
    return results


def perturbation(
    ensembles: list[mf.Ensemble], setting: Setting, data, out: Path
) -> dict:
    """Perturbation of connections in the first layer and in the whole network.

    Plots are of the first ensemble, tables of all ensembles.
    """
    x, test = data.x_train[: setting.num_data], (data.x_test, data.y_test)
    results = {}
    for title, layers in (("first", ["layers/0"]), ("all", None)):
        runs = []
        for ensemble in ensembles:
            labels = mf.label_connections(
                ensemble, tolerance=0.0, data=x, key=jax.random.key(10)
            )
            runs.append(
                mf.credit.perturb_connections(
                    ensemble,
                    labels,
                    test,
                    layers=layers,
                    absent_scale=1.0,
                    key=jax.random.key(11),
                )
            )
        plots.save(plots.perturbation_curves(runs[0]), out / f"perturb-{title}.png")
        print(
            f"\nperturbation, {title} layer(s), {len(runs)} seeds: test error % at "
            "f = 0 and 1 [least, most], connections changed"
        )
        for arm in runs[0].mean:
            ends = 100 * np.array(
                [(run.mean[arm][0], run.mean[arm][-1]) for run in runs]
            )
            least, most = ends[:, 1].min(), ends[:, 1].max()
            changed = [run.num_changed[arm][-1] for run in runs]
            print(
                f"{arm:10s} {ends[:, 0].mean():6.2f}  {ends[:, 1].mean():6.2f}  "
                f"[{least:.2f}, {most:.2f}]  {min(changed)} to {max(changed)}"
            )
        results[title] = [
            {arm: mean.tolist() for arm, mean in run.mean.items()} for run in runs
        ]
    return results


def main() -> None:
    """Run the chosen parts, print their tables, save figures and numbers."""
    parser = options(__doc__, out="runs/credit_assignment")
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated")
    args = parser.parse_args()
    parts = args.parts.split(",")
    if set(parts) - set(PARTS):
        parser.error(f"--parts must be some of {','.join(PARTS)}; got {args.parts}")
    published, more, deep, sizes = PUBLISHED, MORE, DEPTH, DEPTH_SIZES
    data = load("digits") if args.quick else load("mnist", data_dir=args.data_dir)
    if args.quick:
        published = dataclasses.replace(published, **QUICK)
        more = dataclasses.replace(published, num_data=len(data.x_train))
        deep = dataclasses.replace(published, widths=(64, 32, 32, 32, 10))
        sizes = (1000,)
    results, ensembles = {}, []
    began = time.perf_counter()
    if "error" in parts:
        title = f"{published.num_data:,} images, published setting"
        results["error"], ensembles = compare(published, data, title)
        seen = data.x_train[: published.num_data]
        runs = [
            by_layer(ensemble, seen, seed)
            for seed, ensemble in zip(published.seeds, ensembles, strict=True)
        ]
        results["labels"] = print_layers("labels by layer", runs)
        plots.save(plots.label_fractions(results["labels"]), args.out / "labels.png")
        first = ensembles[0].weights()["layers/0"]
        plots.save(plots.landscape(first), args.out / "landscape.png")
    if "perturbation" in parts:
        ensembles = ensembles or [train(published, data, s) for s in published.seeds]
        results["perturbation"] = perturbation(ensembles, published, data, args.out)
    if "more" in parts:
        title = f"{more.num_data:,} images, {more.epochs} epochs"
        results["more"], _ = compare(more, data, title)
    if "depth" in parts:
        results["depth"] = depth(deep, sizes, data, args.out)
    print(f"\n{time.perf_counter() - began:.0f} s; figures and numbers in {args.out}")
    write_text(
        args.out / f"results-{'-'.join(parts)}.json", json.dumps(results, indent=1)
    )


if __name__ == "__main__":
    main()
