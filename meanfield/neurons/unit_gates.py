r"""A gate on every unit, for the game whose players are neurons.

A unit outside a coalition is held at a constant r (its mean activation, or zero). If
unit j joins with probability s_j, the value that the other layers read is

    h_j → r_j + g_j (h_j − r_j),     g_j = s_j + √(s_j (1 − s_j)) ε_j,   ε ~ N(0, 1),

a gate with the mean and variance of a Bernoulli(s_j) variable. All readers of a unit
have the same gate, at all positions and times of an example, so the covariance between
pre-activations that read the same units is exact. The Gaussian approximation of a
pre-activation is accurate for many units. The constants r are those of the whole
network, and do not depend on the coalition.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from meanfield.credit.path_integral import Chunks, Gates
from meanfield.credit.payoffs import payoff_measure
from meanfield.elementary import safe_sqrt
from meanfield.program.reads import UnitRead
from meanfield.program.steps import Program, Step, run_loop, trace
from meanfield.program.units import Units, find_units
from meanfield.propagation.noise import fold_in, normal


class UnitGame(eqx.Module):
    """The game of the units of some layers: the payoff of a network with gates.

    Args:
        params: point parameters.
        likelihood: map from outputs to a distribution.
        rests: the constants r of units outside, by read; None before they are known.
        apply_fn: ``apply_fn(params, x)``, the outputs for a batch.
        names: layers whose units are the players.
        sizes: number of units of each layer.
        payoff: name of the payoff.
        temperature: temperature of the payoff "free_energy".
        replacement: "mean" or "zero".
    """

    params: Any
    likelihood: Any
    rests: dict[str, Array] | None
    apply_fn: Any = eqx.field(static=True)
    names: tuple[str, ...] = eqx.field(static=True)
    sizes: tuple[int, ...] = eqx.field(static=True)
    payoff: str = eqx.field(static=True)
    temperature: float = eqx.field(static=True)
    replacement: str = eqx.field(static=True)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of the gates of every layer."""
        return {n: (size,) for n, size in zip(self.names, self.sizes, strict=True)}

    def opened(self, x: Any) -> tuple[Program, dict[str, Units]]:
        """The program for one example, and the units of every layer."""
        one = jax.tree.map(lambda leaf: leaf[:1], x)
        program = trace(self.apply_fn, self.params, one)
        return program, {name: find_units(program, name) for name in self.names}

    def earned(
        self, gates: Gates, x: Any, y: Any, key: PRNGKeyArray, sign: Any
    ) -> Float[Array, " examples"]:
        """Expected payoff of every example, up to the noise of one draw.

        Args:
            gates: by layer, the probability s that each unit joins.
            x: inputs.
            y: targets.
            key: a `jax.random.key`.
            sign: factor of all noise, 1 or −1.
        """
        examples = len(jax.tree.leaves(x)[0])
        drawn = {}
        for number, name in enumerate(self.names):
            gate = gates[name]
            noise = normal(fold_in(key, number), (examples, gate.size), gate.dtype)
            drawn[name] = gate + safe_sqrt(gate * (1 - gate)) * sign * noise
        return self._played(drawn, x, y)

    def grown(self, key: PRNGKeyArray) -> dict[str, Array]:
        """The time when each unit joins, for one random order of all units."""
        keys = jax.random.split(key, len(self.names))
        players = zip(self.names, self.sizes, keys, strict=True)
        return {name: jax.random.uniform(k, (size,)) for name, size, k in players}

    def earned_by(
        self,
        grown: dict[str, Array],
        times: Float[Array, " arrays"],
        x: Any,
        y: Any,
        key: PRNGKeyArray,
    ) -> Float[Array, " examples"]:
        """Payoff of the coalition of units that joined before the layers' `times`."""
        del key  # the network is not random
        examples = len(jax.tree.leaves(x)[0])
        masks = {}
        for number, name in enumerate(self.names):
            inside = (grown[name] < times[number]).astype(jnp.float32)
            masks[name] = jnp.broadcast_to(inside, (examples, inside.size))
        return self._played(masks, x, y)

    def _played(self, gates: dict[str, Array], x: Any, y: Any) -> Array:
        """Payoffs, with a row of gates for each example."""
        program, units = self.opened(x)
        rests = self.rests
        assert rests is not None
        measure = payoff_measure(self.payoff, self.likelihood, self.temperature)

        def one(gates: dict[str, Array], x: Any, y: Any) -> Array:
            x, y = jax.tree.map(lambda leaf: leaf[None], (x, y))

            def change(place: int, value: Any, loop: int | None = None) -> Any:
                for name, read in reads_at(units, place, loop):
                    gate = gates[name.rpartition(":")[0]]
                    value = hold_partly(value, read, gate, rests[name])
                return value

            def in_loop(number: int, body: Program, step: Step, operands: Any) -> Any:
                inside = lambda place, value: change(place, value, number)
                return run_loop(step, body, operands, inside)[0]

            values = _run(program, units, self.params, x, change, in_loop)
            return measure(program.results(values), y)[0]

        return jax.vmap(one)(gates, x, y)


