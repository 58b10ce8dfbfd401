"""The table of rules: how primitives are applied to random arrays."""

from collections.abc import Callable
from typing import Any, get_args

from jax.extend.core import Primitive

from meanfield.checks import require

from .equation import Reading

Rule = Callable[..., Any]
_RULES: dict[tuple[str, str], Rule] = {}


def register_rule(
    primitive: str | Primitive,
    rule: Rule | None = None,
    *,
    reading: Reading | tuple[Reading, ...] = ("sampled", "moments"),
) -> Any:
    r"""Register a rule for a primitive with random operands.

    A rule is called as ``rule(equation, *operands)`` if at least one operand is random.
    A random operand has `.mean` and `.var`; a plain operand is an array. The rule
    returns the result of the primitive, plain or random (a list for a primitive with
    several results). `equation.params` are the primitive's parameters;
    `equation.bind(*arrays)` applies it to plain arrays;
    `equation.contract(G, Δ², *operands)` returns the result of a contraction with mean
    G and variance Δ²; `equation.draw(operand)` draws an operand entry by entry; and
    `equation.refuse(*operands)` returns the error for operands without a rule.

    Args:
        primitive: the primitive or its name, such as ``"dot_general"``.
        rule: the function; without it `register_rule` is a decorator.
        reading: "sampled", "moments", or both (default).

    Returns:
        The rule, or the decorator.

    Raises:
        ValueError: `reading` is not one of the two.

    Example:
        >>> import meanfield as mf
        >>> @mf.register_rule("sin", reading="sampled")
        ... def sine_of_drawn_weights(equation, weight):
        ...     return equation.bind(equation.draw(weight))
    """
    name = primitive if isinstance(primitive, str) else primitive.name
    readings = (reading,) if isinstance(reading, str) else tuple(reading)
    require(
        len(readings) > 0 and set(readings) <= set(get_args(Reading)),
        f"`reading` must be 'sampled', 'moments' or both; got {reading!r}.",
    )

    def register(function: Rule) -> Rule:
        for each in readings:
            _RULES[name, each] = function
        return function

    return register if rule is None else register(rule)


def find_rule(name: str, reading: str) -> Rule | None:
    """The rule of a primitive, or None."""
    return _RULES.get((name, reading))
