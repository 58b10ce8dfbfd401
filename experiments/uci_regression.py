"""UCI regression: NLL and RMSE of one hidden layer of 50 units on the 20 usual splits.

The candidates are three noise models (normal; Student t with 4 degrees of freedom; the
same with a scale that the network predicts) at two temperatures; test data influence no
choice. A fifth of every split's training part is held out, each candidate learns the
rest, and the candidates are stacked: the predictive distribution is Σ_k w_k p_k(y | x)
with the w that make the held-out fifth most probable (Yao et al. 2018,
arXiv:1704.02030). Then each candidate learns the whole training part anew. The single
candidate with the best held-out score is compared with it. All other settings are equal
for all sets: standardised inputs and targets, a spike-and-slab prior with inclusion
probability ½ and slab scales by empirical Bayes, and Adam with a step size that falls
along a cosine.

All splits of a set learn at once, by `jax.vmap` over data, key and temperature.
NLL in nats and RMSE are in the units of the data; ± is the standard error over splits.

    python experiments/uci_regression.py --data-dir DIR          # DIR/uci/<set>/
    python experiments/uci_regression.py --sets yacht energy
    python experiments/uci_regression.py --quick

A set is a folder with data.txt, index_features.txt, index_target.txt, and
index_train_k.txt, index_test_k.txt for k = 0 … (Hernández-Lobato & Adams 2015,
arXiv:1502.05336; Gal & Ghahramani 2016, arXiv:1506.02142).
"""

import time
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from jax import lax
from shared import mean_and_error, options, plus_minus

import meanfield as mf
from meanfield import plots
from meanfield.ensemble.networks import mlp
from meanfield.learning.epochs import learn_epoch
from meanfield.learning.optimizers import cosine_adam
from meanfield.learning.state import starting_state
from meanfield.learning.training import Recipe, split_learned
from meanfield.prediction.predictive import average

SETS = ("bostonHousing", "energy", "power-plant", "yacht")
HIDDEN, SPLITS, SAMPLES, HELD_OUT, LEVEL = 50, 20, 200, 0.2, 0.95
NOISES = {
    "Gaussian": mf.Gaussian(initial_scale=0.5),
    "Student t": mf.StudentT(df=4.0, initial_scale=0.5),
    "t by input": mf.StudentT(df=4.0, scale="input"),
}
TEMPERATURES = (0.3, 0.02)
PRIOR = mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale="learned")
EPOCHS, MOST_STEPS, STEP_SIZE = 300, 12_000, 5e-3
# Published NLL of the same sets (uncertainty-baselines; the setups differ somewhat).
PUBLISHED = {
    "bostonHousing": {"VI": 3.12, "MC-dropout": 2.40, "PBP-MV": 2.54},
    "concrete": {"VI": 3.22, "MC-dropout": 2.93, "PBP-MV": 3.04},
    "energy": {"VI": 0.93, "MC-dropout": 1.21, "PBP-MV": 1.01},
    "kin8nm": {"VI": -1.03, "MC-dropout": -1.14, "PBP-MV": -1.28},
    "naval-propulsion-plant": {"VI": -6.12, "MC-dropout": -4.45, "PBP-MV": -4.85},
    "power-plant": {"VI": 2.85, "MC-dropout": 2.80, "PBP-MV": 2.78},
    "protein-tertiary-structure": {"VI": 2.93, "MC-dropout": 2.87, "PBP-MV": 2.77},
    "wine-quality-red": {"VI": 1.00, "MC-dropout": 0.93, "PBP-MV": 0.97},
    "yacht": {"VI": 2.01, "MC-dropout": 1.25, "PBP-MV": 1.64},
}


class Said(NamedTuple):
    """ln p(y), mean and P(Y ≤ y) of every example; splits first."""

    log_prob: np.ndarray
    mean: np.ndarray
    level: np.ndarray


