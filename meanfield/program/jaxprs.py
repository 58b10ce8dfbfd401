"""The only module that uses JAX's internals.

Its functions behave alike in JAX 0.7 to 0.12. The versions differ in the parameters of
`scan` (counts up to 0.10, a flat tree from 0.11), `Primitive.get_bind_params` (a pair
up to 0.9.1, a plain dict later), and closed jaxprs (a class of their own up to 0.10).
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from jax.extend.core import Jaxpr, JaxprEqn, Literal

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr"}
CALLS |= {"core_call": "call_jaxpr", "core_closed_call": "call_jaxpr"}
CALLS |= {"custom_jvp_call": "call_jaxpr"}
REMAT = ("remat2", "checkpoint", "remat")


def open_jaxpr(jaxpr: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """A jaxpr and its constants, from a closed or an open jaxpr."""
    consts = getattr(jaxpr, "consts", ())
    return getattr(jaxpr, "jaxpr", jaxpr), consts


def read(environment: dict[Any, Any], atom: Any) -> Any:
    """Value of a variable or a literal."""
    return atom.val if isinstance(atom, Literal) else environment[atom]


def count_uses(jaxpr: Jaxpr) -> Counter:
    """Number of reads of each variable, including those as results of the jaxpr."""
    atoms = [atom for eqn in jaxpr.eqns for atom in eqn.invars]
    atoms += list(jaxpr.outvars)
    return Counter(atom for atom in atoms if not isinstance(atom, Literal))


def transposes(jaxpr: Jaxpr) -> dict[Any, tuple[int, ...]]:
    """The permutation of axes for each variable whose only reader is a transpose."""
    uses = count_uses(jaxpr)
    steps = [e for e in jaxpr.eqns if e.primitive.name == "transpose"]
    return {
        e.invars[0]: tuple(e.params["permutation"])
        for e in steps
        if not isinstance(e.invars[0], Literal) and uses[e.invars[0]] == 1
    }


def bind(eqn: JaxprEqn, *operands: Any, **changed_params: Any) -> list[Any]:
    """Evaluate an equation on plain arrays; always returns a list of results."""
    parts = eqn.primitive.get_bind_params({**eqn.params, **changed_params})
    if isinstance(parts, dict):
        results = eqn.primitive.bind(*operands, **parts)
    else:
        subfunctions, params = parts
        results = eqn.primitive.bind(*subfunctions, *operands, **params)
    return list(results) if eqn.primitive.multiple_results else [results]


def scan_counts(eqn: JaxprEqn) -> tuple[int, int]:
    """Number of constants and of carries of a `scan` equation."""
    if "num_carry" in eqn.params:
        return eqn.params["num_consts"], eqn.params["num_carry"]
    consts, carries, _ = eqn.params["ft_in"].unpack()
    return len(consts), len(carries)


def source_line(eqn: JaxprEqn) -> str:
    """The user's line that made the equation, as ``file:line``; empty if unknown."""
    frames = getattr(eqn.source_info.traceback, "frames", [])
    for frame in frames:
        if "site-packages" not in frame.file_name and "/meanfield/" not in (
            frame.file_name
        ):
            return f"{frame.file_name}:{frame.line_num}"
    return ""
