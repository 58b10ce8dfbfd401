"""Compute the Shapley values of the connections of a run."""

from typing import Any

import jax
import numpy as np

from meanfield.checks import require
from meanfield.credit.connection_shapley import ConnectionValues, connection_values
from meanfield.data import Dataset
from meanfield.keys import key_of_seed
from meanfield.neurons.one_sum import CreditSums, credit_sums
from meanfield.plots.valuations import steepest_density

from .command_settings import CreditSettings
from .credit_columns import add_columns, read_values
from .documents import write_sealed
from .folder import CREDIT, Run
from .pictures import draw_credit
from .schemas import CREDIT as CREDIT_CHECK

LARGEST = 10


def credit(
    run: Run,
    dataset: Dataset,
    *,
    by: str | None = CreditSettings.by,
    examples: int = CreditSettings.examples,
    num_samples: int = CreditSettings.num_samples,
    checks: int = CreditSettings.checks,
    seed: int = CreditSettings.seed,
) -> dict[str, Any]:
    """Shapley values of all connections, on examples of the training data.

    Writes ``credit.json``, three columns of ``connections.csv``, and plots.

    Args:
        run: a run.
        dataset: its data.
        by: "class" also splits the values by class.
        examples: largest number of examples that the payoff averages over.
        num_samples: draws of the noise for each example and node of the quadrature.
        checks: number of drawn sub-networks for the check of Gaussian pre-activations.
        seed: seed of all random choices.

    Raises:
        ValueError: `by` is unknown, or the targets are not classes.
        FileNotFoundError: the run has no ``connections.csv`` yet.
    """
    table = run.connections
    x = dataset.x_train[:examples]
    y = run.standardization.standardise(dataset.y_train)[: len(x)]
    found = connection_values(
        run.ensemble,
        (x, y),
        key=jax.random.fold_in(key_of_seed(seed), 30),
        likelihood=run.likelihood,
        groups=_groups(dataset, by, len(x)),
        num_samples=num_samples,
        num_checks=checks,
    )
    add_columns(table, found)
    run.seal_connections()
    draw_credit(run, dataset, found)
    sums = credit_sums(run.ensemble, found, x)
    content = summary(found, sums, dataset) | {"seed": seed}
    write_sealed(run.folder / CREDIT, content, run.seal)
    return content


def known_credit(
    run: Run, dataset: Dataset
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The contents of ``credit.json``, and the connections' values by path name.

    If the run has no values, or an earlier version stored them without their sums, they
    are computed with the default settings of `credit`.

    Raises:
        FileNotFoundError: the run has no ``connections.csv`` yet.
        ValueError: a file of the run is damaged.
    """
    remedy = f"Make it again with `meanfield credit {run.folder}`."
    content = run.derived(CREDIT, CREDIT_CHECK, remedy)
    shapes = {name: weight.shape for name, weight in run.ensemble.weights().items()}
    values = None
    if content is not None and "scales" in content:
        values = read_values(run.connections, shapes)
    if content is None or values is None:
        content = credit(run, dataset)
        values = read_values(run.connections, shapes)
    assert values is not None
    return content, values


def _groups(dataset: Dataset, by: str | None, examples: int) -> np.ndarray | None:
    if by is None:
        return None
    require(by == "class", f"`by` must be 'class'; got {by!r}.")
    labels = np.asarray(dataset.y_train)[:examples]
    require(
        labels.size == examples and labels.dtype.kind in "biu",
        "`by` 'class' needs one class for each example; the targets of "
        f"{dataset.name} are numbers, or several for each example.",
    )
    return labels.reshape(-1)


def summary(
    found: ConnectionValues, sums: CreditSums, dataset: Dataset
) -> dict[str, Any]:
    """The contents of ``credit.json``."""
    names = dataset.class_names
    by_group = None
    if found.by_group is not None and found.group_payoffs is not None:
        by_group = {
            _class_name(names, label): {
                "payoff": float(found.group_payoffs[label][0]),
                "empty_payoff": float(found.group_payoffs[label][1]),
                "layers": {name: float(array.sum()) for name, array in part.items()},
            }
            for label, part in found.by_group.items()
        }
    check = found.check
    return {
        "payoff_name": found.payoff_name,
        "payoff": found.payoff,
        "empty_payoff": found.empty_payoff,
        "efficiency_gap": found.efficiency_gap,
        "gap_error": found.gap_error,
        "quadrature_error": found.quadrature_error,
        "num_players": found.num_players,
        "num_examples": found.num_examples,
        "num_passes": found.num_passes,
        "path": {
            "density": found.nodes.tolist(),
            "payoff": found.path_payoff.tolist(),
            "errors": found.path_errors.tolist(),
            "steepest": steepest_density(found),
        },
        "layers": {name: _layer(found, name) for name in found.values},
        "scales": scales(sums),
        "by_class": by_group,
        "check": None
        if check is None
        else {
            "verdict": check.verdict,
            "largest_difference": check.largest_difference,
            "tolerance": check.tolerance,
            "num_subnetworks": check.num_subnetworks,
            "num_examples": check.num_examples,
            "drawn_payoff": check.drawn_payoff.tolist(),
            "drawn_errors": check.drawn_errors.tolist(),
            "drawn_sums": check.drawn_sums,
            "drawn_sum_errors": check.drawn_sum_errors,
        },
    }


def scales(sums: CreditSums) -> dict[str, Any]:
    """The sum of credit at three scales, as plain numbers."""
    return {
        "gain": sums.gain,
        "sum": sums.total,
        "gap": sums.gap,
        "gap_error": sums.gap_error,
        "layers": {
            layer: {
                "connections": sums.connections[layer],
                "sum": total,
                "neurons": None
                if sums.neurons[layer] is None
                else np.asarray(sums.neurons[layer]).tolist(),
            }
            for layer, total in sums.layers.items()
        },
    }


def _class_name(names: Any, label: Any) -> str:
    return str(names[int(label)]) if names is not None else str(label)


def _layer(found: ConnectionValues, name: str) -> dict[str, Any]:
    """The sum of one array's values, and its connections of largest value."""
    values, errors = found.values[name], found.standard_errors[name]
    flat = values.ravel()
    order = np.argsort(-flat)[:LARGEST]
    places = [[int(i) for i in np.unravel_index(k, values.shape)] for k in order]
    return {
        "connections": int(values.size),
        "sum": float(values.sum(dtype=np.float64)),
        "sum_of_negative": float(np.minimum(values, 0).sum(dtype=np.float64)),
        "largest": [
            {"index": place, "value": float(flat[k]), "error": float(errors.ravel()[k])}
            for place, k in zip(places, order, strict=True)
        ],
    }
