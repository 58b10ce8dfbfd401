r"""Which temperature and price serve the data: short runs, judged on a held-out part.

    c_max = ln W + ½ ln n

is the highest price of a connection, in nats: the length of the message which of W
connections is there, and how large, known as well as n examples can tell (minimum
description length; Rissanen 1978). Clean data want a low temperature: their examples
say more than the likelihood of one alone knows (Wenzel et al. 2020, arXiv:2002.02405).
Noisy ones want T = 1, and that most connections go.

At c_max trials go from T_max / 10 upwards, by factors of √10, while the loss of the
held-out examples does not suffer; if it does at the first step up, they go down while
it gains. Then, at that temperature, the price is a quarter, or 0, where that gains. A
loss suffers, or gains, when its mean changes by more than the tolerance and by more
than one standard error of the differences of single examples: of what cannot be told
apart the sparsest is taken (Breiman et al. 1984). The tolerance is not 0 because a
trial is shorter than the run that follows, and a price costs a short run more: on MNIST
0.0022 nats in trials of 6 epochs, nothing in 20. All trials begin at the same start,
with the same examples, draws and decay of the steps: what differs is T or c. The
held-out part is then given back: the run at the chosen two learns from all examples.
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
from .loop import Loop
from .priors import SpikeSlabPrior
from .results import Search
from .schedule import Schedule
from .sharding import Layout
from .state import starting_state
from .training import Recipe
from .validation import example_losses

RATIO = math.sqrt(10)
FIRST, LOWEST = 2, 6  # Powers of 1 / RATIO.
PRICES = (0.25, 0.0)  # Parts of the highest price, below 1.
# A trial takes this part of the run's steps, and so many at least.
SHARE, TRIAL_STEPS = 0.2, 3000


def message_length(num_weights: int, num_data: int) -> float:
    """The price c of a connection, in nats."""
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
    """The highest temperature, then the highest price, of a loss that is good enough.

    Args:
        trial: from temperature and price to the loss of every held-out example.
        ceiling: T_max.
        largest_price: c_max.
        tolerance: a change of the mean loss that does not count, in nats.
        found: what an interrupted search has tried, which is not tried again.
        keep: called with all that was tried, after every trial.

    Returns:
        T, c, and the mean loss of all that was tried.
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
    """Whether losses are worse than others, by more than tolerance and noise."""
    if not np.isfinite(losses).all():
        return bool(np.isfinite(others).all())
    if not np.isfinite(others).all():
        return False
    change = losses - others
    return bool(change.mean() > max(tolerance, change.std() / len(change) ** 0.5))


@dataclasses.dataclass(frozen=True)
class Trials:
    """What all trials, and the run that follows, have in common.

    Attributes:
        recipe: of the run, without its schedule and prior.
        learned: the numbers at the start.
        moving: the network's own state at the start.
        data: as `fit` was given it.
        arrays: the same as arrays, or None.
        held: which examples are held out; None where they are not among the data.
        held_data: their inputs and targets.
        epochs: of the run.
        batch_size: examples a step, of arrays.
        cools: whether the optimizer's steps shrink.
        key: of the run.
        layout: where arrays live.
        progress: whether to show a progress bar.
        ceiling: T_max.
        price: c_max.
        tolerance: a change of the mean held-out loss that does not count.
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
    key: PRNGKeyArray
    layout: Layout
    progress: bool
    ceiling: float
    price: float
    tolerance: float

    def steps_per_epoch(self) -> int:
        """Steps of an epoch; of batches from outside, as the first one suggests."""
        if self.held is not None:
            return len(self.held) // self.batch_size
        first = next(iter(iterate(self.data, 0)))
        return max(1, self.recipe.num_data // len(jax.tree.leaves(first)[0]))

    def recipe_at(
        self, temperature: float, price: float, epochs: int, trial: bool = False
    ) -> Recipe:
        """The recipe of a trial, or of the run, which holds nothing out."""
        steps, held = self.steps_per_epoch(), self.held
        if held is not None:
            held = held if trial else np.zeros_like(held)
            # The divergence is divided by the number of all examples.
            temperature = temperature / (1 - held.mean())
        schedule = Schedule(
            temperature=jnp.asarray(temperature, jnp.float32),
            steps=jnp.asarray(epochs * steps, jnp.float32),
            held=None if held is None else jnp.asarray(held),
            num_steps=steps,
            cools=self.cools,
        )
        # An array: nothing compiles anew.
        share = jax.nn.sigmoid(-jnp.asarray(price, jnp.float32))
        prior = SpikeSlabPrior(inclusion_prob=share, slab_scale="learned")
        return dataclasses.replace(self.recipe, schedule=schedule, prior=prior)

    def search(
        self,
        found: Tried | None = None,
        keep: Callable[[Tried], Any] = lambda found: None,
    ) -> Search:
        """Try temperatures and prices; see the top of the module.

        Args:
            found: as for `find_pressure`, like `keep`.
            keep: as there.
        """
        if self.ceiling == 0:
            return Search(0.0, 0.0, {})
        least = -(-TRIAL_STEPS // self.steps_per_epoch())
        epochs = min(self.epochs, max(math.ceil(SHARE * self.epochs), least))
        bar = tqdm(
            disable=not self.progress, unit="epoch", desc="temperature", leave=False
        )

        def trial(temperature: float, price: float) -> Float[np.ndarray, " held"]:
            recipe = self.recipe_at(temperature, price, epochs, trial=True)
            state = starting_state(self.learned, recipe.optimizer, self.moving)
            run = Loop(recipe, state, self.key, {}, None, self.layout)
            for epoch in range(epochs):
                run.learn(
                    self.data,
                    run.layout.everywhere(self.arrays),
                    epoch,
                    self.batch_size,
                )
                bar.update()
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
