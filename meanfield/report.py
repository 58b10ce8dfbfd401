"""One self-contained HTML page that tells the story of a run, in order."""

import base64
import html
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .files import write_text
from .runs import CONFIG, Run, load_run

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --line: #d0d7de;
  --soft: #57606a; --band: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --paper: #0d1117;
  --line: #30363d; --soft: #9da7b1; --band: #161b22; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem;
  border-bottom: 1px solid var(--line); padding-bottom: .3rem; }
p.soft, figcaption { color: var(--soft); font-size: .92rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .6rem 0;
  font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid var(--line); }
thead th { background: var(--band); } td.number, th.number { text-align: right; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; background: #fff;
  border: 1px solid var(--line); border-radius: 6px; }
.plots { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.missing { border-left: 4px solid #bf8700; background: var(--band);
  padding: .6rem 1rem; }
code, pre { font: .9em ui-monospace, monospace; background: var(--band); }
pre { padding: .7rem; overflow-x: auto; }
"""

CAPTIONS = {
    "history": "Negative log-likelihood by epoch, one noise draw a batch.",
    "labels": "Share of important, variable and absent connections in every layer.",
    "entropy": "Mean entropy of a connection in every layer, in nats.",
    "renormalization": "Each layer's weight and bias variance, and the critical line.",
    "complexity": "Entropy of the on/off pattern of each layer, in bits.",
    "microstructure": "How the magnitudes of each tensor compare with a lognormal law.",
}


def write_report(folder: str | Path) -> Path:
    """Write ``report.html`` into a run folder.

    The page holds its plots, needs no network, follows the reader's light or dark
    theme, and says of each part that is missing how to make it.

    Args:
        folder: a run folder.

    Returns:
        Path of the page.

    Raises:
        FileNotFoundError: `folder` is no run folder.
        ValueError: a file of it is damaged.
    """
    run = load_run(folder)
    sections: list[tuple[str, Callable[[Run], str]]] = [
        ("What was trained", _trained),
        ("How good and how calibrated it is", _quality),
        ("Where the credit sits", _credit),
        ("Which neurons matter", _neurons),
        ("What the physics says", _physics),
        ("What can be shipped", _shipped),
        ("How to reproduce it", _reproduce),
    ]
    source = html.escape(str(run.config["data"]["source"]))
    body = "\n".join(
        f'<section aria-labelledby="s{number}"><h2 id="s{number}">{title}</h2>\n'
        f"{write(run)}</section>"
        for number, (title, write) in enumerate(sections, 1)
    )
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>meanfield: {source}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>An ensemble of sub-networks, trained on {source}</h1>\n{body}\n"
        "</body></html>\n"
    )
    path = run.folder / "report.html"
    write_text(path, page)
    return path


def _trained(run: Run) -> str:
    config, metrics = run.config, run.metrics
    widths = [config["model"]["inputs"], *config["model"]["hidden"]]
    rows = [
        ("data", config["data"]["source"]),
        ("task", config["data"]["task"]),
        ("layers", " – ".join(map(str, [*widths, config["model"]["outputs"]]))),
        ("random weights", f"{metrics.get('num_weights', 0):,}"),
        ("epochs", metrics.get("epochs", "–")),
        ("training seconds", _short(metrics.get("train_seconds"))),
        ("prior", _prior(config["training"])),
        ("ended", metrics.get("stopped", "–")),
    ]
    return (
        "<p>Every weight is a distribution: absent with probability π, else drawn from "
        "a Gaussian slab N(m, Ξ). Training moved all three numbers of each.</p>"
        + _table(("", ""), rows)
        + _figure(run, "history")
    )


def _quality(run: Run) -> str:
    names = {
        "accuracy": "test accuracy",
        "rmse": "test root mean square error",
        "nll": "test negative log-likelihood (nats)",
        "brier": "Brier score",
        "ece": "expected calibration error",
        "coverage": "coverage of 95 % intervals",
        "num_samples": "noise draws averaged over",
    }
    rows = [
        (text, _short(run.metrics[name]))
        for name, text in names.items()
        if run.metrics.get(name) is not None
    ]
    if not rows:
        return _missing("the test scores", f"meanfield evaluate {run.folder}")
    return _table(("score", "value"), rows, numbers=(1,))


def _credit(run: Run) -> str:
    labels = run.metrics.get("labels")
    if not labels:
        return _missing("the labels of connections", f"meanfield label {run.folder}")
    entropy = run.metrics.get("entropy", {})
    rows = [
        (
            name,
            *(f"{100 * part[kind]:.2f} %" for kind in part),
            _short(entropy.get(name)),
        )
        for name, part in labels.items()
    ]
    head = ("layer", *next(iter(labels.values())), "entropy (nats)")
    rule = run.metrics.get("label_rule", {})
    note = (
        f'<p class="soft">Tolerance of the labels: {rule.get("tolerance", 0)} '
        f"({html.escape(str(rule.get('chosen', 'exact')))}). Connections whose input "
        "never varies on the data never learn; they count as variable here.</p>"
    )
    landscapes = sorted((run.folder / "plots").glob("landscape-*.png"))
    figures = "".join(
        _image(
            path, f"Slab mean, slab variance and spike probability, {path.stem[10:]}."
        )
        for path in landscapes
    )
    return (
        _table(head, rows, numbers=range(1, len(head)))
        + note
        + f'<div class="plots">{_figure(run, "labels")}{_figure(run, "entropy")}'
        + f"{figures}</div>"
    )


def _neurons(run: Run) -> str:
    found = _read(run.folder / "coalitions.json")
    if found is None:
        return _missing(
            "the coalitions of neurons", f"meanfield coalitions {run.folder}"
        )
    rows = [
        (name, len(layer["mask"]), sum(map(bool, layer["mask"])))
        for name, layer in found["layers"].items()
    ]
    images = sorted((run.folder / "plots").glob("coalition*.png"))
    return _table(
        ("layer", "neurons", "in the strong coalition"), rows, (1, 2)
    ) + "".join(_image(path, path.stem.replace("-", " ")) for path in images)


def _physics(run: Run) -> str:
    found = _read(run.folder / "analysis.json")
    if found is None:
        return _missing("the physical reading", f"meanfield analyze {run.folder}")
    laws = [
        (name, fit["verdict"], _short(fit["mu"]), _short(fit["sigma"]), fit["reason"])
        for name, fit in found["microstructure"].items()
    ]
    flow = found["renormalization"]
    parts = [
        "<h3>Microstructure: are the magnitudes of the weights lognormal?</h3>",
        _table(("tensor", "verdict", "μ", "σ", "why"), laws, (2, 3)),
        _figure(run, "microstructure"),
        "<h3>Renormalization: where the layers lie in the phase diagram</h3>",
        f"<p><strong>{html.escape(flow['verdict'])}</strong>: "
        f"{html.escape(flow['reason'])}</p>",
        _figure(run, "renormalization"),
        "<h3>Complexity: bits of the on/off pattern, dimension of the features</h3>",
    ]
    layers = found["complexity"].get("layers")
    if layers is None:
        parts.append(f"<p>{html.escape(found['complexity']['reason'])}</p>")
        return "".join(parts)
    parts.append(_figure(run, "complexity"))
    rows = [
        (
            name,
            layer["num_units"],
            _short(layer["marginal"]),
            _short((layer["joint"] or {}).get("bits")),
            _short((layer["dimension"] or {}).get("dimension")),
            layer["verdict"],
        )
        for name, layer in layers.items()
    ]
    head = ("layer", "units", "sum of units (bits)", "joint (bits)", "dimension", "")
    return "".join(parts) + _table(head, rows, (1, 2, 3, 4))


def _shipped(run: Run) -> str:
    cards = sorted(run.folder.glob("*/card.json"))
    if not cards:
        return _missing(
            "sub-networks", f"meanfield sample {run.folder} -k 5 --format onnx"
        )
    rows = [
        (
            str(path.parent.name),
            entry["file"],
            _short(entry.get("accuracy", entry.get("rmse"))),
            _short(entry["nll"]),
            f"{entry['bytes']:,}",
            f"{entry['num_nonzero']:,}",
        )
        for path in cards
        for entry in json.loads(path.read_text())["subnetworks"]
    ]
    head = ("folder", "file", "accuracy or RMSE", "NLL", "bytes", "weights")
    return _table(head, rows, (2, 3, 4, 5))


def _reproduce(run: Run) -> str:
    data, model, training = (run.config[k] for k in ("data", "model", "training"))
    words = ["meanfield train", "--data", data["source"]]
    if data["target"]:
        words += ["--target", data["target"]]
    words += ["--hidden", ",".join(map(str, model["hidden"]))]
    for name in ("epochs", "batch_size", "learning_rate", "inclusion_prob", "seed"):
        if training.get(name) is not None:
            words += [f"--{name.replace('_', '-')}", str(training[name])]
    rows = sorted(run.config["versions"].items())
    return (
        f"<pre>{html.escape(' '.join(words))}</pre>"
        f"<p>Fingerprint of the data: <code>{data['sha256']}</code>. All settings: "
        f"<code>{CONFIG}</code>.</p>" + _table(("package", "version"), rows)
    )


def _prior(training: Mapping[str, Any]) -> str:
    if training.get("inclusion_prob") is None:
        return "none: generalized back-propagation as published"
    return (
        f"inclusion probability {training['inclusion_prob']}, slab scale "
        f"{training['slab_scale']}, temperature {training['temperature']}"
    )


def _table(
    head: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Iterable[int] = ()
) -> str:
    right = set(numbers)

    def cell(tag: str, column: int, value: Any) -> str:
        mark = ' class="number"' if column in right else ""
        return f"<{tag}{mark}>{html.escape(str(value))}</{tag}>"

    top = "".join(cell("th", column, name) for column, name in enumerate(head))
    top = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    body = "".join(
        "<tr>" + "".join(cell("td", c, value) for c, value in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>'


def _figure(run: Run, name: str) -> str:
    path = run.folder / "plots" / f"{name}.png"
    if not path.is_file():
        return _missing(f"the plot “{name}”", f"meanfield label {run.folder}")
    return _image(path, CAPTIONS[name])


def _image(path: Path, caption: str) -> str:
    content = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(caption, quote=True)
    return (
        f'<figure><img src="data:image/png;base64,{content}" alt="{text}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _missing(what: str, command: str) -> str:
    return (
        f'<p class="missing">This run has not got {what} yet. Make them with '
        f"<code>{html.escape(command)}</code> and write the report again.</p>"
    )


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.is_file() else None


def _short(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
