r"""A network split at the units of one layer, to be evaluated for many coalitions.

Everything before the layer is computed once. In a coalition S the units outside are
replaced by constants r_i (mean activation or zero), h_i(S) = r_i + 1[i ∈ S](h_i − r_i).

If all operations that read the layer are dense, their result is a sum over units,

    G(S) = G(∅) + Σ_{i∈S} (h_i − r_i) w_i,

so the n + 1 coalitions along an order of the units need one running sum instead of
n + 1 products (see `sweep`). For other operations (convolutions, loops, norms over the
layer) the part after the layer is evaluated for every coalition, many at once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from meanfield.credit.payoffs import Measure
from meanfield.program.reads import UnitRead
from meanfield.program.steps import Program, Step, run_loop
from meanfield.program.units import Units

from .running_sums import running_sums, shares_of

# Entries that are computed at once: to fit a core's caches, or to use a whole GPU.
ELEMENTS = {"cpu": 2**16}
# A running sum is read and written at every step, so it should fit the nearest cache.
SWEEP_ELEMENTS = {"cpu": 2**12}
ELEMENTS_ELSEWHERE = 2**25
MOST_AT_ONCE = 256

Masks = dict[str, Bool[Any, " units"]]
Key = tuple[str, int]


class State(eqx.Module):
    """Everything that is computed before any coalition is evaluated.

    Args:
        values: values that the part after the layer reads, by place.
        rests: the constants r_i, by layer and number of the read.
        masks: coalitions of other layers.
    """

    values: dict[int, Any]
    rests: dict[Key, Array]
    masks: Masks


class CutNetwork:
    """The compiled parts of a neuron game, for one shape of batch.

    Args:
        program: the network.
        layer: the layer whose units are the players.
        units: the units of this layer and of the layers with fixed coalitions, by name.
        measure: payoff of every example.
        replacement: "mean" or "zero".
        stale: whether the means r_i are those of the whole network, rather than those
            of the network with fixed coalitions in other layers.
    """

    def __init__(
        self,
        program: Program,
        layer: str,
        units: Mapping[str, Units],
        measure: Measure,
        *,
        replacement: str,
        stale: bool,
    ):
        self.program, self.layer, self.units = program, layer, dict(units)
        self.measure, self.replacement, self.stale = measure, replacement, stale
        own = self.units[layer]
        outer = {r.place for r in own.reads if r.loop is None}
        loops = set(own.bodies)
        starts = outer | {p for n in loops for p in program.steps[n].outputs}
        self.behind = sorted({*loops, *program.readers(starts)})
        made = {p for n in self.behind for p in program.steps[n].outputs}
        self._before = sorted(set(range(len(program.steps))) - {*self.behind})
        self._cut = outer - made
        self._needed = _needed(program, self.behind, made) | self._cut
        self.sums = running_sums(program, own, made)
        self.prepare = eqx.filter_jit(self._prepare)
        self.scores = eqx.filter_jit(self._scores)
        self.sweep = eqx.filter_jit(self._sweep)

    # The reference: the constants r_i, and all values before the layer.

    def _prepare(self, params: Any, x: Any, masks: Masks) -> State:
        rests: dict[Key, Array] = {}
        self.program.advance(
            self.program.start(params, x),
            change=self._noting(rests, masks),
            loops={n: self._noting_loop(n, rests, masks) for n in self._loop_steps()},
        )
        state = State({}, rests, masks)
        change, loops = self._holding(state, None)
        values = self.program.start(params, x)
        self.program.advance(values, self._before, change=change, loops=loops)
        return State({p: values[p] for p in sorted(self._needed)}, rests, masks)

    def _noting(self, rests: dict[Key, Array], masks: Masks) -> Callable:
        def change(place: int, value: Any) -> Any:
            for name, number, read in self._at(place, None):
                rest = self._rest([value], read)
                rests[name, number] = rest
                if name in masks and not self.stale:
                    value = hold(value, read, masks[name], rest)
            return value

        return change

    def _noting_loop(self, step: int, rests: dict[Key, Array], masks: Masks):
        def run(this: Step, operands: list[Any]) -> list[Any]:
            body = self._body(step)
            places = {p for p in range(len(body.shapes)) if self._at(p, step)}
            results, seen = run_loop(
                this,
                body,
                operands,
                lambda place, value: value,
                lambda place, value: value if place in places else None,
            )
            for place in places:
                for name, number, read in self._at(place, step):
                    rests[name, number] = self._rest(seen[place], read)
            held = {name for name in self._names(step) if name in masks}
            if held and not self.stale:
                state = State({}, rests, {name: masks[name] for name in held})
                return self._holding(state, None)[1][step](this, operands)
            return results

        return run

    def _rest(self, values: Any, read: UnitRead) -> Array:
        """The constants r_i of units; `values` has an additional first axis (time)."""
        stacked = jnp.stack(values) if isinstance(values, list) else values
        axes = tuple(a for a in range(stacked.ndim) if a == 0 or a - 1 not in read.kept)
        low, high = stacked.min(axes, keepdims=True), stacked.max(axes, keepdims=True)
        if self.replacement == "zero":
            return jnp.zeros_like(low[0])
        # A constant unit is replaced by exactly its constant: its value is exactly 0.
        return jnp.where(low == high, low, stacked.mean(axes, keepdims=True))[0]

    # Replacing units by constants.

    def _holding(self, state: State, mask: Any) -> tuple[Callable, dict]:
        """`change` and `loops` of `advance` that replace the units outside coalitions.

        The coalitions are those of `state` and, unless None, `mask` in this layer.
        """
        masks = state.masks if mask is None else {**state.masks, self.layer: mask}

        def at(place: int, value: Any, loop: int | None) -> Any:
            for name, number, read in self._at(place, loop):
                if name in masks:
                    rest = state.rests[name, number]
                    value = hold(value, read, masks[name], rest)
            return value

        def in_loop(number: int) -> Callable:
            def run(step: Step, operands: list[Any]) -> list[Any]:
                body = self._body(number)
                change = lambda place, value: at(place, value, number)
                return run_loop(step, body, operands, change)[0]

            return run

        played = {n for n in self._loop_steps() if self._names(n) & set(masks)}
        return (
            lambda place, value: at(place, value, None),
            {number: in_loop(number) for number in played},
        )

    def _at(self, place: int, loop: int | None) -> list[tuple[str, int, UnitRead]]:
        return [
            (name, number, read)
            for name, units in self.units.items()
            for number, read in enumerate(units.reads)
            if read.place == place and read.loop == loop
        ]

    def _loop_steps(self) -> set[int]:
        return {step for units in self.units.values() for step in units.bodies}

    def _names(self, step: int) -> set[str]:
        return {name for name, units in self.units.items() if step in units.bodies}

    def _body(self, step: int) -> Program:
        return next(u.bodies[step] for u in self.units.values() if step in u.bodies)

    # Evaluating coalitions.

    def _play(self, state: State, mask: Any, y: Any) -> Float[Array, " examples"]:
        change, loops = self._holding(state, mask)
        values = dict(state.values)
        for place in self._cut:
            values[place] = change(place, values[place])
        self.program.advance(values, self.behind, change=change, loops=loops)
        return self.measure(self.program.results(values), y)

    def _scores(self, state: State, masks: Any, y: Any) -> Array:
        play = lambda mask: self._play(state, mask, y)
        size = self.at_once(masks.shape[0])
        return jax.lax.map(play, masks, batch_size=size)

    def at_once(
        self, most: int = MOST_AT_ONCE, limits: Mapping[str, int] = ELEMENTS
    ) -> int:
        """Number of coalitions, or orders, to evaluate at once: a power of two."""
        widest = max(
            (
                int(np.prod(self.program.shapes[place]))
                for number in self.behind
                for place in self.program.steps[number].outputs
            ),
            default=1,
        )
        elements = limits.get(jax.default_backend(), ELEMENTS_ELSEWHERE)
        fits = int(np.clip(elements // max(widest, 1), 1, min(most, MOST_AT_ONCE)))
        return 1 << (fits.bit_length() - 1)

    def _sweep(self, state: State, orders: Any, y: Any) -> Array:
        """Mean payoffs along orders, (orders, players + 1), by running sums."""
        assert self.sums is not None
        parts = [
            shares_of(
                product,
                self.program,
                state.values,
                state.rests[self.layer, product.number_of_read],
            )
            for product in self.sums
        ]
        skipped = {product.number for product in self.sums}
        outs = [product.out for product in self.sums]
        places = [
            self.program.steps[product.number].outputs[0] for product in self.sums
        ]
        rest = [n for n in self.program.readers(places) if n not in skipped]
        change, loops = self._holding(state, None)

        def payoff(totals: list[Array]) -> Array:
            values = dict(state.values)
            for place, total, out in zip(places, totals, outs, strict=True):
                values[place] = change(place, total.astype(out))
            self.program.advance(values, rest, change=change, loops=loops)
            return self.measure(self.program.results(values), y).mean()

        def join(totals: list[Array], players: Array) -> Any:
            earned = jax.vmap(payoff)(totals)
            added = [
                total + part.share(players)
                for total, part in zip(totals, parts, strict=True)
            ]
            return added, earned

        def together(orders: Array) -> Array:
            count, size = orders.shape
            start = [
                jnp.broadcast_to(part.start, (count, *part.start.shape))
                for part in parts
            ]
            # Player n adds nothing; with it the last coalition is evaluated like all
            # the others.
            last = jnp.full((count, 1), size)
            steps = jnp.concatenate([orders, last], 1).T
            return jax.lax.scan(join, start, steps)[1].T

        size = self.at_once(orders.shape[0], SWEEP_ELEMENTS)
        groups = orders.reshape(-1, size, orders.shape[1])
        return jax.lax.map(together, groups).reshape(orders.shape[0], -1)


def hold(value: Array, read: UnitRead, mask: Any, rest: Array) -> Array:
    """Replace units outside the mask by their constants."""
    shape = [1] * value.ndim
    shape[read.axis] = len(read.owner)
    inside = jnp.asarray(mask)[read.owner].reshape(shape)
    return jnp.where(inside, value, rest.astype(value.dtype))


def _needed(program: Program, numbers: Sequence[int], made: set[int]) -> set[int]:
    """Places of earlier values that the given steps, or the results, read."""
    read = {item for n in numbers for item in program.steps[n].inputs}
    return {p for p in {*read, *program.outputs} if isinstance(p, int)} - made
