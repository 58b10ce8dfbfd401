"""Apply a shrunk network to whole inputs, including entries that it does not read."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.deploy.graph.graph import Graph, reads_of
from meanfield.deploy.graph.input_span import read_span
from meanfield.deploy.graph.inputs import batch_size
from meanfield.deploy.graph.network import Network, as_network
from meanfield.deploy.graph.simplify import select_inputs, simplify
from meanfield.deploy.graph.tracing import trace_symbolic
from meanfield.deploy.shrinking.shrink import Shrunk
from meanfield.ensemble.frameworks import Call

from .archive import load_subnetwork
from .lacking import LackingFormatError

Predict = Callable[[Any], np.ndarray]


def as_shrunk(archive: str | os.PathLike, like: Any) -> Shrunk:
    """An archive's network and the indices of the inputs it reads, for `export`."""
    model, content = load_subnetwork(archive, like)
    network = as_network(model, as_network(like).call)
    return Shrunk(model, content.kept_inputs, {}, 0.0, network)


def opened(
    model: Any, call: Call | None = None
) -> tuple[Network, dict[int, np.ndarray]]:
    """The network of a model or of a `Shrunk`, and the indices of inputs it reads."""
    if isinstance(model, Shrunk):
        return model.network, dict(model.kept_inputs)
    return as_network(model, call), {}


def jit_predict(network: Network, kept: Mapping[int, np.ndarray]) -> Predict:
    """The network as a function of whole inputs, compiled by JAX."""
    outputs = jax.jit(whole_function(network, kept))
    return lambda x: np.asarray(outputs(x))


def whole_function(
    network: Network, kept: Mapping[int, np.ndarray]
) -> Callable[[Any], Any]:
    """The network as a JAX function of whole inputs."""
    arrays = {name: jnp.asarray(array) for name, array in network.arrays.items()}

    def outputs(x: Any) -> Any:
        for axis, indices in kept.items():
            x = jnp.take(x, indices, axis=axis + 1)
        return network.apply(arrays, x)

    return outputs


def portable_graph(
    network: Network, kept: Mapping[int, np.ndarray], probe: Any
) -> Graph:
    """A simplified graph that takes whole inputs."""
    small = probe
    for axis, indices in kept.items():
        small = np.take(small, indices, axis + 1)
    graph = simplify(trace_symbolic(network, small))
    _require_computed(graph)
    if not kept:
        return graph
    shape = probe.shape[1:]
    span = read_span(graph, dict(kept), shape)
    return select_inputs(graph, dict(kept), shape) if span is None else span


def require_one_array(network: Network, kept: Mapping[int, np.ndarray], x: Any) -> None:
    """Raise unless a network returns one array with an entry for each example.

    Args:
        network: the network.
        kept: for each axis of one example, the indices it reads.
        x: a batch of whole inputs.

    Raises:
        ValueError: the outputs are not such an array.
    """
    outputs = jax.eval_shape(whole_function(network, kept), x)
    require(
        isinstance(outputs, jax.ShapeDtypeStruct),
        "`model` must return one array for a batch; got "
        f"{_described(outputs)}. Pass a function that picks one, such as "
        "(lambda params, x: apply_fn(params, x)['logits'], params).",
    )
    require(
        outputs.shape[:1] == (batch_size(x),),
        f"`model` must return an array for each example; got shape {outputs.shape} "
        f"for {batch_size(x)} examples.",
    )


def _described(outputs: Any) -> str:
    if not jax.tree.leaves(outputs):
        return "no array"
    if isinstance(outputs, Mapping):
        return f"a dictionary of {', '.join(map(str, outputs))}"
    return f"{len(jax.tree.leaves(outputs))} arrays in a {type(outputs).__name__}"


# Number types that both ONNX Runtime and NumPy compute in.
_COMPUTED = frozenset("bfiu")


def _require_computed(graph: Graph) -> None:
    values = {v for node in graph.dynamic_nodes() for v in reads_of(node)}
    strange = {str(v.dtype) for v in values if v.dtype.kind not in _COMPUTED}
    if strange:
        raise LackingFormatError(
            "`model` must compute in types that ONNX Runtime and NumPy support; got "
            f"{', '.join(sorted(strange))} instead of float32."
        )
