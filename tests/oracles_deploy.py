"""Slow, obvious versions for the tests of shipped sub-networks."""

import numpy as np


def units_on_live_paths(weights):
    """Units of each hidden layer that lie on a path of non-zero weights.

    Args:
        weights: matrices (out, in) from the first layer to the last.

    Returns:
        For every layer of units, inputs and outputs included, the set of those that
        some input reaches and that reach some output; found by following every path.
    """
    depth, found = len(weights), [set() for _ in range(len(weights) + 1)]

    def follow(layer, unit, path):
        path = [*path, (layer, unit)]
        if layer == depth:
            for level, member in path:
                found[level].add(member)
            return
        for target in np.flatnonzero(weights[layer][:, unit]):
            follow(layer + 1, int(target), path)

    for unit in range(weights[0].shape[1]):
        follow(0, unit, [])
    return found


def mlp(weights, biases, x, activation, hold=None):
    """A dense network, one example and one unit at a time.

    Args:
        weights: matrices (out, in).
        biases: vectors (out,).
        x: a batch.
        activation: of the hidden layers, on a number.
        hold: for (layer, unit), the activation it is held at.
    """
    outputs = []
    for row in np.asarray(x, np.float64):
        signal = [float(v) for v in row]
        for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
            sums = [
                float(b[j]) + sum(float(w[j, k]) * s for k, s in enumerate(signal))
                for j in range(len(b))
            ]
            if layer < len(weights) - 1:
                sums = [activation(s) for s in sums]
                for j in range(len(sums)):
                    sums[j] = (hold or {}).get((layer, j), sums[j])
            signal = sums
        outputs.append(signal)
    return np.array(outputs)