@eqx.filter_jit
def with_rests(game: UnitGame, x: Any, chunks: Chunks) -> UnitGame:
    """The game with its constants r: means over the examples, or zeros.

    A mean is taken over examples, and over the axes that no reader of the unit sums, as
    in `NeuronGame`. The mean of a constant unit is exactly its constant, so the Shapley
    value of the unit is exactly 0.
    """
    program, units = game.opened(x)

    def observe(x: Any) -> Any:
        x = jax.tree.map(lambda leaf: leaf[None], x)
        return _observed(program, units, game.params, x)

    def on_chunk(total: Any, chunk: Any) -> Any:
        rows, real = chunk
        seen = jax.vmap(observe)(jax.tree.map(lambda leaf: leaf[rows], x))
        return jax.tree.map(partial(_join, real), total, seen, is_leaf=_triple), None

    first = jax.eval_shape(observe, jax.tree.map(lambda leaf: leaf[0], x))
    nothing = jax.tree.map(_nothing, first, is_leaf=_triple)
    chunk = jnp.asarray(chunks.rows), jnp.asarray(chunks.real)
    total, _ = jax.lax.scan(on_chunk, nothing, chunk)
    count = jnp.asarray(chunks.real).sum()

    def rest(spread: tuple[Array, Array, Array]) -> Array:
        summed, low, high = spread
        if game.replacement == "zero":
            return jnp.zeros_like(summed)
        return jnp.where(low == high, low, summed / count)

    rests = jax.tree.map(rest, total, is_leaf=_triple)
    return eqx.tree_at(lambda g: g.rests, game, rests, is_leaf=lambda v: v is None)


def _triple(node: Any) -> bool:
    return isinstance(node, tuple) and len(node) == 3


def _nothing(spread: tuple[Any, Any, Any]) -> tuple[Array, Array, Array]:
    summed, low, high = spread
    return (
        jnp.zeros(summed.shape, summed.dtype),
        jnp.full(low.shape, jnp.inf, low.dtype),
        jnp.full(high.shape, -jnp.inf, high.dtype),
    )


def _join(real: Array, total: Any, seen: Any) -> tuple[Array, Array, Array]:
    inside = lambda v: real.reshape(-1, *[1] * (v.ndim - 1))
    summed, low, high = seen
    return (
        total[0] + jnp.where(inside(summed), summed, 0).sum(0),
        jnp.minimum(total[1], jnp.where(inside(low), low, jnp.inf).min(0)),
        jnp.maximum(total[2], jnp.where(inside(high), high, -jnp.inf).max(0)),
    )


def _run(
    program: Program,
    units: Mapping[str, Units],
    params: Any,
    x: Any,
    change: Callable[[int, Any], Any],
    in_loop: Callable[[int, Program, Step, list[Any]], list[Any]],
) -> dict[int, Any]:
    """All values of the program, each replaced by `change`, also inside loops."""
    bodies = {n: body for own in units.values() for n, body in own.bodies.items()}
    loops = {n: partial(in_loop, n, body) for n, body in bodies.items()}
    return program.advance(program.start(params, x), change=change, loops=loops)


def _observed(
    program: Program, units: Mapping[str, Units], params: Any, x: Any
) -> dict[str, tuple[Array, Array, Array]]:
    """Mean, smallest and largest value of every unit on one example, by read."""
    found: dict[str, tuple[Array, Array, Array]] = {}

    def note(place: int, value: Any, loop: int | None = None) -> None:
        for name, read in reads_at(units, place, loop):
            axes = tuple(
                axis
                for axis in range(value.ndim)
                if axis == 0 or axis - 1 not in read.kept
            )
            mean, low, high = (
                kind(value, axes, keepdims=True)[0]
                for kind in (jnp.mean, jnp.min, jnp.max)
            )
            found[name] = mean, low, high

    def outside(place: int, value: Any) -> Any:
        note(place, value[None])
        return value

    def in_loop(number: int, body: Program, step: Step, operands: Any) -> list[Any]:
        places = {p for p in range(len(body.shapes)) if reads_at(units, p, number)}
        kept = lambda place, value: value if place in places else None
        results, seen = run_loop(step, body, operands, lambda _, value: value, kept)
        for place in places:
            note(place, seen[place], number)
        return results

    _run(program, units, params, x, outside, in_loop)
    return found


def reads_at(
    units: Mapping[str, Units], place: int, loop: int | None
) -> list[tuple[str, UnitRead]]:
    """The reads of a place, by the layer's name and the read's number."""
    return [
        (f"{name}:{number}", read)
        for name, own in units.items()
        for number, read in enumerate(own.reads)
        if read.place == place and read.loop == loop
    ]


def hold_partly(value: Array, read: UnitRead, gate: Array, rest: Array) -> Array:
    """r + g (h − r) for the units of a value, with gate g and constant r."""
    shape = [1] * value.ndim
    shape[read.axis] = len(read.owner)
    opened = gate[read.owner].reshape(shape).astype(value.dtype)
    rest = rest.astype(value.dtype)
    return rest + opened * (value - rest)
