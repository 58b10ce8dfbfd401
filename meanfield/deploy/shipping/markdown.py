"""The model card as Markdown."""

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .card import LABELS


def to_markdown(card: Mapping[str, Any]) -> str:
    """The model card as Markdown text."""
    entries = card["subnetworks"]
    lines = [
        "# Model card",
        "",
        f"{len(entries)} sub-network{'s' if len(entries) > 1 else ''}, rule "
        f"{_plain(card['rule'])}, format {_plain(card['format'])}, on "
        f"{_plain(card['device'])}.",
        "",
        *_table(_rows(entries)),
        "",
        *_input(card.get("source", {}).get("input"), card.get("inputs") == "raw"),
        *_targets(card.get("source", {}).get("targets")),
        "Before: the masked network as drawn, in the same runtime. After: the file. "
        "Latencies are medians in microseconds on one thread.",
    ]
    if "selection" in card:
        chosen = card["selection"]
        lines += [
            "",
            f"Chosen by validation payoff: number {chosen['best']} of {len(entries)}, "
            f"on {chosen['num_validation']} examples that are not used for the scores "
            "above.",
        ]
    if "control" in card:
        lines += ["", "## A plain network of that size, trained as long", ""]
        lines += _table([("quantity", "value"), *_flat(card["control"])])
    if "ensemble" in card:
        lines += ["", "## The K networks in one file", ""]
        lines += _table([("quantity", "value"), *_flat(card["ensemble"])])
    if card.get("diversity"):
        lines += ["", "## Diversity", ""]
        lines += _table([("quantity", "value"), *_flat(card["diversity"])])
    if card.get("labels"):
        lines += ["", "## Labels of connections", ""]
        head = ("layer", *LABELS)
        rows = [
            (name, *(f"{100 * parts[word]:.2f} %" for word in LABELS))
            for name, parts in card["labels"].items()
        ]
        lines += _table([head, *rows])
    lines += ["", "## Origin", ""]
    origin = {**card.get("source", {}), **card["versions"]}
    for part in ("targets", "input"):
        origin.pop(part, None)
    lines += _table([("what", "value"), *_flat(origin)])
    return "\n".join(lines) + "\n"


def shown_score(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Name and value of an entry's main score, or two empty texts."""
    if "accuracy" in entry:
        return "accuracy", f"{entry['accuracy']:.4f}"
    if "rmse" not in entry:
        return "", ""
    each = entry.get("rmse_by_output", [entry["rmse"]])
    return "rmse", " / ".join(f"{rmse:.4g}" for rmse in each)


def _targets(targets: Mapping[str, Any] | None) -> list[str]:
    if targets is None:
        return []
    lines = [f"Outputs of the files: {_plain(targets['outputs'])}."]
    if "shift" in targets:
        lines[0] += " The scores are in the units of the data."
        names = targets.get("names", range(len(targets["shift"])))
        rows = zip(names, targets["shift"], targets["scale"], strict=True)
        cells = [(str(name), f"{a:.7g}", f"{b:.7g}") for name, a, b in rows]
        lines += ["", *_table([("target", "shift", "scale"), *cells])]
    return [*lines, ""]


def _input(contract: Mapping[str, Any] | None, raw: bool) -> list[str]:
    """The inputs of the files, and how features are made from raw inputs."""
    if contract is None:
        return []
    shape = " × ".join(map(str, contract["feature_shape"]))
    lines = [
        f"Features: float32, batch × {shape}; `example.json` has one input, raw and as "
        "features, with the expected outputs and what they mean."
    ]
    lines[0] += _fed(contract) if raw else " The files take features."
    if contract["kind"] != "table":
        divisor = contract["divide_by"]
        if divisor != 1:
            least, most = contract.get("raw_range", (0, divisor))
            lines[0] += (
                f" Raw numbers, {least:g} to {most:g}, are divided by {divisor:g}."
            )
        return [*lines, ""]
    rows = [("features", "column", "how")]
    for column in contract["columns"]:
        first, end = column["features"]
        place = str(first) if end == first + 1 else f"{first} to {end - 1}"
        rows.append((place, column["name"], _encoding(column)))
    return [*lines, "", *_table(rows), ""]


def _fed(contract: Mapping[str, Any]) -> str:
    """The inputs of files that make the features themselves."""
    own = " The last output of a file is the network's own."
    if contract["kind"] != "table":
        shape = " × ".join(map(str, contract["shape"]))
        return f" A file takes raw numbers, float32, batch × {shape}.{own}"
    return (
        " A file takes the columns of the table by name, each batch × 1: numbers as "
        "float64, NaN where one is missing; categories as texts, empty where one is "
        "missing; an unknown category is refused. Its outputs are the columns of "
        f"`meanfield predict`: means, deviations, classes, probabilities.{own}"
    )


def _encoding(column: Mapping[str, Any]) -> str:
    if column["kind"] == "category":
        names = ", ".join("(missing)" if n is None else n for n in column["one_hot"])
        return f"1 for the category, else 0: {names}"
    how = f"minus {column['subtract']:.9g}, divided by {column['divide_by']:.9g}"
    if "missing_becomes" in column:
        filled = f"{column['missing_becomes']:.9g}"
        how += f"; a missing number becomes {filled}, with 1 in the second feature"
    return how


def _rows(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    score, _ = shown_score(entries[0])
    head = ["file", "bytes", "weights", "non-zero", "multiply-adds"]
    scored = score != ""
    head += [score, "NLL"] if scored else []
    timed = entries[0].get("latency") is not None
    head += ["batch 1, before → after", "batch 256, before → after"] if timed else []
    head += ["mask sha256", "file sha256"]
    rows = [tuple(head)]
    for entry in entries:
        row = [
            entry["file"],
            f"{entry['before']['bytes']:,} → {entry['bytes']:,}",
            f"{entry['before']['num_weights']:,} → {entry['num_weights']:,}",
            f"{entry['num_nonzero']:,}",
            f"{entry['before']['macs']:,} → {entry['macs']:,}",
        ]
        if scored:
            before, after = (shown_score(e)[1] for e in (entry["before"], entry))
            row += [f"{before} → {after}"]
            row += [f"{entry['before']['nll']:.4f} → {entry['nll']:.4f}"]
        for batch in ("batch_1_us", "batch_256_us") if timed else ():
            before, after = (e["latency"][batch] for e in (entry["before"], entry))
            row.append(f"{before:,.0f} → {after:,.0f}")
        row += [f"{entry[name][:12]}…" for name in ("mask_hash", "sha256")]
        rows.append(tuple(row))
    return rows


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += [(f"{name}: {inner}", text) for inner, text in _flat(value)]
        else:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            rows.append((name, shown))
    return rows


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = ([_plain(cell) for cell in row] for row in rows)
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in body]


def _plain(text: Any) -> str:
    """A text that Markdown displays unchanged: on one line, without HTML or markup."""
    one_line = re.sub(r"[\x00-\x1f\x7f\u2028\u2029]+", " ", str(text))
    escaped = re.sub(r"([\\`*_\[\]|~])", r"\\\1", one_line)
    return html.escape(escaped, quote=False)