class Split(NamedTuple):
    """One division into training and test part, all splits along the first axis."""

    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray

    def standardised(self) -> tuple["Split", np.ndarray]:
        """Standardise by the training part; also return the target's deviation."""
        centre, scale = self.x.mean(1, keepdims=True), self.x.std(1, keepdims=True)
        scale = np.where(scale > 0, scale, 1)
        level, spread = self.y.mean(1, keepdims=True), self.y.std(1, keepdims=True)
        parts = (
            (self.x - centre) / scale,
            (self.y - level) / spread,
            (self.x_test - centre) / scale,
            (self.y_test - level) / spread,
        )
        return Split(*(part.astype(np.float32) for part in parts)), spread[:, 0]

    def inner(self, seed: int) -> "Split":
        """A split of the training part alone; the test part is dropped."""
        held = max(1, round(HELD_OUT * self.x.shape[1]))
        rng = np.random.default_rng(seed)
        orders = [rng.permutation(self.x.shape[1]) for _ in self.x]
        x = np.stack([rows[order] for rows, order in zip(self.x, orders, strict=True)])
        y = np.stack([rows[order] for rows, order in zip(self.y, orders, strict=True)])
        return Split(x[:, held:], y[:, held:], x[:, :held], y[:, :held])


def read_set(folder: Path, splits: int) -> Split:
    """The splits of a set, stacked."""
    table = np.loadtxt(folder / "data.txt")
    columns = np.loadtxt(folder / "index_features.txt").astype(int)
    target = int(np.loadtxt(folder / "index_target.txt"))
    parts = []
    for number in range(splits):
        if not (folder / f"index_train_{number}.txt").is_file():
            break
        rows = [
            np.loadtxt(folder / f"index_{part}_{number}.txt").astype(int)
            for part in ("train", "test")
        ]
        parts.append([table[r][:, c] for r in rows for c in (columns, target)])
    return Split(*(np.stack(part) for part in zip(*parts, strict=True)))


