"""Turn a network into a graph of operations.

`jax.make_jaxpr` stages any network. Here calls are inlined and operations become nodes;
the results of those that depend only on the network's arrays are computed as well.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.export  # Older versions of JAX do not import it themselves.
import numpy as np
from jax.extend.core import JaxprEqn, Literal

from meanfield.checks import require
from meanfield.program.jaxprs import CALLS, REMAT, open_jaxpr, scan_counts

from .execute import evaluate_node
from .fixed_reads import Steps, fixed_read
from .graph import Body, Graph, Node, Value, needed, reads_of
from .inputs import named_inputs
from .network import Network
from .vocabulary import PASS_THROUGH, PRIMITIVES, REDUCTIONS

_KEY = np.dtype(object)
# The primitive that reads the length of a batch of symbolic length.
_LENGTH = "dim_as_value"


def trace(network: Network, x: Any) -> Graph:
    """Stage a network on a batch.

    Args:
        network: a network taken apart by `as_network`.
        x: a batch, or a `jax.ShapeDtypeStruct` whose first size may be symbolic.

    Raises:
        ValueError: the outputs are not arrays, the network draws random numbers, or
            it computes with the length of the batch.
    """
    return _graph(network, _stage(network, x), x)


def _stage(network: Network, x: Any) -> Any:
    names = list(network.arrays)
    arrays = [np.asarray(network.arrays[name]) for name in names]

    def outputs(arrays: list[Any], x: Any) -> Any:
        return network.apply(dict(zip(names, arrays, strict=True)), x)

    kinds = [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in arrays]
    return jax.make_jaxpr(outputs)(kinds, x)


def _graph(network: Network, closed: Any, x: Any) -> Graph:
    arrays = [np.asarray(array) for array in network.arrays.values()]
    builder = _Builder()
    jaxpr, _ = open_jaxpr(closed)
    values = [builder.constant(array) for array in arrays]
    inputs = [builder.value(var.aval) for var in jaxpr.invars[len(values) :]]
    environment = dict(zip(jaxpr.invars, [*values, *inputs], strict=True))
    results = builder.inline(closed, environment)
    require(
        bool(results),
        "`model` must return an array for each example; got no array.",
    )
    nodes = needed(builder.nodes, set(results))
    require(
        not any(v.dtype == _KEY for node in nodes for v in reads_of(node)),
        "`model` must not draw random numbers when it is called, because an exported "
        "network cannot. Put it in inference mode first.",
    )
    require(not any(node.op == _LENGTH for node in nodes), NEEDS_LENGTH)
    named = dict(zip(network.arrays, values, strict=True))
    named_in = dict(zip(named_inputs(x), inputs, strict=True))
    return Graph(named, named_in, nodes, tuple(results), builder.constants)


NEEDS_LENGTH = (
    "`model` computes with the length of the batch (len(x), a mean over examples), "
    "which is unknown in a network for batches of any length. Let it act on each "
    "example alone; in shapes write x.shape[0] or -1 for the batch."
)


def trace_symbolic(network: Network, example: Any) -> Graph:
    """Stage a network on a batch of any length that is otherwise like `example`.

    Raises:
        ValueError: as `trace`.
    """
    leaves, structure = jax.tree.flatten(example)
    kind = structure, tuple((leaf.shape[1:], str(leaf.dtype)) for leaf in leaves)
    if kind not in network.graphs:
        with any_length(network, example):
            closed = _stage(network, symbolic_batch(example))
        network.graphs[kind] = _graph(network, closed, example)
    return network.graphs[kind]


def symbolic_batch(example: Any) -> Any:
    """Shapes and types of a batch of any length that is otherwise like `example`."""
    (batch,) = jax.export.symbolic_shape("batch")
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype), example
    )


@contextlib.contextmanager
def any_length(function: Callable[[Any], Any], example: Any) -> Iterator[None]:
    """Raise a clear error when staging fails because the batch's length is unknown.

    Args:
        function: the function of a batch that is staged in the block.
        example: a batch that the function takes.

    Raises:
        ValueError: the function needs the length. If it also fails on `example`, its
            own error is raised instead.
    """
    try:
        yield
    except Exception as error:  # JAX raises half a dozen types here.
        jax.eval_shape(function, example)
        raise ValueError(NEEDS_LENGTH) from error


# A reduction over no axes returns its input unchanged.
_MAY_DO_NOTHING = {"cast", "reshape", "broadcast", "transpose", *REDUCTIONS}


class _Builder:
    """Collects the nodes of a program while its calls are inlined."""

    def __init__(self):
        self.nodes: list[Node] = []
        self.constants: dict[Value, np.ndarray] = {}

    def value(self, aval: Any) -> Value:
        return Value(tuple(map(_size, aval.shape)), _dtype(aval))

    def constant(self, array: Any) -> Value:
        value = Value(np.shape(array), _dtype(array))
        if value.dtype != _KEY:
            self.constants[value] = np.asarray(array)
        return value

    def inline(self, jaxpr: Any, environment: dict[Any, Value]) -> list[Value]:
        jaxpr, consts = open_jaxpr(jaxpr)
        held = map(self.constant, consts)
        environment.update(zip(jaxpr.constvars, held, strict=True))

        def find(atom: Any) -> Value:
            if isinstance(atom, Literal):
                return self.constant(
                    np.asarray(atom.val, getattr(atom.aval, "dtype", None))
                )
            return environment[atom]

        for eqn in jaxpr.eqns:
            results = self.equation(eqn, [find(atom) for atom in eqn.invars])
            environment.update(zip(eqn.outvars, results, strict=True))
        return [find(atom) for atom in jaxpr.outvars]

    def equation(self, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
        name = eqn.primitive.name
        inner = _inner(eqn)
        if inner is not None:
            invars = open_jaxpr(inner)[0].invars
            return self.inline(inner, dict(zip(invars, inputs, strict=True)))
        if name in PASS_THROUGH:
            return inputs
        # A loop over examples has an unknown number of steps.
        if name == "scan" and isinstance(eqn.params["length"], int):
            return self.scan(eqn, inputs)
        outputs = tuple(self.value(var.aval) for var in eqn.outvars)
        portable = _portable(eqn)
        if portable is None and name == "gather" and inputs[1] in self.constants:
            steps = fixed_read(eqn, self.constants[inputs[1]])
            if steps is not None and inputs[0] not in self.constants:
                return [self.read(eqn, inputs, steps)]
        op, settings = portable or (name, None)
        special = eqn if settings is None else None
        node = Node(op, tuple(inputs), outputs, settings or {}, special)
        same = self.same_as(node)
        if same is not None:
            return [same]
        self.nodes.append(node)
        self.fold(node)
        return list(outputs)

    def read(self, eqn: JaxprEqn, inputs: list[Value], steps: Steps) -> Value:
        """The result of a gather, by the operations of `fixed_read`."""
        value, dtype = inputs[0], inputs[0].dtype
        for op, settings, shape in steps:
            reads = (value, inputs[1]) if op == "take" else (value,)
            value = Value(tuple(map(_size, shape)), dtype)
            self.nodes.append(Node(op, reads, (value,), settings))
        return value

    def same_as(self, node: Node) -> Value | None:
        """The input that a node returns unchanged, if there is one."""
        if node.op in _MAY_DO_NOTHING:
            (before,), (after,) = node.inputs[:1], node.outputs
            axes = node.settings.get("axes", ())
            moved = node.op == "transpose" and list(axes) != sorted(axes)
            known = all(size != -1 for size in after.shape)
            if before.shape == after.shape and before.dtype == after.dtype and known:
                return None if moved else before
        if node.op == "select" and node.inputs[0] in self.constants:
            which = self.constants[node.inputs[0]]
            if which.size and (which == which.flat[0]).all():
                chosen = node.inputs[1 + int(which.flat[0])]
                return chosen if chosen.shape == node.outputs[0].shape else None
        return None

    def fold(self, node: Node) -> None:
        """Compute a node that does not depend on the batch."""
        static = all(isinstance(n, int) for v in node.outputs for n in v.shape)
        known = all(v in self.constants for v in node.inputs) and node.op != _LENGTH
        if static and known and all(v.dtype != _KEY for v in node.outputs):
            operands = [self.constants[v] for v in node.inputs]
            results = evaluate_node(node, operands, batch=0)
            self.constants.update(zip(node.outputs, results, strict=True))

    def scan(self, eqn: JaxprEqn, inputs: list[Value]) -> list[Value]:
        num_consts, num_carry = scan_counts(eqn)
        jaxpr, _ = open_jaxpr(eqn.params["jaxpr"])
        inside = [self.value(var.aval) for var in jaxpr.invars[num_consts:]]
        given = [*inputs[:num_consts], *inside]
        outer, self.nodes = self.nodes, []
        environment = dict(zip(jaxpr.invars, given, strict=True))
        results = self.inline(eqn.params["jaxpr"], environment)
        nodes, self.nodes = needed(self.nodes, set(results)), outer
        body = Body(tuple(inside), nodes, tuple(results))
        settings = {
            "carries": num_carry,
            "length": int(eqn.params["length"]),
            "reverse": bool(eqn.params["reverse"]),
        }
        outputs = tuple(self.value(var.aval) for var in eqn.outvars)
        reads = tuple(inputs[num_consts:])
        self.nodes.append(Node("scan", reads, outputs, settings, None, body))
        return list(outputs)


def _inner(eqn: JaxprEqn) -> Any:
    """The inner program of a call, without rules for its derivative."""
    name = eqn.primitive.name
    if name in CALLS:
        return eqn.params[CALLS[name]]
    if name in REMAT:
        return eqn.params["jaxpr"]
    if name.startswith("custom_vjp_call"):
        return eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr"))
    return None


def _portable(eqn: JaxprEqn) -> tuple[str, dict[str, Any]] | None:
    """Operation and settings in the vocabulary of `numpy_runtime`, or None."""
    convert = PRIMITIVES.get(eqn.primitive.name)
    portable = None if convert is None else convert(eqn.params, eqn)
    if portable is not None and "shape" in portable[1]:
        portable[1]["shape"] = list(map(_size, portable[1]["shape"]))
    return portable


def _size(dimension: Any) -> Any:
    if isinstance(dimension, int | np.integer):
        return int(dimension)
    return "batch" if str(dimension) == "batch" else -1


def _dtype(array: Any) -> np.dtype:
    """The type of an array's numbers; `_KEY` for a random key, which has none."""
    if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
        return _KEY
    return np.dtype(array.dtype)
