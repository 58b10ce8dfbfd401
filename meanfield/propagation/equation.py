"""One step of a program as the argument of a rule, and the context it runs in."""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from jax.extend.core import JaxprEqn
from jaxtyping import PRNGKeyArray

from meanfield.checks import require
from meanfield.program.jaxprs import bind, source_line

from .noise import fold_in
from .values import Random, add_noise, is_random, merge_leaves

Reading = Literal["sampled", "moments"]


class UnsupportedPrimitiveError(NotImplementedError):
    """A primitive without a rule has a random operand."""


@dataclasses.dataclass
class Context:
    """The reading of a program, and the source of its noise.

    Attributes:
        reading: "sampled" or "moments".
        base_key: key of this part of the program; None in the moments reading.
        used: number of keys that were used.
        distributions: in the moments reading, results of contractions by id, with
            functions that draw their entries jointly.
        summands: a dictionary that records the number of weights in each contraction.
        sign: factor of all noise, 1 or −1; None for 1.
        delta: in the moments reading, whether to linearise; see `delta`.
        scales: in the moments reading, a factor for the variance after a contraction
            with a weight, by path name.
    """

    reading: Reading
    base_key: PRNGKeyArray | None
    used: int = 0
    distributions: dict[int, tuple[Any, Any]] = dataclasses.field(default_factory=dict)
    summands: dict[str, list[int | float]] | None = None
    sign: Any = None
    delta: bool = False
    scales: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def inside(self, key: PRNGKeyArray | None) -> "Context":
        """The context of an inner program, with its own key."""
        return dataclasses.replace(self, base_key=key, used=0, distributions={})

    def scale(self, *operands: Any) -> Any:
        """The product of the factors of a contraction's weights; None without any."""
        weights = [v for v in operands if is_random(v) and not v.drawable]
        factors = [self.scales[n] for n in merge_leaves(*weights) if n in self.scales]
        return math.prod(factors) if factors else None

    def note(self, number: int | float, *sources: Any) -> None:
        """Record the number of weights in a contraction of `sources`; 1 for a draw."""
        if self.summands is not None:
            for leaf in merge_leaves(*sources):
                self.summands.setdefault(leaf, []).append(number)

    def next_key(self) -> Any:
        """A key that no other step uses."""
        if self.base_key is None:
            return None
        key = fold_in(self.base_key, self.used)
        self.used += 1
        return key

    def draw(self, value: Any) -> Any:
        """Draw a random array entry by entry; a plain array is returned as it is."""
        if not is_random(value):
            return value
        self.note(1, value)
        return self.add_noise(value.mean, value.var)

    def add_noise(self, mean: Any, var: Any) -> Any:
        """Draw entries with this mean and variance, with noise of this step alone."""
        return add_noise(mean, var, self.next_key(), self.sign)


def moments_context(
    reading: str, names: Sequence[str], scales: Mapping[str, Any] | None
) -> Context:
    """The context of a moments reading: "moments" itself, or "delta".

    Raises:
        ValueError: `scales` names something that is not a random parameter.
    """
    unknown = sorted(set(scales or {}) - set(names))
    require(
        not unknown,
        f"`scales` must name random parameters, which are {list(names)}; got "
        f"{unknown}.",
    )
    return Context("moments", None, delta=reading == "delta", scales=scales or {})


@dataclasses.dataclass(frozen=True)
class Equation:
    """One step of the program: its primitive, its parameters, its source of noise.

    Attributes:
        eqn: the step itself.
        context: the reading and the source of noise.
        turned: the permutation, if only a transpose reads its result.
    """

    eqn: JaxprEqn
    context: Context
    turned: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """Name of the primitive."""
        return self.eqn.primitive.name

    @property
    def params(self) -> dict[str, Any]:
        """Parameters of the primitive."""
        return self.eqn.params

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return tuple(self.eqn.outvars[0].aval.shape)  # type: ignore[attr-defined]

    @property
    def reading(self) -> Reading:
        """Either "sampled" or "moments"."""
        return self.context.reading

    @property
    def many(self) -> bool:
        """Whether the primitive returns a list of results."""
        return self.eqn.primitive.multiple_results

    def bind(self, *operands: Any, **changed_params: Any) -> Any:
        """Run the primitive on plain arrays, with this step's parameters."""
        results = bind(self.eqn, *operands, **changed_params)
        return results if self.many else results[0]

    def draw(self, value: Any) -> Any:
        """Draw a random array entry by entry; a plain array is returned as it is."""
        return self.context.draw(value)

    def contract(
        self, mean: Any, var: Any, *sources: Any, summands: int | float | None = None
    ) -> Any:
        """Result of a contraction: a draw G + ε Δ, or its two moments.

        Args:
            mean: G.
            var: Δ².
            sources: the operands, random or plain.
            summands: number of weights in the sum of one output entry, if known.
        """
        if summands is not None:
            self.context.note(summands, *sources)
        if self.reading == "moments":
            scale = self.context.scale(*sources)
            var = var if scale is None else (scale * var).astype(var.dtype)
            return Random(mean, var, merge_leaves(*sources), drawable=True)
        return self.context.add_noise(mean, var)

    def refuse(self, *operands: Any, because: str = "") -> UnsupportedPrimitiveError:
        """The error for operands for which this primitive has no rule."""
        return refusal(self.eqn, self.reading, merge_leaves(*operands), because)


def refusal(
    eqn: JaxprEqn, reading: Reading, leaves: Iterable[str], because: str = ""
) -> UnsupportedPrimitiveError:
    """The error for weights that a primitive does not support, with advice."""
    quoted = [f"`{leaf}`" for leaf in leaves]
    names = ", ".join(quoted)
    parameters, points = "parameter", "a point value: pass an ordinary array"
    if len(quoted) > 1:
        parameters, points = "parameters", "point values: pass ordinary arrays"
    primitive, line = eqn.primitive.name, source_line(eqn)
    place = f" at {line}" if line else ""
    reason = f" ({because})" if because else ""
    draw = (
        f'draw {names} once per call with noise="weights"'
        if reading == "sampled"
        else 'read it with reading="sampled"'
    )
    return UnsupportedPrimitiveError(
        f"the primitive `{primitive}`{place} has no rule for the random {parameters} "
        f"{names} in the {reading} reading{reason}. Either {draw}; or register a rule "
        f'with meanfield.register_rule("{primitive}"); or leave {names} {points}, or '
        "use `where=` in Ensemble.from_model."
    )
