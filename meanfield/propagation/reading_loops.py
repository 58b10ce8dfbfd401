"""Origins of the results of primitives that contain programs; see `readings`."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from meanfield.program.jaxprs import scan_counts

from .origins import Origin, insert, join, one_row


def _scan(walk: Any, eqn: Any, origins: list[Origin]) -> list[Origin]:
    num_consts, num_carry = scan_counts(eqn)
    body, length = eqn.params["jaxpr"], eqn.params["length"]
    held = walk.draw_all(eqn, origins[:num_consts])
    rows = [one_row(origin, length) for origin in origins[num_consts + num_carry :]]
    carry = _steady(
        walk,
        eqn,
        origins[num_consts : num_consts + num_carry],
        lambda own, carry: own.run(body, [*held, *carry, *rows], 1)[:num_carry],
    )
    results = walk.run(body, [*held, *carry, *rows], length)
    return [*carry, *(_stacked(origin, length) for origin in results[num_carry:])]


def _while(walk: Any, eqn: Any, origins: list[Origin]) -> list[Origin]:
    num_test, num_body = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    held = walk.draw_all(eqn, origins[: num_test + num_body])
    test, body = eqn.params["cond_jaxpr"], eqn.params["body_jaxpr"]
    carry = _steady(
        walk,
        eqn,
        origins[num_test + num_body :],
        lambda own, carry: own.run(body, [*held[num_test:], *carry], 1),
    )
    walk.run(test, [*held[:num_test], *carry], math.inf)
    walk.run(body, [*held[num_test:], *carry], math.inf)
    return carry


def _cond(walk: Any, eqn: Any, origins: list[Origin]) -> list[Origin]:
    which, *operands = origins
    runs = [walk.run(branch, operands, 1) for branch in eqn.params["branches"]]
    found = [functools.reduce(join, cases) for cases in zip(*runs, strict=True)]
    return [dataclasses.replace(o, signal=o.signal or which.signal) for o in found]


LOOPS = {"scan": _scan, "while": _while, "cond": _cond}


def _steady(
    walk: Any, eqn: Any, carry: Sequence[Origin], body: Callable[..., list[Origin]]
) -> list[Origin]:
    """Origins of a loop's state that no further step changes; steps record nothing."""
    kept = walk.draw_all(eqn, carry)
    while True:
        own = walk.fresh()
        new = own.draw_all(eqn, body(own, kept))
        found = [join(*pair) for pair in zip(kept, new, strict=True)]
        if found == kept:
            return kept
        kept = found


def _stacked(origin: Origin, length: int) -> Origin:
    """The origin of stacked rows, all of which may hold the same weight."""
    origin = insert(origin, 0)
    first = frozenset([0]) if origin.leaves else frozenset()
    rows = max(origin.rows // max(length, 1), 1)
    return dataclasses.replace(origin, repeated=origin.repeated | first, rows=rows)
