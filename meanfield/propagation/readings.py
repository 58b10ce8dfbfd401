r"""Analyse the uses of random weights in a program, before it runs.

In a pre-activation, a product or sum that depends on the data, random weights are
replaced by fresh noise: z = Σ_k w_k a_k has exactly the mean and variance of G + ε Δ,
if no weight occurs twice in the sum. Several pre-activations may use the same weight
(the positions of a convolution, the steps of a loop, tied layers); each of them has
independent noise.

For all other uses the weight is drawn once for the whole call:

- a function of weights alone, such as w − w̄, A w or the norm of w, because its entries
  depend on each other and on the weights;
- one weight several times in a sum, such as x · w[[0, 0, 1, 1]], because the variance
  is Σ_w V_w (Σ of its signals)²;
- a complex product, because its two parts share their weights;
- an argument of a function with its own derivative rule (`jax.custom_jvp`).
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Literal

from meanfield.checks import is_concrete
from meanfield.program.jaxprs import CALLS, REMAT, count_uses, open_jaxpr

from .equation import Reading
from .origins import MOVES, Origin, move
from .reading_loops import LOOPS
from .reading_rules import RULES

FUNCTION = "a function of weights alone has dependent entries"
TWICE = "one weight may occur several times in one sum"
COMPLEX = "the two parts of a complex number share their weights"
SMALL = 2**16
DERIVATIVE = "its author gave it a derivative, which fresh noise would drop"


@dataclasses.dataclass(frozen=True)
class Readings:
    """How a program uses its random weights.

    Attributes:
        times: by path name, number of pre-activations of the batch that use the weight;
            infinite in a loop of unknown length.
        drawn: by path name, the equation for which the weight must be drawn, and why.
    """

    times: dict[str, int | float]
    drawn: dict[str, tuple[Any, str]]


def find_readings(
    program: Any,
    names: Sequence[str],
    num_points: int,
    reading: Reading,
    known: Iterable[str] = (),
) -> Readings:
    """The random weights that a program must draw, and the number of uses of each.

    Args:
        program: a closed jaxpr of (random leaves, point parameters, data).
        names: path names of the random leaves.
        num_points: number of arrays among the point parameters.
        reading: "sampled" or "moments"; the latter keeps no `jax.custom_jvp` rules.
        known: leaves that are drawn in any case.

    Returns:
        The `Readings`; in the moments reading `drawn` has the weights that are not
        supported.
    """
    drawn, known = {}, set(known)
    num_data = len(open_jaxpr(program)[0].invars) - len(names) - num_points
    while True:
        walk = _Walk(reading)
        leaves = [
            Origin() if name in known else Origin(leaves=frozenset([name]))
            for name in names
        ]
        points = [Origin()] * num_points + [Origin(signal=True)] * num_data
        results = walk.run(program, [*leaves, *points], 1)
        for origin in results if reading == "sampled" else ():
            walk.draw(None, origin)
        # A drawn weight is an ordinary parameter for the other weights.
        new = {name: found for name, found in walk.found.items() if name not in known}
        if not new:
            return Readings(walk.times, drawn)
        drawn |= new
        known |= set(new)


class _Walk:
    """One pass over a program, with its results."""

    def __init__(self, reading: Reading):
        self.reading: Reading = reading
        self.found: dict[str, tuple[Any, str]] = {}
        self.times: dict[str, int | float] = {}
        self.many: int | float = 1
        self.roots = 0

    def fresh(self) -> "_Walk":
        """A new pass, whose results are separate from those of this one."""
        return _Walk(self.reading)

    def run(
        self, jaxpr: Any, origins: Sequence[Origin], many: int | float
    ) -> list[Origin]:
        """Origins of the results of a jaxpr that runs `many` times."""
        before, self.many = self.many, self.many * many
        jaxpr, consts = open_jaxpr(jaxpr)
        uses = count_uses(jaxpr)
        known = {
            var: Origin(zero=_is_zero(value))
            for var, value in zip(jaxpr.constvars, consts, strict=True)
        }

        def look(atom: Any) -> Origin:
            if isinstance(atom, Literal):
                return Origin(zero=_is_zero(atom.val))
            return known[atom]

        def store(eqn: Any, var: Any, origin: Origin) -> None:
            # All steps that read a drawable value use the same draw.
            if uses[var] > 1 and origin.drawable and self.reading == "sampled":
                origin = self.draw(eqn, origin, self.copies(var, origin))
            known[var] = origin

        for var, origin in zip(jaxpr.invars, origins, strict=True):
            store(None, var, origin)
        for eqn in jaxpr.eqns:
            results = self.step(eqn, list(map(look, eqn.invars)))
            for var, origin in zip(eqn.outvars, results, strict=True):
                store(eqn, var, origin)
        self.many = before
        return list(map(look, jaxpr.outvars))

    def step(self, eqn: Any, origins: list[Origin]) -> list[Origin]:
        """Origins of the results of one equation."""
        name, sampled = eqn.primitive.name, self.reading == "sampled"
        random = any(origin.leaves for origin in origins)
        signal = any(origin.signal for origin in origins)
        if random and sampled and name == "custom_jvp_call":
            if any(o.leaves and not o.drawable for o in origins):
                self.find(eqn, origins, DERIVATIVE)
            return self.other(eqn, origins)
        if name in CALLS or name in REMAT:
            return self.run(eqn.params[CALLS.get(name, "jaxpr")], origins, 1)
        if name in LOOPS:
            return LOOPS[name](self, eqn, origins)
        if not random:
            zero = name in MOVES and origins[0].zero
            return [Origin(signal=signal, zero=zero)] * len(eqn.outvars)
        if any(_is_complex(var) for var in eqn.outvars):
            self.find(eqn, origins, COMPLEX)
            return self.other(eqn, origins)
        if name in ("split", "optimization_barrier"):
            return origins * (len(eqn.outvars) // len(origins))
        if name in MOVES:
            shape, new = eqn.invars[0].aval.shape, eqn.outvars[0].aval.shape
            moved = move(name, eqn.params, shape, new, origins[0])
            return [dataclasses.replace(moved, signal=signal)]
        if name not in RULES:
            return self.other(eqn, origins)
        result = RULES[name](self, eqn, origins)
        if result.leaves and result.drawable and not result.root:
            self.roots += 1
            return [dataclasses.replace(result, root=self.roots)]
        return [result]

    def find(self, eqn: Any, origins: Iterable[Origin], because: str) -> None:
        """Record that the weights of some values must be drawn."""
        for leaf in sorted(leaf for origin in origins for leaf in origin.leaves):
            self.found.setdefault(leaf, (eqn, because))

    def note(self, origin: Origin, count: int | float) -> None:
        """Record how many pre-activations use each weight of a value."""
        many = self.many * count
        many = many if math.isinf(many) else many // origin.rows
        for leaf in origin.leaves:
            self.times[leaf] = self.times.get(leaf, 0) + many

    def draw_all(self, eqn: Any, origins: Sequence[Origin]) -> list[Origin]:
        """Origins after all drawable values are drawn entry by entry."""
        if self.reading == "moments":
            return list(origins)
        return [self.draw(eqn, o) if o.drawable else o for o in origins]

    def draw(self, eqn: Any, origin: Origin, count: int | float = 1) -> Origin:
        """The origin after a value is drawn entry by entry."""
        if not origin.leaves:
            return origin
        if not origin.signal:
            self.find(eqn, [origin], FUNCTION)
        self.note(origin, count)
        return Origin(origin.signal)

    def other(self, eqn: Any, origins: Sequence[Origin]) -> list[Origin]:
        """The origins after a primitive without a rule here, whose operands are drawn.

        Weights that are not drawable raise an error later, unless the user registered a
        rule for the primitive.
        """
        waiting = any(o.leaves and not o.drawable for o in origins)
        drawn = [self.draw(eqn, o) if o.drawable else o for o in origins]
        signal = waiting or any(origin.signal for origin in drawn)
        return [Origin(signal)] * len(eqn.outvars)

    def meet(self, eqn: Any, origins: Sequence[Origin], is_read: bool) -> None:
        """Record that weights common to two operands must be drawn.

        In the moments reading, unless the operands have one root; in the sampled
        reading, if `is_read`.
        """
        if len(origins) < 2 or not origins[0].leaves & origins[1].leaves:
            return
        together = origins[0].root == origins[1].root != 0
        if not together if self.reading == "moments" else is_read:
            self.find(eqn, origins, TWICE)

    def one_weight(self, eqn: Any, x: Origin, y: Origin) -> tuple[Origin, Origin]:
        """Draw one of two random factors, if it is drawable."""
        self.meet(eqn, (x, y), x.drawable or y.drawable)
        if self.reading == "moments" or not (x.leaves and y.leaves):
            return x, y
        if x.drawable:
            return self.draw(eqn, x), y
        return (x, self.draw(eqn, y)) if y.drawable else (x, y)

    def contraction(
        self, eqn: Any, origins: Sequence[Origin], axes: Sequence[Any]
    ) -> Origin:
        """A sum over these axes of each operand."""
        signal = any(origin.signal for origin in origins)
        zero = any(origin.zero for origin in origins)
        weights = sum(bool(origin.leaves) for origin in origins)
        if weights == 2 and self.reading == "sampled":
            return Origin(signal=True)  # An error is raised when the program runs.
        for atom, origin, summed in zip(eqn.invars, origins, axes, strict=True):
            if (origin.copied | origin.repeated) & set(summed):
                self.find(eqn, [origin], TWICE)
            elif not signal and not zero:
                self.find(eqn, [origin], FUNCTION)
            shape = atom.aval.shape
            free = math.prod(n for a, n in enumerate(shape) if a not in set(summed))
            readers = math.prod(eqn.outvars[0].aval.shape) // max(free, 1)
            self.note(origin, readers * self.copies(atom, origin))
        return Origin(signal=signal, zero=zero and not signal)

    def copies(self, atom: Any, origin: Origin) -> int:
        """Number of positions of a value at which the same entry may occur."""
        axes = origin.copied | origin.repeated
        return math.prod(atom.aval.shape[axis] for axis in axes)


def _is_zero(value: Any) -> bool:
    """Whether a number or a small array with known values is 0 everywhere."""
    number = isinstance(value, np.ndarray | np.generic | jax.Array | float | int)
    if not number or not is_concrete(value) or np.size(value) > SMALL:
        return False
    dtype = getattr(value, "dtype", np.dtype(float))
    if jnp.issubdtype(dtype, jax.dtypes.extended):
        return False
    # Computed on the host, because under an outer `jit` JAX would trace it.
    return not np.asarray(value).any()


def _is_complex(var: Any) -> bool:
    dtype = getattr(var.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating)