def plan(examples: int) -> tuple[int, int]:
    """Batch size and epochs."""
    batch_size = 32 if examples < 2000 else 128
    return batch_size, min(EPOCHS, MOST_STEPS * batch_size // examples)


def learn(x, y, temperature, key, likelihood):
    """Train one ensemble, as a function of arrays; return whether it stayed finite."""
    (examples, features), (batch_size, epochs) = x.shape, plan(len(x))
    network_key, weight_key, fit_key = jax.random.split(key, 3)
    widths = (features, HIDDEN, likelihood.num_outputs(y))
    network = mlp(widths, key=network_key)
    ensemble = mf.Ensemble.from_model(network, key=weight_key)
    parametrization = mf.learning.Unconstrained()
    optimizer = cosine_adam(STEP_SIZE, epochs * (examples // batch_size))
    learned, fixed = split_learned(ensemble, likelihood, parametrization)
    recipe = Recipe(
        fixed, PRIOR, optimizer, parametrization, lambda step: temperature, examples
    )

    keys = jax.random.split(fit_key)

    def epoch(state, number):
        return learn_epoch((recipe, x, y, keys, number, batch_size), state)

    state, _ = lax.scan(epoch, starting_state(learned, optimizer), jnp.arange(epochs))
    return *recipe.ensemble_and_likelihood(state.learned), state.healthy


@eqx.filter_jit
def learn_all(split: Split, temperatures, key, likelihood):
    """Ensembles of all splits at once."""
    keys = jax.random.split(key, len(split.x))
    one = lambda x, y, t, k: learn(x, y, t, k, likelihood)
    return eqx.filter_vmap(one)(split.x, split.y, temperatures, keys)


def say(split: Split, temperature: float, key, likelihood) -> Said:
    """One candidate's predictions for every split's test part, in standard units."""
    trained = learn_all(split, jnp.full(len(split.x), temperature), key, likelihood)
    rows = []
    for number in range(len(split.x)):
        pick = lambda leaf, n=number: leaf[n] if eqx.is_array(leaf) else leaf
        ensemble, noise, healthy = jax.tree.map(pick, trained)
        if not bool(healthy):
            raise SystemExit(
                f"Split {number} broke down at T = {temperature:g} under {likelihood}; "
                "take a smaller STEP_SIZE."
            )
        found = average(
            ensemble,
            noise,
            split.x_test[number],
            split.y_test[number],
            num_samples=SAMPLES,
            key=jax.random.fold_in(key, number),
        )
        rows.append(Said(*(found[name].reshape(-1) for name in Said._fields)))
    return Said(*(np.stack(part) for part in zip(*rows, strict=True)))


def stack(log_prob: np.ndarray) -> np.ndarray:
    """Weights w ≥ 0, Σw = 1, that maximise Σ_n ln Σ_k w_k p_k(n) + Σ_k ln w_k.

    The second sum keeps few examples from giving all the weight to one candidate.
    Each round is an EM step, which cannot lower the sum.

    Args:
        log_prob: ln p_k(n), (candidates, examples).
    """
    count, examples = log_prob.shape
    weights = np.full(count, 1 / count)
    for _ in range(1000):
        share = np.exp(log_prob - log_prob.max(0)) * weights[:, None]
        weights = 1 + (share / share.sum(0)).sum(1)
        weights /= examples + count
    return weights


def scores(said: Said, weights: np.ndarray, split: Split, spread) -> np.ndarray:
    """NLL, RMSE and coverage of a mixture for every split, (splits, 3).

    Args:
        said: predictions, with a leading axis of candidates.
        weights: weights of the candidates, (candidates, splits).
        split: the splits, whose test parts are scored.
        spread: standard deviation of every split's target, in units of the data.
    """
    mix = lambda values: (weights[:, :, None] * values).sum(0)
    top = said.log_prob.max(0)
    nll = -(top + np.log(mix(np.exp(said.log_prob - top)))).mean(1) + np.log(spread)
    error = (mix(said.mean) - split.y_test) * spread[:, None]
    tail = (1 - LEVEL) / 2
    inside = np.abs(mix(said.level) - 0.5) <= 0.5 - tail
    return np.stack([nll, np.sqrt(np.square(error).mean(1)), inside.mean(1)], 1)


def run_set(folder: Path, splits: int, seed: int) -> dict[str, np.ndarray]:
    """Test scores of the mixture, the best single candidate, and every candidate."""
    split, spread = read_set(folder, splits).standardised()
    key = jax.random.key(seed)
    candidates = [(noise, t) for noise in NOISES for t in TEMPERATURES]
    both = []
    for part in (split.inner(seed), split):
        said = [say(part, t, key, NOISES[noise]) for noise, t in candidates]
        both.append(Said(*(np.stack(x) for x in zip(*said, strict=True))))
    held_out, test = both
    number = np.arange(len(split.x))
    found = {"stacked": np.stack([stack(held_out.log_prob[:, n]) for n in number], 1)}
    best = held_out.log_prob.mean(2).argmax(0)
    single = np.eye(len(candidates))
    found["best candidate"] = single[best].T
    for (noise, temperature), one in zip(candidates, single, strict=True):
        found[f"{noise}, T = {temperature:g}"] = np.tile(one[:, None], len(number))
    return {name: scores(test, w, split, spread) for name, w in found.items()}


def figure(results: dict[str, dict[str, np.ndarray]]):
    """NLL of the mixture and published NLLs, set by set."""
    drawing, axes = plt.subplots(1, len(results), figsize=(3.2 * len(results), 3.4))
    for axis, (name, found) in zip(np.atleast_1d(axes), results.items(), strict=True):
        nll = found["stacked"][:, 0]
        published = PUBLISHED.get(name, {})
        axis.errorbar(0, *mean_and_error(nll), fmt="o")
        axis.plot(range(1, len(published) + 1), list(published.values()), "k_", ms=14)
        labels = ["meanfield", *published]
        axis.set_xticks(range(len(labels)), labels, rotation=45, ha="right")
        axis.set(title=name, ylabel="test NLL (nats)", xlim=(-0.5, len(labels) - 0.5))
    drawing.tight_layout()
    return axis


def main() -> None:
    """Print a table for every set and save the figure."""
    parser = options(__doc__, out="runs/uci_regression")
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--splits", type=int, default=SPLITS)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    if settings.data_dir is None:
        parser.error("give --data-dir, or set MEANFIELD_DATA")
    if settings.quick:
        settings.sets, settings.splits = ["yacht"], 2
    results = {}
    for name in settings.sets:
        start = time.perf_counter()
        folder = Path(settings.data_dir) / "uci" / name
        results[name] = run_set(folder, settings.splits, settings.seed)
        published = ", ".join(f"{k} {v}" for k, v in PUBLISHED.get(name, {}).items())
        seconds = time.perf_counter() - start
        print(f"\n{name}: {seconds:.0f} s; published NLL: {published or 'none'}")
        print(f"{'':<24}{'NLL':>16}{'RMSE':>16}{'95 % coverage':>15}")
        for label, rows in results[name].items():
            cells = "".join(f"{plus_minus(rows[:, i], 3):>16}" for i in (0, 1))
            print(f"{label:<24}{cells}{rows[:, 2].mean():>15.3f}", flush=True)
    picture = settings.out / "uci_regression.png"
    plots.save(figure(results), picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
