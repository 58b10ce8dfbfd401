"""Decode outputs of a network: classes and probabilities, or means and deviations.

A file with raw inputs decodes its outputs itself (`formats.onnx_raw`). Here the
likelihood decodes them, and the answers of every such file are compared with these.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from meanfield.checks import require
from meanfield.deploy.formats.onnx_session import RawPredictor
from meanfield.learning.distributions import base_of, is_binary, is_categorical
from meanfield.learning.targets import output_distribution


def answers(
    outputs: Any, likelihood: Any, targets: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Answers by name, as the predictions of a run name them.

    Args:
        outputs: outputs of a network for a batch.
        likelihood: map from outputs to a distribution, in the units of the data.
        targets: the part `targets` of a card's source: `names`, and for classes
            `class_names`.

    Returns:
        Arrays (batch, 1), and for the probabilities of classes (batch, classes).
    """
    distribution = output_distribution(likelihood, jnp.asarray(outputs))
    names: Sequence[str] = targets["names"]
    if is_categorical(distribution):
        probs = np.asarray(base_of(distribution).probs)
        classes = np.asarray(targets["class_names"], object)
        best = classes[probs.argmax(-1)][:, None]
        return {names[0]: best, f"{names[0]}_prob": probs}
    if is_binary(distribution):
        probs = np.asarray(base_of(distribution).probs)
        parts = {"": (probs > 0.5).astype(np.int64), "_prob_1": probs}
    else:
        deviation = np.sqrt(np.asarray(distribution.variance))
        parts = {"": np.asarray(distribution.mean), "_std": deviation}
    return {
        name + ending: values.reshape(len(values), -1)[:, [number]]
        for number, name in enumerate(names)
        for ending, values in parts.items()
    }


def compare_answers(
    found: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray], file: str
) -> None:
    """Raise unless a file's answers are those of its outputs, up to rounding.

    Raises:
        ValueError: names or numbers differ.
    """
    require(
        found.keys() == expected.keys(),
        f"{file} must return {sorted(expected)}; got {sorted(found)}.",
    )
    for name, wanted in expected.items():
        got = found[name]
        if wanted.dtype == object:
            agree = bool((got == wanted).all())
        else:
            scale = max(1.0, float(np.abs(wanted).max(initial=0)))
            agree = bool(np.allclose(got, wanted, rtol=1e-5, atol=1e-6 * scale))
        require(
            agree,
            f"{file} must give {name!r} by decoding its own outputs; got other "
            "answers. Ship with inputs='features'.",
        )


def check_answers(
    predict: RawPredictor,
    x: np.ndarray,
    likelihood: Any,
    targets: Mapping[str, Any],
    file: str,
) -> None:
    """Compare the answers of a file with those decoded from its own outputs.

    Raises:
        ValueError: they differ.
    """
    found = predict.answers(predict.feed(x))
    compare_answers(found, answers(predict(x), likelihood, targets), file)
