"""The neuron game at speed: evaluations per second and error, side by side in one run.

A network 64-100-100-10 trained on digits; the players are the 100 units of a hidden
layer, the payoff is the mean probability of the right class over 400 examples.

| competitor      | how it evaluates                                                   |
|-----------------|--------------------------------------------------------------------|
| sweep           | `game.sweep`: a whole order from one running pre-activation        |
| masks           | `game(coalitions)`: the part behind the layer, many at once        |
| one by one      | a jitted masked forward pass of the network for each coalition     |
| shapiq          | shapiq's permutation sampler on that same one-by-one function      |
| shapiq, batched | the same sampler on `game(coalitions)`                             |

Competitors alternate, and medians over rounds are compared. The time to reach an error
is that of the needed evaluations: for a mean over independent orders, the squared error
is inversely proportional to their number.

    python experiments/benchmarks/neuron_game.py
"""

import argparse
import time
import warnings

import jax
import jax.numpy as jnp
import numpy as np

import meanfield as mf
from meanfield import data as datasets
from meanfield.ensemble.networks import mlp

EXAMPLES = 400
BUDGET = 8_000  # evaluations at which the error is reported
REFERENCE = 600  # antithetic pairs of the reference values
ONE_BY_ONE = 1_000  # evaluations per round of the slow competitors
ROUNDS = 3
EPOCHS = 20


def main() -> None:
    """Train, time the competitors in turn, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds = 1
    ensemble, examples = trained()
    for number in range(1 if arguments.quick else 2):
        layer = f"layers/{number}"
        game = mf.NeuronGame(ensemble, layer, examples)
        competitors = make_competitors(game, ensemble, number, examples)
        for run in competitors.values():
            run(0)  # compiles
        seconds = {name: [] for name in competitors}
        for turn in range(1, arguments.rounds + 1):
            for name, run in competitors.items():
                start = time.perf_counter()
                count = run(turn)
                seconds[name].append((time.perf_counter() - start) / count)
        each = {name: float(np.median(times)) for name, times in seconds.items()}
        print(f"\n{layer}: {game.num_players} players, {EXAMPLES} examples")
        for name, time_of_one in each.items():
            print(
                f"  {name:<18}{1 / time_of_one:>12,.0f} evaluations/s"
                f"   sweep is {time_of_one / each['sweep']:6.1f} times as fast"
            )
        report_errors(game, each)


def trained():
    """The ensemble and the examples of the game."""
    digits = datasets.load("digits")
    ensemble = mf.Ensemble.from_model(
        mlp((64, 100, 100, 10), key=jax.random.key(0)), key=jax.random.key(1)
    )
    result = mf.fit(
        ensemble,
        (digits.x_train, digits.y_train),
        key=jax.random.key(2),
        epochs=EPOCHS,
        batch_size=32,
        progress=False,
        prior=None,
    )
    return result.ensemble, (digits.x_train[:EXAMPLES], digits.y_train[:EXAMPLES])


def make_competitors(game, ensemble, number: int, examples) -> dict:
    """Name -> function (round) -> evaluations done."""
    n = game.num_players
    one_by_one = masked_network(ensemble, number, examples)

    def sweep(turn: int) -> int:
        orders = orders_of(turn, n, 80)
        game.sweep(orders)
        return orders.size

    def masks(turn: int) -> int:
        rows = np.random.default_rng(turn).random((ONE_BY_ONE, n)) < 0.5
        game(rows)
        return len(rows)

    def alone(turn: int) -> int:
        rows = np.random.default_rng(turn).random((ONE_BY_ONE, n)) < 0.5
        one_by_one(rows)
        return len(rows)

    found = {"sweep": sweep, "masks": masks, "one by one": alone}
    for name, value_fn in (("shapiq", one_by_one), ("shapiq, batched", game)):
        found[name] = lambda turn, value_fn=value_fn: shapiq_run(value_fn, n, turn)[1]
    return found


def masked_network(ensemble, number: int, examples):
    """A value function that runs the whole network once for every coalition."""
    x, y = map(jnp.asarray, examples)
    layers = [(part.weight, part.bias) for part in ensemble.mean_network().layers]

    @jax.jit
    def payoff(mask):
        signal = x
        for place, (weight, bias) in enumerate(layers):
            signal = signal @ weight.T + bias
            if place < len(layers) - 1:
                signal = jax.nn.relu(signal)
            if place == number:
                signal = jnp.where(mask, signal, signal.mean(0))
        return jax.nn.softmax(signal)[jnp.arange(len(y)), y].mean()

    return lambda rows: np.array([float(payoff(row)) for row in np.atleast_2d(rows)])


def shapiq_run(value_fn, n: int, seed: int, budget: int = ONE_BY_ONE):
    """Values of shapiq's permutation sampler, and the evaluations it was given."""
    from shapiq.approximator import PermutationSamplingSV

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = PermutationSamplingSV(n=n, random_state=seed)
        count = 0

        def counted(rows):
            nonlocal count
            count += len(np.atleast_2d(rows))
            return value_fn(np.atleast_2d(rows))

        values = sampler.approximate(budget, counted).get_n_order_values(1)
    return values, count


def orders_of(seed: int, n: int, count: int) -> np.ndarray:
    """Random orders of the players."""
    rng = np.random.default_rng(seed)
    return rng.permuted(np.tile(np.arange(n), (count, 1)), axis=1)


def report_errors(game, each) -> None:
    """Relative errors at the budget, and the time to reach shapiq's error."""
    n = game.num_players
    long = 2 + REFERENCE * 2 * (n - 1)
    truth = mf.shapley_values(game, n, key=jax.random.key(99), budget=long).values
    own, theirs, seconds = [], [], []
    for seed in range(5):
        start = time.perf_counter()
        found = mf.shapley_values(game, n, key=jax.random.key(seed), budget=BUDGET)
        seconds.append(time.perf_counter() - start)
        own.append(relative_error(found.values, truth))
        theirs.append(relative_error(shapiq_run(game, n, seed, BUDGET)[0], truth))
    ours, other = np.sqrt(np.mean(np.square(own))), np.sqrt(np.mean(np.square(theirs)))
    print(
        f"  relative error at {BUDGET} evaluations: {ours:.3f} in "
        f"{np.median(seconds):.2f} s; shapiq's permutations {other:.3f}"
    )
    gain = (other / ours) ** 2
    for name in ("shapiq", "shapiq, batched"):
        ratio = gain * each[name] / each["sweep"]
        print(f"  time of {name} to the same error: {ratio:.0f} times ours")


def relative_error(values, truth) -> float:
    """‖φ̂ − φ‖ / ‖φ‖."""
    return float(np.linalg.norm(values - truth) / np.linalg.norm(truth))


if __name__ == "__main__":
    main()
