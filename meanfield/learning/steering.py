r"""How the pressure on the connections follows the held-out loss.

With the level u, which starts at ln 0.03 and rises by a stride after every round,

    T = T_max · exp(min(u, 0)),        c = min(c₀ · exp(max(u, 0)), c_max):

first the temperature rises to its ceiling, then the price to

    c_max = ln W + ½ ln n,

the length of the message which of W connections is there, and how large, known as well
as n examples can tell (minimum description length; Rissanen 1978). A round of epochs is
judged by the loss of the held-out examples under the average of its last steps, each
example against itself at the best round:

    worse by at most the tolerance        go on, and keep this round
    worse, but not clearly (one standard  go on
    error above the tolerance)
    clearly worse                         step back to the last round that was kept
    worse, while the training loss fell   memory, not pressure: go on, judge from here

A step back, c_max or the end of its time ends the rise. T and c stay, and the
optimizer's steps shrink along a cosine: the network cools. What memory looks like then
still raises the pressure by a stride. For the last part of the run the held-out
examples join the others.
"""

import dataclasses
import enum
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from .priors import SpikeSlabPrior
from .selective import LARGEST_PRICE, Selective
from .training import Schedule

LOWEST, STRIDE = math.log(0.03), math.log(1.5)
# The part of a run in which the pressure may rise, and in how many rounds.
RISING, ROUNDS = 0.5, 16
# The part after which all examples are learned from.
APART = 0.75
# The average is over this part of a round's steps: more lags, less is noisy.
AVERAGED = 0.25
NEVER = 2**30


@dataclasses.dataclass(frozen=True)
class Pressure:
    """Where the pressure stands; numbers alone, so that a checkpoint can keep it.

    Attributes:
        level: u.
        kept: u of the round that a step back leads to.
        loss: mean held-out loss when last measured.
        best_nll: training loss of the best round.
        rounds: number of rounds judged since the rise, or the cooling, began.
        cooling: number of epochs done when the rise ended, or None.
        cool_from: the step of that moment.
        together: whether all examples are learned from.
    """

    level: float = LOWEST
    kept: float = LOWEST
    loss: float = math.nan
    best_nll: float = math.inf
    rounds: int = 0
    cooling: int | None = None
    cool_from: int = NEVER
    together: bool = False


class Verdict(enum.Enum):
    """How the held-out loss of a round compares with that of the best one."""

    BEST = "better than all before"
    GOOD = "worse by at most the tolerance"
    DOUBTFUL = "worse, but not clearly"
    MEMORY = "worse, while the training loss fell"
    BAD = "clearly worse"


def judge(
    losses: Float[np.ndarray, " held"],
    best: Float[np.ndarray, " held"] | None,
    nll: float,
    best_nll: float,
    tolerance: float,
) -> Verdict:
    """Judge a round.

    Args:
        losses: held-out loss of every example.
        best: the same of the best round; None in the first.
        nll: training loss of the round.
        best_nll: training loss of the best round.
        tolerance: how much worse the mean may be.
    """
    if best is None:
        return Verdict.BEST
    differences = losses - best
    change, error = differences.mean(), differences.std() / math.sqrt(len(losses))
    if change < 0:
        return Verdict.BEST
    if change <= tolerance:
        return Verdict.GOOD
    clear = change > tolerance + error
    if clear and nll < best_nll:
        return Verdict.MEMORY
    return Verdict.BAD if clear else Verdict.DOUBTFUL


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
        self.apart = max(1, round(APART * epochs))
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
        return SpikeSlabPrior(inclusion_prob=share, slab_scale="learned")

    def schedule(self) -> Schedule:
        """The schedule of the next epoch."""
        held, part = self.held, 1.0
        if held is not None and self.pressure.together:
            held = np.zeros_like(held)
        elif held is not None:
            part = 1 - held.mean()
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
        ends = (self.rising, self.apart, self.epochs)
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
        now, (kept, best) = self.pressure, self.memory
        if now.together:
            self.pressure = dataclasses.replace(now, loss=float(np.mean(losses)))
            return learned
        verdict = judge(
            losses,
            np.asarray(best) if now.rounds else None,
            nll,
            now.best_nll,
            self.rule.tolerance,
        )
        highest = self.price == self.largest_price
        now = dataclasses.replace(
            now, loss=float(np.mean(losses)), rounds=now.rounds + 1
        )
        if verdict in (Verdict.BEST, Verdict.MEMORY):
            now = dataclasses.replace(now, best_nll=nll)
            best = jnp.asarray(losses, best.dtype)
        if now.cooling is not None:
            raised = now.level + STRIDE * (verdict is Verdict.MEMORY)
            now = dataclasses.replace(now, level=raised)
            self.pressure = dataclasses.replace(now, together=epoch >= self.apart)
            self.memory = (kept, best)
            return learned
        if verdict not in (Verdict.BAD, Verdict.DOUBTFUL):
            kept = jax.tree.map(jnp.copy, learned)
            now = dataclasses.replace(now, kept=now.level)
        self.memory = (kept, best)
        if verdict is Verdict.BAD:
            learned = jax.tree.map(jnp.copy, kept)
            now = dataclasses.replace(now, level=now.kept)
        if verdict is Verdict.BAD or highest or epoch >= self.rising:
            now = dataclasses.replace(
                now,
                rounds=0,
                cooling=epoch,
                cool_from=step,
                together=epoch >= self.apart,
            )
        else:
            now = dataclasses.replace(now, level=now.level + STRIDE)
        self.pressure = now
        return learned
