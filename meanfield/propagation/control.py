"""Rules for primitives that contain programs, such as `jit`, `scan` and `cond`.

These programs are interpreted if an operand is random. Each step of a loop draws its
own noise, as temporal credit assignment needs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from meanfield.program.jaxprs import CALLS, REMAT, scan_counts

from .deferred import Deferred, settle_moments
from .equation import Context, Equation
from .interpreter import evaluate
from .noise import fold_in
from .registry import register_rule
from .values import Random, is_random, lift, merge_leaves


def _call(equation: Equation, *operands: Any) -> list[Any]:
    """`jit`; and `custom_jvp_call`, whose derivative rule does not apply to moments."""
    inner = equation.params[CALLS[equation.name]]
    return evaluate(inner, operands, equation.context)


def _custom_jvp(equation: Equation, *operands: Any) -> list[Any]:
    """A function of drawn values keeps the derivative rule of its author."""
    if all(v.drawable if is_random(v) else eqx.is_array(v) for v in operands):
        return equation.bind(*map(equation.draw, operands))
    return _call(equation, *operands)


def _remat(equation: Equation, *operands: Any) -> list[Any]:
    def block(key: Any, *values: Any) -> list[Any]:
        context = equation.context.inside(key)
        results = evaluate(equation.params["jaxpr"], values, context)
        return [settle_moments(value) for value in results]

    saving = jax.checkpoint(
        block,
        prevent_cse=equation.params["prevent_cse"],
        policy=equation.params["policy"],
    )
    return saving(equation.context.next_key(), *operands)


for _name in CALLS:
    register_rule(_name, _call)
for _name in REMAT:
    register_rule(_name, _remat)
register_rule("custom_jvp_call", _custom_jvp, reading="sampled")


@register_rule("custom_vjp_call")
@register_rule("custom_vjp_call_jaxpr")
def _custom_vjp(equation: Equation, *operands: Any) -> list[Any]:
    sampled = equation.reading == "sampled"
    if sampled and all(v.drawable for v in operands if is_random(v)):
        return equation.bind(*map(equation.draw, operands))
    raise equation.refuse(
        *operands, because="interpreting it would drop its author's gradient rule"
    )


@register_rule("cond")
def _cond(equation: Equation, which: Any, *operands: Any) -> list[Any]:
    if is_random(which):
        raise equation.refuse(which, because="a condition cannot be random")

    def branch(jaxpr: Any, kinds: Any, key: Any, *values: Any) -> list[Any]:
        context = equation.context.inside(key)
        results = evaluate(jaxpr, values, context)
        return _shape_all(equation, results, kinds, context)

    key = equation.context.next_key()
    jaxprs = equation.params["branches"]
    kinds = None
    for jaxpr in jaxprs:
        results = jax.eval_shape(partial(branch, jaxpr, None), key, *operands)
        found = [_kind(v) for v in results]
        kinds = found if kinds is None else _join(equation, kinds, found)
    runs = [partial(branch, jaxpr, kinds) for jaxpr in jaxprs]
    return lax.switch(which, runs, key, *operands)


@register_rule("scan")
def _scan(equation: Equation, *operands: Any) -> list[Any]:
    num_consts, num_carry = scan_counts(equation.eqn)
    fresh = _fresh_rows(operands[: num_consts + num_carry], operands)
    consts = _shared(equation, operands[:num_consts])
    carry = operands[num_consts : num_consts + num_carry]
    rows = [_unstacked(v) for v in operands[num_consts + num_carry :]]
    length = equation.params["length"]
    key = equation.context.next_key()
    keys = None if key is None else jax.random.split(key, length)

    def step(carry_kinds: Any, carry: Any, row: Any) -> tuple[list[Any], list[Any]]:
        key, values = row
        context = equation.context.inside(key)
        inputs = [*consts, *(_without(v, fresh) for v in carry), *values]
        results = evaluate(equation.params["jaxpr"], inputs, context)
        results = [settle_moments(value) for value in results]
        carry = _shape_all(equation, results[:num_carry], carry_kinds, context)
        kinds = _join(equation, *2 * [[_kind(v) for v in results[num_carry:]]])
        return carry, _shape_all(equation, results[num_carry:], kinds, context)

    row = jax.tree.map(
        lambda v: jax.ShapeDtypeStruct(v.shape[1:], v.dtype), (keys, rows)
    )
    carry, kinds = _steady(
        equation, carry, lambda carry, row: step(None, carry, row)[0], row
    )
    carry, stacked = lax.scan(
        partial(step, kinds),
        carry,
        (keys, rows),
        length=length,
        reverse=equation.params["reverse"],
        unroll=equation.params["unroll"],
    )
    return [*carry, *map(_stacked, stacked)]


def _fresh_rows(shared: Sequence[Any], operands: Sequence[Any]) -> frozenset[str]:
    """Parameters of which every step of the loop takes different entries."""
    rows = set(merge_leaves(*operands[len(shared) :]))
    return frozenset(rows - set(merge_leaves(*shared)))


def _without(value: Any, leaves: frozenset[str]) -> Any:
    """A loop's state, marked as sharing no entries with the step's own weights."""
    if not is_random(value) or not leaves & set(value.leaves):
        return value
    kept = tuple(leaf for leaf in value.leaves if leaf not in leaves)
    return dataclasses.replace(value, leaves=kept)


@register_rule("while")
def _while(equation: Equation, *operands: Any) -> list[Any]:
    num_test, num_body = (
        equation.params["cond_nconsts"],
        equation.params["body_nconsts"],
    )
    consts = _shared(equation, operands[: num_test + num_body])
    base_key = equation.context.next_key()

    def context_of(step: Any, part: int) -> Context:
        # The condition and the body of one step draw different noise.
        key = None
        if base_key is not None:
            key = fold_in(base_key, 2 * step + part)
        return equation.context.inside(key)

    def test(state: tuple[Any, list[Any]]) -> Any:
        step, carry = state
        inputs = [*consts[:num_test], *carry]
        (answer,) = evaluate(equation.params["cond_jaxpr"], inputs, context_of(step, 0))
        if isinstance(answer, Deferred):
            answer = answer.root
        if is_random(answer):
            raise equation.refuse(answer, because="a condition cannot be random")
        return answer

    def body(kinds: Any, state: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
        step, carry = state
        context = context_of(step, 1)
        inputs = [*consts[num_test:], *carry]
        results = evaluate(equation.params["body_jaxpr"], inputs, context)
        return step + 1, _shape_all(equation, results, kinds, context)

    start = jnp.zeros((), jnp.uint32)
    carry, kinds = _steady(
        equation, operands[num_test + num_body :], lambda c: body(None, (start, c))[1]
    )
    return lax.while_loop(test, partial(body, kinds), (start, carry))[1]


# The kind of a value is None for a plain array, else the static fields of a `Random`.
# The state of a loop must have the same kind in every step.
Kind = tuple[tuple[str, ...], bool, tuple[int, ...]] | None


def _kind(value: Any) -> Kind:
    if not is_random(value):
        return None
    return value.leaves, value.drawable, value.copied


def _join(equation: Equation, first: list[Kind], second: list[Kind]) -> list[Kind]:
    """Kinds to which two sets of values can both be converted."""

    def join(a: Kind, b: Kind) -> Kind:
        if a == b and (a is None or not a[1]):
            return a
        if equation.reading == "sampled":
            return None
        leaves = {leaf for kind in (a, b) if kind is not None for leaf in kind[0]}
        return tuple(sorted(leaves)), True, ()

    return [join(a, b) for a, b in zip(first, second, strict=True)]


def _shape_all(
    equation: Equation,
    values: Sequence[Any],
    kinds: list[Kind] | None,
    context: Context,
) -> list[Any]:
    """Values converted to the given kinds; unchanged if no kinds are given."""
    values = [settle_moments(value) for value in values]
    if kinds is None:
        return list(values)
    return [
        _shape(equation, value, kind, context)
        for value, kind in zip(values, kinds, strict=True)
    ]


def _shape(equation: Equation, value: Any, kind: Kind, context: Context) -> Any:
    if kind is not None:
        random = lift(value)
        return Random(random.mean, random.var, *kind)
    if is_random(value) and not value.drawable:
        raise equation.refuse(value, because="a weight would become part of its state")
    return context.draw(value)


def _steady(
    equation: Equation,
    carry: Sequence[Any],
    body: Callable[..., list[Any]],
    *row: Any,
) -> tuple[list[Any], list[Kind]]:
    """The initial state of a loop, converted to the kinds that the body returns.

    A state that is not random at first may be random after one step. So the kinds are
    joined with those of the body's results until they no longer change.
    """
    kinds = [_kind(v) for v in carry]
    kinds = _join(equation, kinds, kinds)
    while True:
        carry = _shape_all(equation, carry, kinds, equation.context)
        results = jax.eval_shape(body, carry, *row)
        found = _join(equation, kinds, [_kind(v) for v in results])
        if found == kinds:
            return carry, kinds
        kinds = found


def _shared(equation: Equation, values: Sequence[Any]) -> list[Any]:
    """Constants of a loop; those that can be drawn are drawn once, for all steps."""
    drawn = equation.reading == "sampled"
    return [
        equation.draw(v) if drawn and is_random(v) and v.drawable else v for v in values
    ]


def _stacked(value: Any) -> Any:
    """Stacked rows, marked as copies: every step may have returned the same weight."""
    if not is_random(value):
        return value
    copied = (0, *(axis + 1 for axis in value.copied))
    return Random(value.mean, value.var, value.leaves, value.drawable, copied)


def _unstacked(value: Any) -> Any:
    """Rows along the first axis; `copied` counts the axes of a single row."""
    if not is_random(value):
        return value
    copied = tuple(axis - 1 for axis in value.copied if axis > 0)
    return Random(value.mean, value.var, value.leaves, value.drawable, copied)
