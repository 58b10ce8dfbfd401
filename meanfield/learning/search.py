r"""Search the temperature and price of a run by short trials and a held-out part.

    c_max = ln W + ½ ln n

is the highest price of a connection, in nats: the length of a message that says which
of the W connections is present, and gives its weight to the precision of n examples
(minimum description length; Rissanen 1978). A low temperature suits clean data, whose
examples are more informative than the likelihood assumes (Wenzel et al. 2020,
arXiv:2002.02405). T = 1 and few connections suit noisy data.

At c_max, trials raise T from T_max / 10 by factors of √10 as long as the loss of the
held-out examples does not get worse. If it gets worse at the first of these steps,
trials lower T instead, as long as the loss gets better. At the chosen T the price is
then lowered to c_max / 4, and to 0, as long as the loss gets better. A loss is worse or
better if its mean changes by more than the tolerance and by more than one standard
error of the differences of single examples; so among settings that do not differ
significantly the sparsest is chosen (Breiman et al. 1984). The tolerance is positive
because a trial is shorter than the run that follows, and a price increases the loss of
a short run more: on MNIST by 0.0022 nats in trials of 6 epochs, and not at all in 20
epochs. All trials have the same initial state, examples, random draws and decay of the
step size; they differ only in T or c. The run at the chosen T and c learns from all
examples, including the held-out ones.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, PRNGKeyArray
from tqdm import tqdm

from .batches import iterate
from .joint_removal import remove_jointly
from .loop import Loop
from .priors import SpikeSlabPrior
from .results import FitResult, Search
from .schedule import Schedule
from .sharding import Layout
from .state import starting_state
from .training import Recipe
from .validation import example_losses

RATIO = math.sqrt(10)
# Temperatures at which trials start and end: T_max times these powers of 1 / RATIO.
FIRST, LOWEST = 2, 6
PRICES = (0.25, 0.0)  # Prices below the highest one, relative to it.
# Length of a trial: SHARE of the run's steps, but at least TRIAL_STEPS, or fewer if
# they are larger in proportion; at most the whole run.
SHARE, TRIAL_STEPS = 0.2, 3000
# If the number of steps of a run times their relative size is smaller, nothing is
# removed at its end: it has hardly learned, and would lose nearly all connections.
LEARNED_STEPS = 1000


def message_length(num_weights: int, num_data: int) -> float:
    """c_max = ln W + ½ ln n, the highest price of a connection, in nats."""
    return math.log(max(num_weights, 2)) + 0.5 * math.log(max(num_data, 1))


# The loss of every held-out example, by temperature and price.
Tried = dict[tuple[float, float], np.ndarray]


def find_pressure(
    trial: Callable[[float, float], Float[np.ndarray, " held"]],
    ceiling: float,
    largest_price: float,
    tolerance: float,
    found: Tried | None = None,
    keep: Callable[[Tried], Any] = lambda found: None,
) -> Search:
    """The highest temperature, and then the highest price, without a worse loss.

    Args:
        trial: function from temperature and price to the loss of every held-out
            example.
        ceiling: T_max.
        largest_price: c_max.
        tolerance: changes of the mean loss up to this are neglected, in nats.
        found: results of an interrupted search, which are not computed again.
        keep: called with the results so far after every trial.

    Returns:
        T, c, and the mean losses of all trials.
    """
    found = dict(found or {})

    def tried(temperature: float, price: float) -> tuple[float, float]:
        if (temperature, price) not in found:
            found[temperature, price] = trial(temperature, price)
            keep(found)
        return temperature, price

    def suffers(there: tuple[float, float], here: tuple[float, float]) -> bool:
        return is_worse(found[there], found[here], tolerance)

    grid = [ceiling * RATIO**-power for power in range(LOWEST + 1)]
    at, path = tried(grid[FIRST], largest_price), list(range(FIRST))[::-1]
    for power in path:
        up = tried(grid[power], largest_price)
        if suffers(up, at):
            break
        at = up
    if at[0] == grid[FIRST]:
        for power in range(FIRST + 1, LOWEST + 1):
            down = tried(grid[power], largest_price)
            if not suffers(at, down):
                break
            at = down
    for part in PRICES:
        down = tried(at[0], part * largest_price)
        if not suffers(at, down):
            break
        at = down
    return Search(*at, {pair: float(np.mean(losses)) for pair, losses in found.items()})


def is_worse(
    losses: Float[np.ndarray, " held"],
    others: Float[np.ndarray, " held"],
    tolerance: float,
) -> bool:
    """Whether losses exceed others on average, by more than tolerance and noise."""
    if not np.isfinite(losses).all():
        return bool(np.isfinite(others).all())
    if not np.isfinite(others).all():
        return False
    change = losses - others
    return bool(change.mean() > max(tolerance, change.std() / len(change) ** 0.5))


@dataclasses.dataclass(frozen=True)
class Trials:
    """The settings that all trials share with the run that follows.

    Attributes:
        recipe: recipe of the run, without its schedule and prior.
        learned: the initial parameters of the optimizer.
        moving: the initial state of the network, such as batch statistics.
        data: the argument of `fit`.
        arrays: the data as arrays, or None.
        held: mask of the examples that are held out; None if they are not part of the
            data.
        held_data: inputs and targets of the held-out examples.
        epochs: epochs of the run.
        batch_size: examples per step, for arrays.
        cools: whether the step size falls during a run.
        speed: factor of the step size.
        key: random key of the run.
        layout: placement of arrays on devices.
        progress: whether to show a progress bar.
        ceiling: T_max.
        price: c_max.
        tolerance: changes of the mean held-out loss up to this are neglected.
    """

    recipe: Recipe
    learned: Any
    moving: Any
    data: Any
    arrays: Any
    held: Bool[np.ndarray, " examples"] | None
    held_data: Any
    epochs: int
    batch_size: int
    cools: bool
    speed: float
    key: PRNGKeyArray
    layout: Layout
    progress: bool
    ceiling: float
    price: float
    tolerance: float

    def steps_per_epoch(self) -> int:
        """Steps of an epoch; for an iterable, estimated from its first batch."""
        if self.held is not None:
            return len(self.held) // self.batch_size
        first = next(iter(iterate(self.data, 0)))
        return max(1, self.recipe.num_data // len(jax.tree.leaves(first)[0]))

    def recipe_at(
        self, temperature: float, price: float, epochs: int, trial: bool = False
    ) -> Recipe:
        """The recipe of a trial, or of the run, in which no example is held out."""
        steps, held = self.steps_per_epoch(), self.held
        if held is not None:
            held = held if trial else np.zeros_like(held)
            # The divergence is divided by the number of all examples, not of those
            # learned from.
            temperature = temperature / (1 - held.mean())
        schedule = Schedule(
            temperature=jnp.asarray(temperature, jnp.float32),
            steps=jnp.asarray(epochs * steps, jnp.float32),
            held=None if held is None else jnp.asarray(held),
            num_steps=steps,
            cools=self.cools,
            speed=jnp.asarray(np.float32(self.speed)),
        )
        # As an array, it can change without new compilation.
        share = jnp.asarray(1 / (1 + math.exp(price)), jnp.float32)
        prior = SpikeSlabPrior(inclusion_prob=share, slab_scale="learned")
        return dataclasses.replace(self.recipe, schedule=schedule, prior=prior)

    def search(
        self,
        found: Tried | None = None,
        keep: Callable[[Tried], Any] = lambda found: None,
    ) -> Search:
        """Try temperatures and prices; see the top of the module.

        Args:
            found: as for `find_pressure`.
            keep: as for `find_pressure`.
        """
        if self.ceiling == 0:
            return Search(0.0, 0.0, {})
        least = math.ceil(TRIAL_STEPS / self.speed / self.steps_per_epoch())
        epochs = min(self.epochs, max(math.ceil(SHARE * self.epochs), least))
        bar = tqdm(
            disable=not self.progress, unit="epoch", desc="temperature", leave=False
        )

        def trial(temperature: float, price: float) -> Float[np.ndarray, " held"]:
            recipe = self.recipe_at(temperature, price, epochs, trial=True)
            state = starting_state(self.learned, recipe.optimizer, self.moving)
            run = Loop(recipe, state, self.key, {}, None, self.layout)
            arrays, done = run.layout.everywhere(self.arrays), 0
            while done < epochs and bool(run.state.healthy):
                most = epochs - done
                count = run.learn(self.data, arrays, done, self.batch_size, most)
                bar.update(count)
                done += count
            if not bool(run.state.healthy):
                return np.full(1, np.inf)
            ensemble, likelihood = run.current()
            key = jax.random.fold_in(self.key, 3)
            if recipe.restriction is not None:
                ensemble = recipe.restriction.restrict(ensemble, key)
            return example_losses(ensemble, likelihood, *self.held_data, key=key)

        with bar:
            return find_pressure(
                trial, self.ceiling, self.price, self.tolerance, found, keep
            )

    def finish(self, result: FitResult, found: Search) -> FitResult:
        """The result of the run, after `remove_jointly`.

        Nothing is removed at T = 0, with a restriction, or from a run that was very
        short or was stopped by Ctrl-C or a callback.
        """
        steps = len(result.history["epoch"]) * self.steps_per_epoch() * self.speed
        whole = result.stopped in ("finished", "early") and steps >= LEARNED_STEPS
        result = dataclasses.replace(result, search=found)
        if not whole or found.temperature == 0 or self.recipe.restriction is not None:
            return result
        recipe = self.recipe_at(found.temperature, found.price, self.epochs)
        ensemble = remove_jointly(
            result.ensemble,
            result.likelihood,
            self.held_data if self.arrays is None else self.arrays,
            recipe.prior,
            found.temperature / recipe.num_data,
            self.tolerance * min(found.temperature, 1.0),
            len(jax.tree.leaves(self.held_data)[0]),
            key=jax.random.fold_in(self.key, 4),
        )
        return dataclasses.replace(result, ensemble=ensemble)
