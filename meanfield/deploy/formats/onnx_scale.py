"""Divide the weights of a network's first products instead of its inputs."""

from typing import Any

from .extras import need


def divide_weights(graph: Any, name: str, divisor: str) -> bool:
    """Divide the matrices that multiply a value of an ONNX graph: x/d @ W = x @ (W/d).

    W and d are constants, so a runtime computes W/d only once.

    Args:
        graph: the graph, which is changed.
        name: name of the value.
        divisor: name of a constant that is one number.

    Returns:
        Whether the value, or slices of it, is read only by products with stored
        matrices; if not, nothing is changed.
    """
    stored = {tensor.name for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    found, values = [], [name]
    for value in values:
        for node in graph.node:
            places = [i for i, one in enumerate(node.input) if one == value]
            if places == [0] and node.op_type == "Slice":
                values.append(node.output[0])
            elif places == [0] and node.op_type in ("Gemm", "MatMul"):
                found.append(node)
            elif places:
                return False
    if not found or outputs & set(values):
        return False
    if any(node.input[1] not in stored for node in found):
        return False
    make, divided = need("onnx").helper.make_node, {}
    for node in found:
        weight = node.input[1]
        if weight not in divided:
            divided[weight] = f"{weight}/divided"
            quotient = make("Div", [weight, divisor], [divided[weight]])
            graph.node.insert(0, quotient)
        node.input[1] = divided[weight]
    return True
