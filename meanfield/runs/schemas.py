"""Schemas of the JSON files of a run: types, keys, ranges, sizes.

A check is a function of a value and the name of its place in the file. It raises a
`ValueError` that says what was needed and what was given. Checks are nested like the
files.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from meanfield.checks import require
from meanfield.data.dataset import TASKS

from .settings import RULES
from .tasks import LIKELIHOODS

Check = Callable[[Any, str], None]
LONGEST = 100_000_000


def number(low: float | int = -math.inf, high: float | int = math.inf) -> Check:
    """A finite number within bounds."""

    def check(value: Any, place: str) -> None:
        kind = isinstance(value, int | float) and not isinstance(value, bool)
        require(
            kind and math.isfinite(value) and low <= value <= high,
            f"{place} must be a finite number in [{low:g}, {high:g}]; got "
            f"{_shown(value)}",
        )

    return check


def whole(low: int = 0, high: int = 2**63 - 1) -> Check:
    """A whole number within bounds."""

    def check(value: Any, place: str) -> None:
        kind = isinstance(value, int) and not isinstance(value, bool)
        require(
            kind and low <= value <= high,
            f"{place} must be a whole number from {low} to {high}; got {_shown(value)}",
        )

    return check


def text(*choices: str) -> Check:
    """A text, one of several if some are given."""

    def check(value: Any, place: str) -> None:
        good = isinstance(value, str) and (not choices or value in choices)
        needed = f"one of {', '.join(choices)}" if choices else "a text"
        require(good, f"{place} must be {needed}; got {_shown(value)}")

    return check


def flag(value: Any, place: str) -> None:
    """True or false."""
    require(isinstance(value, bool), f"{place} must be true or false; got {value!r}")


def optional(check: Check) -> Check:
    """The value, or null."""
    return lambda value, place: None if value is None else check(value, place)


def either(one: Check, other: Check) -> Check:
    """A list that passes the one check, or anything else that passes the other."""
    return lambda value, place: (one if isinstance(value, list) else other)(
        value, place
    )


def items(check: Check, most: int = LONGEST) -> Check:
    """A list of values."""

    def check_all(value: Any, place: str) -> None:
        require(
            isinstance(value, list) and len(value) <= most,
            f"{place} must be a list of at most {most} values; got {_shown(value)}",
        )
        for number, each in enumerate(value):
            check(each, f"{place}[{number}]")

    return check_all


def mapping(check: Check) -> Check:
    """Names, each with a value."""

    def check_all(value: Any, place: str) -> None:
        require(
            isinstance(value, dict),
            f"{place} must be names with values; got {_shown(value)}",
        )
        for name, each in value.items():
            check(each, f"{place}/{name}")

    return check_all


def record(needed: Mapping[str, Check], others: Mapping[str, Check] = {}) -> Check:  # noqa: B006  (not changed)
    """Required names and optional names with checks; other names are not checked."""

    def check_all(value: Any, place: str) -> None:
        require(
            isinstance(value, dict),
            f"{place or 'the file'} must be names with values; got {_shown(value)}",
        )
        missing = [name for name in needed if name not in value]
        require(not missing, f"{place or 'the file'} misses {missing}")
        for name, check in {**needed, **others}.items():
            if name in value:
                check(value[name], f"{place}/{name}".removeprefix("/"))

    return check_all


def _shown(value: Any) -> str:
    return repr(value)[:60]


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
fractions = mapping(record(dict.fromkeys(("important", "absent", "variable"), share)))
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
        "labels_learned": fractions,
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
    }
)


def coalition(value: Any, place: str) -> None:
    """The results for one layer's neurons, whose parts must have equal lengths."""
    layer(value, place)
    neurons = len(value["mask"])
    require(
        len(value["values"]) == neurons > 0
        and len(value["payoffs"]) == neurons + 1
        and sum(value["mask"]) == value["size"],
        f"{place} must hold a value and a payoff for each of its {neurons} neurons, "
        f"and as many in the mask as its size {value['size']}",
    )


COALITIONS = record(
    {"layers": mapping(coalition)},
    {"payoff": text(), "epsilon": number(), "examples": whole(), "seed": whole()},
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
    }
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
    {"source": record({}, {"targets": optional(record({"outputs": text()}))})},
)
