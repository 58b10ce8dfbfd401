"""The plots of a run, which each command draws into ``plots/``."""

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from meanfield import plots
from meanfield.checks import require
from meanfield.credit.labels import ConnectionLabels
from meanfield.data import Dataset
from meanfield.ensemble.ensemble import Ensemble
from meanfield.plots.dark import darken
from meanfield.prediction.calibration import reliability_curve

from .folder import Run
from .mistakes import of_classes
from .tasks import target_names

# Largest number of targets whose predictions are plotted.
PREDICTIONS = 6
# The subfolder of plots for dark pages.
DARK = "dark"
# Keywords under which a PNG file stores its ensemble and its title; its first bytes.
SEAL, TITLE, PNG = "Ensemble", "Title", b"\x89PNG\r\n\x1a\n"


def draw_history(
    run: Run, history: Mapping[str, Any], base_rate: float | None = None
) -> None:
    """The loss by epoch, and that of a model without inputs."""
    axis = plots.training_history(history, base_rate=base_rate)
    _save(axis, run.plots / "history.png", run.seal)


def draw_reliability(run: Run, probs: np.ndarray, dataset: Dataset) -> None:
    """Accuracy against confidence."""
    probs, labels = of_classes(probs, dataset)
    curve = reliability_curve(probs, labels, bins="counts")
    ece = reliability_curve(probs, labels).ece
    axis = plots.reliability_diagram(
        curve.confidence, curve.accuracy, curve.counts, ece=ece
    )
    _save(axis, run.plots / "reliability.png", run.seal)


def draw_predictions(
    run: Run, means: Mapping[str, np.ndarray], dataset: Dataset
) -> None:
    """Predicted against true numbers for each target, and coverage of intervals."""
    folder, names = run.plots, target_names(dataset)
    y = dataset.y_test.reshape(len(dataset.y_test), -1)
    mean = means["mean"].reshape(y.shape)
    std = np.sqrt(means["aleatoric"] + means["epistemic"]).reshape(y.shape)
    for old in folder.rglob("predictions-*.png"):
        old.unlink()
    for number, name in enumerate(names[:PREDICTIONS]):
        title = name if dataset.target_names else ("target " + name) * (len(names) > 1)
        axis = plots.predictions(
            y[:, number], mean[:, number], std[:, number], name=title
        )
        _save(axis, folder / f"predictions-{number}.png", run.seal)
    if "level" in means:
        levels = dict(zip(names, means["level"].reshape(y.shape).T, strict=True))
        _save(plots.interval_coverage(levels), folder / "coverage.png", run.seal)


def draw_labels(
    run: Run, labels: ConnectionLabels, entropies: Mapping[str, float]
) -> None:
    """Labels and entropy by layer, and every layer's connections."""
    for name, weight in run.ensemble.weights().items():
        axis = plots.landscape(
            weight,
            labels=labels.labels[name],
            never_learned=None
            if labels.never_learned is None
            else labels.never_learned[name],
            name=name,
        )
        file = f"landscape-{name.replace('/', '-')}.png"
        _save(axis, run.plots / file, run.seal)
    _save(plots.label_fractions(labels.fractions), run.plots / "labels.png", run.seal)
    curves = {"trained": entropies}
    if "entropy_start" in run.metrics:  # missing in runs of earlier versions
        curves["at the start"] = run.metrics["entropy_start"]
    _save(plots.entropy_by_layer(curves), run.plots / "entropy.png", run.seal)


def draw_coalitions(run: Run, played: Mapping[str, Any], epsilon: float) -> None:
    """Values and payoffs of each layer's neurons, and the network of coalitions."""
    for layer, turn in played.items():
        name, values, strong = layer.replace("/", "-"), turn.values, turn.strong
        axis = plots.shapley_values(
            values.values,
            values.intervals,
            mask=strong.mask,
            title=f"{layer}: value of each neuron",
        )
        _save(axis, run.plots / f"coalition-values-{name}.png", run.seal)
        empty, full = strong.payoffs[0], strong.payoffs[-1]
        curve = plots.payoff_curves(
            {"by Shapley value": strong.payoffs},
            chosen=strong.size,
            threshold=float((1 - epsilon) * full + epsilon * empty),
            title=f"{layer}: payoff of the first neurons",
        )
        _save(curve, run.plots / f"coalition-payoff-{name}.png", run.seal)
    masks = {layer: turn.strong.mask for layer, turn in played.items()}
    between = _between(run.ensemble, list(masks))
    axis = plots.coalition_network(masks, between)
    _save(axis, run.plots / "coalition-network.png", run.seal)


def draw_scales(
    run: Run,
    scales: Mapping[str, Any],
    values: Mapping[str, np.ndarray],
    units: Mapping[str, np.ndarray],
    played: Mapping[str, Any],
) -> None:
    """The credit of connections, neurons and layers beside the coalitions."""
    layers = scales["layers"]
    single: dict[str, list[np.ndarray]] = {name: [] for name in layers}
    for name, array in values.items():
        single[name.rpartition("/")[0] or name].append(np.ravel(array))
    axis = plots.credit_scales(
        {name: layer["neurons"] for name, layer in layers.items()},
        {name: np.concatenate(parts) for name, parts in single.items()},
        coalitions={name: turn.strong.mask for name, turn in played.items()},
        gain=scales["gain"],
        units=units,
    )
    _save(axis, run.plots / "coalition-credit.png", run.seal)


