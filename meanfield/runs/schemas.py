"""Schemas of the JSON files of a run, nested like the files themselves."""

from typing import Any

from meanfield.checks import require
from meanfield.data.dataset import TASKS

from .json_checks import (
    either,
    flag,
    items,
    mapping,
    number,
    optional,
    record,
    text,
    whole,
)
from .settings import RULES
from .tasks import LIKELIHOODS

texts, numbers, width = items(text()), items(number()), whole(1, 10**9)
share = number(0, 1)
CONFIG = record(
    {
        "data": record(
            {
                "source": text(),
                "task": text(*TASKS),
                "test_fraction": share,
                "sha256": text(),
            },
            {
                "data_dir": optional(text()),
                "target": optional(text()),
                "seed": whole(),
                "class_names": optional(texts),
                "target_names": optional(texts),
                "image_shape": optional(items(width, 8)),
                "target_shift": optional(either(numbers, number())),
                "target_scale": optional(either(items(number(0)), number(0))),
                "schema": optional(record({})),
                "divisor": number(0),
            },
        ),
        "model": record(
            {
                "kind": text(),
                "inputs": width,
                "hidden": items(width, 1_000),
                "outputs": width,
            },
            {
                "likelihood": text(*LIKELIHOODS),
                "targets": width,
                "shape": optional(items(width, 8)),
                "function": text(),
                "file_sha256": text(),
            },
        ),
        "training": record(
            {"seed": whole()},
            {
                "epochs": optional(whole(1)),
                "batch_size": optional(whole(1)),
                "learning_rate": number(0),
                "rule": text(*RULES),
                "inclusion_prob": optional(share),
                "slab_scale": number(0),
                "temperature": number(0),
                "spikes": text(),
                "precision": optional(text()),
                "accumulate": whole(1),
                "patience": optional(whole()),
            },
        ),
    },
    {"format": whole(), "versions": mapping(text())},
)
LABELS = ("important", "absent", "variable")
fractions = mapping(record(dict.fromkeys(LABELS, share)))
# Null for a layer in which no connection learns.
learned = mapping(record(dict.fromkeys(LABELS, optional(share))))
METRICS = record(
    {},
    {
        **dict.fromkeys(("accuracy", "confidence", "ece", "coverage"), optional(share)),
        **dict.fromkeys(("rmse", "nll", "brier", "r2"), optional(number())),
        "standard_errors": mapping(optional(number(0))),
        "baselines": mapping(mapping(optional(number()))),
        **dict.fromkeys(
            ("num_samples", "num_examples", "epochs", "num_weights"), whole()
        ),
        "train_seconds": number(0),
        "stopped": text(),
        "history_sha256": text(),
        "connections_sha256": text(),
        "classes": items(text()),
        "confusion": optional(items(items(whole()))),
        "hardest": items(
            record(
                {
                    "example": whole(),
                    "class": text(),
                    "predicted": text(),
                    "probability": share,
                }
            )
        ),
        "by_target": items(record({"target": text()})),
        "labels": fractions,
        "labels_learned": learned,
        "never_learned": mapping(share),
        "label_rule": record(
            {},
            {
                "tolerance": number(),
                "chosen": text(),
                "verdict": text(),
                "payoff": text(),
                "without": mapping(share),
                **dict.fromkeys(("full", "empty", "epsilon", "level"), share),
                **dict.fromkeys(("loss_bound", "cost_bound"), optional(number())),
                "num_examples": whole(),
            },
        ),
        "entropy": mapping(optional(number())),
        "entropy_start": mapping(optional(number())),
        "search": record(
            {"temperature": number(0), "price": number(0), "trials": items(numbers)}
        ),
        "versions": mapping(text()),
    },
)
game = record(dict.fromkeys(("important", "absent", "variable"), number()))
layer = record(
    {
        "values": numbers,
        "mask": items(flag),
        "size": whole(),
        "payoffs": numbers,
        "label_game": game,
    },
    {"label_credit": game},
)
# The summed credit at several scales, the gain that it should equal, and the gap.
shared = {name: number() for name in ("gain", "sum", "gap", "gap_error")}
SCALES = record(
    shared
    | {
        "layers": mapping(
            record(
                {"connections": whole(), "sum": number(), "neurons": optional(numbers)}
            )
        )
    }
)
UNIT_GAME = record(
    shared | {"layers": mapping(record({"sum": number(), "values": numbers}))}
)


def coalition(value: Any, place: str) -> None:
    """The results for one layer of n neurons: n values, n + 1 payoffs and a mask."""
    layer(value, place)
    neurons = len(value["mask"])
    require(
        len(value["values"]) == neurons > 0
        and len(value["payoffs"]) == neurons + 1
        and sum(value["mask"]) == value["size"],
        f"{place} must hold a value for each of its {neurons} neurons (at least one), "
        f"{neurons + 1} payoffs, and a mask with `size` {value['size']} neurons in it",
    )


COALITIONS = record(
    {"layers": mapping(coalition)},
    {
        "payoff": text(),
        "epsilon": number(),
        "examples": whole(),
        "seed": whole(),
        "credit": SCALES,
        "unit_game": UNIT_GAME,
    },
)
CREDIT = record(
    {
        "payoff_name": text(),
        "payoff": number(),
        "empty_payoff": number(),
        "num_examples": whole(),
        "path": record({"steepest": number()}),
        "layers": mapping(
            record(
                {"connections": whole(), "sum": number(), "sum_of_negative": number()}
            )
        ),
        "by_class": optional(mapping(record({}))),
        "check": optional(
            record(
                {
                    "verdict": text("agrees", "differs", "cannot tell"),
                    "largest_difference": number(),
                }
            )
        ),
    },
    {"scales": SCALES},
)
verdict = record({"verdict": text(), "reason": text()})
ANALYSIS = record(
    {
        "microstructure": mapping(
            record(
                {
                    "verdict": text(),
                    "reason": text(),
                    "mu": optional(number()),
                    "sigma": optional(number()),
                }
            )
        ),
        "renormalization": verdict,
        "complexity": record({}, {"layers": mapping(record({"verdict": text()}))}),
    }
)
CARD = record(
    {
        "subnetworks": items(
            record(
                {"file": text()},
                {
                    "accuracy": number(),
                    "rmse": number(),
                    "rmse_by_output": numbers,
                    "nll": number(),
                    "bytes": whole(),
                    "num_weights": whole(),
                    "num_nonzero": whole(),
                    "latency": optional(mapping(number())),
                    "before": record({}, {"bytes": whole(), "num_weights": whole()}),
                },
            )
        )
    },
    {
        "source": record({}, {"targets": optional(record({"outputs": text()}))}),
        "control": record(
            {}, dict.fromkeys(("accuracy", "rmse", "nll"), optional(number()))
        ),
    },
)
