"""Find the strong coalitions of the neurons of a run, layer by layer."""

import dataclasses
from typing import Any

import jax
import numpy as np

from meanfield.checks import require
from meanfield.data import Dataset
from meanfield.keys import key_of_seed
from meanfield.neurons.label_players import label_game
from meanfield.neurons.links import neuron_links
from meanfield.neurons.sequence import play_layers
from meanfield.neurons.strong_links import link_test
from meanfield.neurons.unit_shapley import UnitValues, unit_values

from .command_settings import CoalitionSettings
from .credit import known_credit
from .documents import write_sealed
from .folder import COALITIONS, Run
from .label import find_labels
from .pictures import draw_coalitions, draw_scales
from .schemas import COALITIONS as COALITIONS_CHECK

GAME_EXAMPLES = 400


def coalitions(
    run: Run,
    dataset: Dataset,
    *,
    budget: int = CoalitionSettings.budget,
    epsilon: float = CoalitionSettings.epsilon,
    seed: int = CoalitionSettings.seed,
) -> dict[str, Any]:
    """Strong coalitions of every hidden layer, each given those of earlier layers.

    Values are estimated on one part of the training data, and the payoff of the
    coalitions is measured on another. Neurons and labels are compared by the credit of
    their connections, which is computed first if the run has none. Writes two plots for
    each layer, two of the network, and ``coalitions.json``, which also has the credit
    summed by neuron and by layer, and the values of all neurons in a single game.
    """
    x, y = dataset.x_train, run.standardization.standardise(dataset.y_train)
    half = min(GAME_EXAMPLES, len(x) // 2)
    first, second = (x[:half], y[:half]), (x[half : 2 * half], y[half : 2 * half])
    key = key_of_seed(seed)
    labels = find_labels(run, dataset)
    credit, values = known_credit(run, dataset)
    seen = credit["num_examples"]
    units = unit_values(
        run.ensemble,
        (x[:seen], y[:seen]),
        key=jax.random.fold_in(key, 11),
        likelihood=run.likelihood,
    )
    played = play_layers(
        run.ensemble,
        first,
        second,
        key=jax.random.fold_in(key, 10),
        budget=budget,
        epsilon=epsilon,
        likelihood=run.likelihood,
    )
    found: dict[str, Any] = {}
    for number, (layer, turn) in enumerate(played.items()):
        game = label_game(
            run.ensemble, layer, labels, first, values, likelihood=run.likelihood
        )
        links = neuron_links(run.ensemble, labels, layer, first[0][:1], values)
        shuffle_key = jax.random.fold_in(key, 20 + number)
        found[layer] = _entry(turn) | {
            "label_game": game.values,
            "label_credit": game.credit,
            "label_counts": game.counts,
            "links": _links(links, turn.strong, shuffle_key),
        }
    draw_coalitions(run, played, epsilon)
    draw_scales(run, credit["scales"], values, units.values, played)
    content = {
        "payoff": next(iter(played.values())).payoff,
        "epsilon": epsilon,
        "examples": half,
        "seed": seed,
        "credit": credit["scales"]
        | {"payoff": credit["payoff_name"], "examples": seen},
        "unit_game": _unit_game(units),
        "layers": found,
    }
    write_sealed(run.folder / COALITIONS, content, run.seal)
    return content


def strong_masks(run: Run) -> dict[str, np.ndarray]:
    """Masks of the strong coalitions in ``coalitions.json``, by layer.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or was made from another ensemble.
    """
    command = f"`meanfield coalitions {run.folder}`"
    remedy = f"Make it again with {command}."
    found = run.derived(COALITIONS, COALITIONS_CHECK, remedy)
    if found is not None:
        layers = found["layers"].items()
        return {name: np.asarray(entry["mask"], bool) for name, entry in layers}
    path = run.folder / COALITIONS
    require(
        not path.is_file(),
        f"{path} was made from another ensemble than that of this run. {remedy}",
    )
    raise FileNotFoundError(
        f"{run.folder} has no {COALITIONS} yet; make it with {command}."
    )


def _entry(turn: Any) -> dict[str, Any]:
    """The results of one layer's game."""
    values, strong = turn.values, turn.strong
    return {
        "values": values.values.tolist(),
        "standard_errors": _finite(values.standard_errors),
        "intervals": _finite(values.intervals),
        "num_evaluations": int(values.num_evaluations),
        "null_players": turn.null_players.tolist(),
        "mask": strong.mask.tolist(),
        "memberships": strong.memberships.tolist(),
        "size": strong.size,
        "certified": strong.certified,
        "payoffs": strong.payoffs.tolist(),
    }


def _links(links: Any, strong: Any, key: Any) -> dict[str, Any]:
    """Connections of every neuron, and whether strong neurons have more credit."""
    test = None
    if 0 < strong.size < len(strong.mask):
        test = dataclasses.asdict(link_test(strong.mask, links, key=key))
    return {
        "incoming": {label: n.tolist() for label, n in links.incoming.items()},
        "outgoing": {label: n.tolist() for label, n in links.outgoing.items()},
        "expected_in": links.expected_in.tolist(),
        "expected_out": links.expected_out.tolist(),
        "value_in": links.value_in.tolist(),
        "value_out": links.value_out.tolist(),
        "strong_against_others": test,
    }


def _unit_game(units: UnitValues) -> dict[str, Any]:
    """The game of all neurons at once: its values, and their sum."""
    gain = units.payoff - units.empty_payoff
    sums = {name: float(array.sum()) for name, array in units.values.items()}
    total = sum(sums.values())
    return {
        "payoff": units.payoff_name,
        "examples": units.num_examples,
        "gain": gain,
        "sum": total,
        "gap": total - gain,
        "gap_error": units.gap_error,
        "layers": {
            name: {"sum": sums[name], "values": array.tolist()}
            for name, array in units.values.items()
        },
    }


def _finite(values: np.ndarray) -> list[Any]:
    """Nested lists; numbers that are not finite, which JSON lacks, are None."""
    return [
        _finite(value)
        if np.ndim(value)
        else float(value)
        if np.isfinite(value)
        else None
        for value in values
    ]