def draw_credit(run: Run, dataset: Dataset, credit: Any) -> None:
    """Payoff against density, values against magnitudes, and the credit of inputs."""
    magnitudes = {n: abs(w.mean) for n, w in run.ensemble.weights().items()}
    pictures = {
        "credit-density": plots.payoff_by_density(credit),
        "credit-magnitude": plots.value_against_magnitude(credit.values, magnitudes),
    }
    parts = {"all": credit.values} if credit.by_group is None else credit.by_group
    names = dataset.class_names if credit.by_group is not None else None
    shape = dataset.image_shape or (1, dataset.num_features)
    images = {}
    for label, part in parts.items():
        inputs = credit_of_inputs(part, dataset.num_features)
        if inputs is not None:
            name = str(label) if names is None else str(names[int(label)])
            images[name] = inputs.reshape(*shape[:2], -1).sum(-1)
    if images:
        pictures["credit-inputs"] = plots.credit_maps(images)
    chain = chained_layers(credit.values)
    network = run.plots / "credit-network.png"
    if chain is None:
        network.unlink(missing_ok=True)
    else:
        layers = ["inputs", *(name.rpartition("/")[0] for name in chain)]
        pictures["credit-network"] = plots.credit_paths(
            list(chain.values()), names=dataset.class_names, layers=layers
        )
    for name, axis in pictures.items():
        _save(axis, run.plots / f"{name}.png", run.seal)


def chained_layers(
    values: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray] | None:
    """The arrays as matrices (units, inputs) of layers that each read the one before.

    None if they are not such a chain, or a layer has no positive credit.
    """
    arrays = {name: array for name, array in values.items() if array.ndim == 2}
    if len(arrays) < len(values):
        return None
    for turned in (False, True):
        chain = {n: a.T if turned else a for n, a in arrays.items()}
        parts = list(chain.values())
        follows = all(
            before.shape[0] == after.shape[1]
            for before, after in zip(parts, parts[1:], strict=False)
        )
        if follows and all((part > 0).any() for part in parts):
            return chain
    return None


def credit_of_inputs(
    values: Mapping[str, np.ndarray], num_features: int
) -> np.ndarray | None:
    """Summed values of the connections of each input; None if there are none.

    The layer that reads the inputs is the first matrix with an axis of their number: in
    Equinox its last axis, in Flax its first.
    """
    for array in values.values():
        if array.ndim == 2 and num_features in array.shape:
            return array.sum(0 if array.shape[1] == num_features else 1)
    return None


def draw_analysis(
    fits: Mapping[str, Any],
    flow: Any,
    layers: Mapping[str, Any] | None,
    folder: Path,
    seal: str | None = None,
) -> None:
    """One plot for each of the three analyses of `physics`."""
    _save(plots.microstructure_verdicts(fits), folder / "microstructure.png", seal)
    if flow is not None:
        layers_of = {"layers of this network": flow}
        axis = plots.phase_diagram(layers_of, activation=flow.activation)
        _save(axis, folder / "renormalization.png", seal)
    if any(entry["marginal"] is not None for entry in (layers or {}).values()):
        _save(plots.complexity(layers or {}), folder / "complexity.png", seal)


def texts_of_picture(content: bytes) -> dict[str, str]:
    """The texts that a PNG file stores, by keyword.

    Raises:
        ValueError: it is not a complete PNG file, according to the checksums of its
            parts.
    """
    require(content.startswith(PNG), "it does not begin as a PNG file does")
    texts, kind, start = {}, b"", len(PNG)
    while start < len(content):
        length = int.from_bytes(content[start : start + 4], "big")
        kind, body = content[start + 4 : start + 8], content[start + 8 :][:length]
        end = start + 12 + length
        checksum = zlib.crc32(kind + body).to_bytes(4, "big")
        require(content[end - 4 : end] == checksum, "a part of it was changed")
        if kind == b"tEXt":
            word, _, text = body.partition(b"\0")
            texts[word.decode("latin-1")] = text.decode("latin-1")
        start = end
    require(kind == b"IEND", "it was truncated")
    return texts


def _save(axis: Any, path: Path, seal: str | None) -> None:
    """Save the plot, and its version for dark pages in the subfolder `DARK`."""
    about = None if seal is None else {SEAL: seal, TITLE: path.name}
    plots.save(axis, path, about=about)
    plots.save(darken(axis), path.parent / DARK / path.name, about=about)


def _between(ensemble: Ensemble, layers: list[str]) -> list[np.ndarray]:
    """Mean weights from each hidden layer to the next, (units, next units)."""
    weights = {n.rpartition("/")[0]: w for n, w in ensemble.weights().items()}
    return [np.asarray(weights[layer].mean).T for layer in layers[1:]]
