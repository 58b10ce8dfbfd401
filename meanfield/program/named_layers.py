"""The layers of a network: groups of weights by path name.

Several weights of one module are one layer if they enter the same product or loop, and
separate layers if they enter different products.
"""

from collections.abc import Sequence

from .heads import find_heads
from .primitives import MOVES, PRODUCTS
from .steps import Program


def layer_names(program: Program) -> list[str]:
    """Layers with weights, by parameter path without its last name.

    Weights of one such path that enter different products, as in a flat dictionary, are
    separate layers named by their full paths; layers stacked for a `scan` are
    ``"layers[0]"``, ….
    """
    groups: dict[str, list[str]] = {}
    for name in weights_of(program):
        groups.setdefault(parent_of(name), []).append(name)
    found = []
    for parent, names in groups.items():
        found += names if are_apart(program, names) else [parent]
    return sorted(found)


def parent_of(name: str) -> str:
    """A path without its last name."""
    return name.rpartition("/")[0]


def is_within(name: str, layer: str) -> bool:
    """Whether a weight is the layer itself, or its path is inside the layer's."""
    return not layer or name == layer or name.startswith(f"{layer}/")


def is_around(name: str, other: str) -> bool:
    """Whether one path begins another, as ``"blocks"`` begins ``"blocks[0]/mlp"``."""
    return name != other and (not name or other.startswith((f"{name}/", f"{name}[")))


def are_apart(program: Program, names: Sequence[str]) -> bool:
    """Whether weights of one path are read by several products outside of loops."""
    weights = weights_of(program)
    uses = [first_use(program, {weights[n]}, (*PRODUCTS, "scan")) for n in names]
    steps = {use[0] for use in uses if use is not None}
    kinds = {program.steps[number].eqn.primitive.name for number in steps}
    return len(steps) > 1 and "scan" not in kinds


def attention_names(program: Program) -> list[str]:
    """Modules whose units are attention heads, by the path of their parameters."""
    modules: dict[str, set[int]] = {}
    for name, place in weights_of(program).items():
        for module in {parent_of(name), parent_of(parent_of(name))}:
            modules.setdefault(module, set()).add(place)
    # Attention has four weights, or two if queries, keys and values share one.
    several = {name: own for name, own in modules.items() if len(own) > 1}
    found = {name for name, own in several.items() if find_heads(program, own)}
    # A group of blocks is not an attention module.
    return sorted(n for n in found if not any(is_around(n, m) for m in found))


def weights_of(program: Program) -> dict[str, int]:
    """Parameters of two or more dimensions, by path name."""
    return {
        name: place
        for name, place in program.parameters.items()
        if len(program.shapes[place]) >= 2
    }


def first_use(
    program: Program, places: set[int], kinds: Sequence[str]
) -> tuple[int, list[int]] | None:
    """The first step of given kinds that reads one of the places, and the operands."""
    places = set(places)
    for number, step in enumerate(program.steps):
        hits = [i for i, item in enumerate(step.inputs) if item in places]
        name = step.eqn.primitive.name
        if hits and name in MOVES:
            places |= set(step.outputs)
        elif hits and name in kinds:
            return number, hits
    return None
