r"""Adjust temperature and price of the selective rule by the held-out loss.

The level u starts at ln 0.03 and rises by a fixed step after every round of epochs:

    T = T_max · exp(min(u, 0)),        c = min(c₀ · exp(max(u, 0)), c_max).

So first the temperature rises to its maximum, then the price rises to

    c_max = ln W + ½ ln n,

the length of a message that says which of W connections is present and gives its weight
to the precision that n examples allow (minimum description length; Rissanen 1978).
After a round, the loss of the held-out examples is computed with the average of the
parameters over its last steps, and compared, example by example, with that of the best
round:

    worse by at most the tolerance        go on, and keep this round
    worse, but not clearly (less than one go on
    standard error above the tolerance)
    clearly worse                         return to the last round that was kept
    clearly worse, while the training     this is overfitting, not too high a level: go
    loss fell                             on, and compare with this round from now on

The rise ends with a return, at c_max, or after half of the run. Then T and c stay
constant and the optimizer's steps shrink along a cosine ("cooling"); only overfitting
still raises the level by a step. In the last quarter of the run the held-out examples
are used for training too.
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
# The part of a run in which the level may rise, and in how many rounds.
RISING, ROUNDS = 0.5, 16
# The part of a run after which all examples are used for training.
APART = 0.75
# Parameters are averaged over this part of a round's steps: a longer average is older,
# a shorter one noisier.
AVERAGED = 0.25
NEVER = 2**30


@dataclasses.dataclass(frozen=True)
class Pressure:
    """The state of the adjustment; only numbers, so that a checkpoint can store it.

    Attributes:
        level: u.
        kept: u of the last round that was kept.
        loss: mean held-out loss when last measured.
        best_nll: training loss of the best round.
        rounds: number of rounds since the rise, or the cooling, began.
        cooling: number of epochs done when the rise ended, or None.
        cool_from: number of steps done when the rise ended.
        together: whether all examples are used for training.
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
    """Compare a round with the best round.

    Args:
        losses: loss of every held-out example.
        best: the same for the best round; None in the first round.
        nll: training loss of the round.
        best_nll: training loss of the best round.
        tolerance: accepted increase of the mean loss.
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
    """Temperature and price of one run, with what is needed to return to a round.

    Args:
        rule: the settings.
        ceiling: T_max.
        num_weights: W.
        num_data: n.
        epochs: number of epochs of the run.
        batch_size: examples per step, for arrays.
        held: a mask of the examples that are held out; None if there are none because
            validation data take their place.
        held_data: inputs and targets of the held-out examples, or the validation data.
        cools: whether the optimizer's steps shrink at the end.
        learned: the initial parameters.
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
        # A checkpoint also stores the parameters of the last round that was kept, and
        # the held-out losses of the best round.
        num_held = len(jax.tree.leaves(held_data[0])[0])
        self.memory = (jax.tree.map(jnp.copy, learned), jnp.zeros(num_held))

    def resume(self, pressure: dict[str, Any], memory: Any) -> None:
        """Continue from a checkpoint."""
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
        """The prior of the next epoch; the price is an array, to avoid compilations."""
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
        """Whether the held-out loss is to be measured after this epoch."""
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
        """Adjust the level after a round.

        Args:
            epoch: number of epochs done.
            step: number of steps done.
            losses: loss of every held-out example.
            nll: training loss of the last epoch.
            learned: the learned parameters.

        Returns:
            The parameters to continue with.
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
