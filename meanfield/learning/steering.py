r"""How the pressure on the connections follows the held-out loss.

With the level u, which starts at ln 0.03 and rises by a stride after every round,

    T = T_max · exp(min(u, 0)),        c = min(c₀ · exp(max(u, 0)), c_max):

first the temperature rises to its ceiling, then the price to

    c_max = ln W + ½ ln n,

the length of the message which of W connections is there, and how large, known as well
as n examples can tell (minimum description length; Rissanen 1978). A round of epochs is
judged by the loss of the held-out examples under the average of its last steps, each
example against itself at the best round:

    worse by at most the tolerance      go on; better: the new best
    and one standard error
    worse, while the training loss fell memory, not pressure: go on from a new best
    worse, and the training loss rose   undo the round, halve the stride

When the stride is spent, c_max is reached or the time is over, T and c stay, the
held-out examples join the others, and the optimizer's steps shrink along a cosine.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from .priors import SpikeSlabPrior
from .selective import LARGEST_PRICE, Selective
from .training import Schedule

LOWEST, STRIDE, LAST_STRIDE = math.log(0.03), math.log(1.5), math.log(1.1)
# The part of a run in which the pressure may rise, and in how many rounds.
RISING, ROUNDS = 0.6, 16
# The average is over this part of a round's steps.
AVERAGED = 0.5
NEVER = 2**30


@dataclasses.dataclass(frozen=True)
class Pressure:
    """Where the pressure stands; numbers alone, so that a checkpoint can keep it.

    Attributes:
        level: u.
        stride: by which u rises next.
        kept: u of the round to which an undone one goes back.
        loss: mean held-out loss when last measured.
        best_nll: training loss of the best round.
        rounds: number of rounds judged.
        cooling: number of epochs done when the pressure stopped rising, or None.
        cool_from: the step of that moment.
    """

    level: float = LOWEST
    stride: float = STRIDE
    kept: float = LOWEST
    loss: float = math.nan
    best_nll: float = math.inf
    rounds: int = 0
    cooling: int | None = None
    cool_from: int = NEVER


def judge(
    pressure: Pressure,
    losses: Float[np.ndarray, " held"],
    best: Float[np.ndarray, " held"],
    nll: float,
    tolerance: float,
) -> tuple[Pressure, bool, bool]:
    """Judge a round.

    Args:
        pressure: as it stood in the round.
        losses: held-out loss of every example.
        best: the same of the best round.
        nll: training loss of the round.
        tolerance: how much worse the mean may be.

    Returns:
        The pressure of the next round, whether this one stands, and whether it is the
        new best.
    """
    first = pressure.rounds == 0
    differences = np.zeros(len(losses)) if first else losses - best
    change, error = differences.mean(), differences.std() / math.sqrt(len(losses))
    worse = bool(change > tolerance + error)
    memory = worse and nll < pressure.best_nll
    new_best = bool(first or change < 0 or memory)
    stands = memory or not worse
    pressure = dataclasses.replace(
        pressure, rounds=pressure.rounds + 1, loss=float(np.mean(losses))
    )
    if new_best:
        pressure = dataclasses.replace(pressure, best_nll=nll)
    if stands:
        level, stride, kept = pressure.level, pressure.stride, pressure.level
    else:
        level, stride, kept = pressure.kept, pressure.stride / 2, pressure.kept
    pressure = dataclasses.replace(
        pressure, level=level + stride, stride=stride, kept=kept
    )
    return pressure, stands, new_best


class Steering:
    """The pressure of one run, and what it needs to go back.

    Args:
        rule: the settings.
        ceiling: T_max.
        num_weights: W.
        num_data: n.
        epochs: of the run.
        batch_size: examples a step, of arrays.
        held: which examples are held out; None where they are not among the data.
        held_data: their inputs and targets.
        cools: whether the optimizer's steps shrink at the end.
        learned: the numbers at the start.
    """

    def __init__(
        self,
        rule: Selective,
        *,
        ceiling: float,
        num_weights: int,
        num_data: int,
        epochs: int,
        batch_size: int,
        held: Bool[np.ndarray, " examples"] | None,
        held_data: Any,
        cools: bool,
        learned: Any,
    ):
        self.rule, self.ceiling, self.epochs = rule, ceiling, epochs
        self.held, self.held_data, self.cools = held, held_data, cools
        self.num_steps = 0 if held is None else int((~held).sum()) // batch_size
        message = math.log(max(num_weights, 1)) + 0.5 * math.log(max(num_data, 1))
        self.largest_price = max(min(message, LARGEST_PRICE), rule.price)
        self.pressure = Pressure()
        self.rising = max(1, round(RISING * epochs))
        self.round_length = max(1, round(self.rising / ROUNDS))
        # What a checkpoint keeps beside the numbers of the pressure: the numbers of the
        # round to go back to, and the held-out losses of the best one.
        num_held = len(jax.tree.leaves(held_data[0])[0])
        self.memory = (jax.tree.map(jnp.copy, learned), jnp.zeros(num_held))

    def resume(self, pressure: dict[str, Any], memory: Any) -> None:
        """Go on from a checkpoint."""
        self.pressure, self.memory = Pressure(**pressure), memory

    @property
    def temperature(self) -> float:
        """T."""
        return self.ceiling * math.exp(min(self.pressure.level, 0.0))

    @property
    def price(self) -> float:
        """The price c of a connection, in nats."""
        price = self.rule.price * math.exp(max(self.pressure.level, 0.0))
        return min(price, self.largest_price)

    def prior(self) -> SpikeSlabPrior:
        """The prior of the next epoch, its price an array: nothing compiles anew."""
        share = jax.nn.sigmoid(-jnp.asarray(self.price, jnp.float32))
        return SpikeSlabPrior(share, "learned")

    def schedule(self) -> Schedule:
        """The schedule of the next epoch."""
        held, part = self.held, 1.0
        if held is not None and self.pressure.cooling is None:
            part = 1 - held.mean()
        elif held is not None:
            held = np.zeros_like(held)
        cooling = self.pressure.cooling
        shrinks = cooling is not None and self.cools
        per_epoch = self.pressure.cool_from / cooling if cooling else 1
        return Schedule(
            temperature=jnp.asarray(self.temperature / part, jnp.float32),
            cool_from=jnp.asarray(self.pressure.cool_from if shrinks else NEVER),
            cool_steps=jnp.asarray(
                max(per_epoch * (self.epochs - (cooling or 0)), 1), jnp.float32
            ),
            averaging=jnp.asarray(self._averaging(), jnp.float32),
            held=None if held is None else jnp.asarray(held),
            num_steps=self.num_steps,
        )

    def _averaging(self) -> float:
        steps = self.num_steps or 100
        return 1 / max(AVERAGED * self.round_length * steps, 1)

    def is_due(self, epoch: int) -> bool:
        """Whether the held-out loss is to be measured after so many epochs."""
        ends = (self.rising, self.epochs)
        return epoch % self.round_length == 0 or epoch in ends

    def after(
        self,
        epoch: int,
        step: int,
        losses: Float[np.ndarray, " held"],
        nll: float,
        learned: Any,
    ) -> Any:
        """Take note of a round.

        Args:
            epoch: number of epochs done.
            step: number of steps done.
            losses: held-out loss of every example.
            nll: training loss of the last epoch.
            learned: the numbers that are learned.

        Returns:
            The numbers to go on with.
        """
        if self.pressure.cooling is not None:
            self.pressure = dataclasses.replace(
                self.pressure, loss=float(np.mean(losses))
            )
            return learned
        kept, best = self.memory
        most = self.price == self.largest_price
        self.pressure, stands, new_best = judge(
            self.pressure, losses, np.asarray(best), nll, self.rule.tolerance
        )
        if stands:
            kept = jax.tree.map(jnp.copy, learned)
        if new_best:
            best = jnp.asarray(losses, best.dtype)
        self.memory = (kept, best)
        spent = self.pressure.stride < LAST_STRIDE or (most and stands)
        if epoch >= self.rising or spent:
            self.pressure = dataclasses.replace(
                self.pressure, level=self.pressure.kept, cooling=epoch, cool_from=step
            )
            stands = False
        return learned if stands else jax.tree.map(jnp.copy, kept)
