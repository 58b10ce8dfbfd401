"""The smaller ensemble of a run under the selective rule, without some units."""

from typing import Any

import jax

from meanfield.checks import require
from meanfield.data import Dataset
from meanfield.deploy.compaction import Compacted, compact
from meanfield.ensemble.ensemble import Ensemble
from meanfield.keys import key_of_seed

from .architecture import starting_model
from .folder import Run
from .learn import schedule
from .settings import TrainSettings
from .stages import stage


def can_be_compacted(run: Run) -> bool:
    """Whether the run has a temperature from the selective rule's search."""
    return bool(run.metrics.get("search"))


def compacted(run: Run, dataset: Dataset, tolerance: float, seed: int) -> Compacted:
    """Remove whole units, and let the others learn again for half of the run's epochs.

    Raises:
        ValueError: the run was not trained under the selective rule.
    """
    require(
        can_be_compacted(run),
        "`rule` compact needs a run under the selective rule, whose temperature it "
        "uses. Train with --rule selective, or choose another rule.",
    )
    training = run.config["training"]
    key = key_of_seed(training["seed"])
    y = run.standardization.standardise(dataset.y_train)
    model = starting_model(run.config["model"], training["seed"], run.folder, y)
    start = Ensemble.from_model(
        model,
        key=jax.random.fold_in(key, 0),
        spikes=training.get("spikes", TrainSettings.spikes),
    )
    settings = TrainSettings(batch_size=training.get("batch_size"))
    return compact(
        run.ensemble,
        (dataset.x_train, y),
        start=start,
        temperature=run.metrics["search"]["temperature"],
        key=jax.random.fold_in(key_of_seed(seed), 5),
        epochs=max(1, run.metrics["epochs"] // 2),
        batch_size=schedule(settings, len(y))[1],
        likelihood=run.likelihood,
        tolerance=tolerance,
        told=stage,
    )


def described(made: Compacted) -> dict[str, Any]:
    """The result of the compaction, for a card."""
    return {
        "share": made.share,
        "units": {name: list(pair) for name, pair in made.units.items()},
        "payoff": made.payoff,
        "held_out": {f"{share:g}": value for share, value in made.payoffs.items()},
    }
