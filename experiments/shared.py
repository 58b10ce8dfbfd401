"""Shared parts of experiments: options, finished rows, mean ± error, training.

An experiment runs as a script, ``python experiments/NAME.py``. Python then searches its
folder first for modules, so ``import shared`` finds this one.
"""

import argparse
import functools
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import meanfield as mf
from meanfield.files import write_text


def options(doc: str, *, out: str, seeds: int | None = None) -> argparse.ArgumentParser:
    """The options that experiments have in common.

    Args:
        doc: the experiment's docstring; its first line describes the script.
        out: the folder of results.
        seeds: the number of seeds of a full run; None if there is no such choice.
    """
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument(
        "--data-dir", type=Path, default=os.environ.get("MEANFIELD_DATA")
    )
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    if seeds is not None:
        parser.add_argument("--seeds", type=int, default=seeds, help="number of seeds")
    return parser


def keep_compiled(folder: Path) -> None:
    """Keep compiled programs in a folder, so that later seeds use them again."""
    jax.config.update("jax_compilation_cache_dir", str((folder / "compiled").resolve()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def mean_and_error(values: Any) -> tuple[float, float]:
    """Mean and its standard error, 0 for a single value."""
    values = np.asarray(values, dtype=np.float64)
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return float(values.mean()), float(error)


def plus_minus(values: Any, digits: int = 4, sign: str = "") -> str:
    """Mean ± standard error as text; `sign` "+" shows the sign of the mean."""
    mean, error = mean_and_error(values)
    return f"{mean:{sign}.{digits}f} ± {error:.{digits}f}"


def label_table(
    labels: mf.credit.ConnectionLabels, entropy: Mapping[str, float]
) -> str:
    """Labels and entropy of every layer, over the connections that learned."""
    head = ("weights", "never l.", "important", "variable", "absent", "entropy")
    lines = [f"{'':16s}" + "".join(f"{name:>11s}" for name in head)]
    for name, part in labels.learned_fractions.items():
        shares = (
            labels.never_learned_fractions[name],
            *(part[label] for label in head[2:5]),
            entropy[name],
        )
        lines.append(
            f"{name:16s}{labels.labels[name].size:11d}"
            + "".join(f"{share:11.4f}" for share in shares)
        )
    return "\n".join(lines)


def share_kept(ensemble: mf.Ensemble) -> float:
    """The fraction of connections present in the median network, 1 − π > ½."""
    weights = ensemble.weights().values()
    return sum(int((w.spike_prob < 0.5).sum()) for w in weights) / ensemble.num_weights


def credit_table(labels: mf.credit.ConnectionLabels) -> str:
    """Certified labels of every layer, and the sum of its connections' credit."""
    head = ("weights", "important", "variable", "absent")
    lines = [f"{'':24s}" + "".join(f"{name:>11s}" for name in (*head, "credit"))]
    for name, shares in labels.fractions.items():
        numbers = "".join(f"{shares[label]:11.4f}" for label in head[1:])
        credit = (labels.values or {}).get(name, np.zeros(1)).sum()
        size = labels.labels[name].size
        lines.append(f"{name:24s}{size:11d}{numbers}{credit:11.4f}")
    verdict = labels.certificate.verdict if labels.certificate else "no certificate"
    return "\n".join([*lines, verdict])


def once(path: Path, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The row in a file; if the file is missing, `run` makes it."""
    if not path.exists():
        began = time.perf_counter()
        row = run()
        row["seconds"] = time.perf_counter() - began
        write_text(path, json.dumps(row))
    return json.loads(path.read_text())


def resumed(
    path: Path,
    cases: Iterable[Mapping[str, Any]],
    run: Callable[[Mapping[str, Any]], Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """One row for each case; rows that an earlier call wrote are not run again.

    An earlier row is used only if all settings of its case are equal.

    Args:
        path: file of rows, one JSON object a line; it is appended to.
        cases: the settings of every row, plain values by name.
        run: computes the results of a case, plain values by other names.

    Returns:
        The case and its results together, in the order of the cases.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.is_file() else []
    known = [json.loads(line) for line in lines]
    rows = []
    for case in cases:
        case = json.loads(json.dumps(case))  # tuples as lists, as they are read back
        same = (row for row in known if case == {k: row.get(k) for k in case})
        row = next(same, None)
        if row is None:
            row = {**case, **run(case)}
            with path.open("a") as file:
                file.write(json.dumps(row) + "\n")
        rows.append(row)
    return rows


def epochs_of_batches(
    num_examples: int, batch_size: int, epochs: int, *, key: jax.Array
) -> jax.Array:
    """Indices (steps, batch) of whole batches, in a new random order every epoch."""
    steps = num_examples // batch_size
    return jnp.concatenate(
        [
            jax.random.permutation(k, num_examples)[: steps * batch_size].reshape(
                steps, batch_size
            )
            for k in jax.random.split(key, epochs)
        ]
    )


@functools.partial(jax.jit, static_argnames=("forward", "learning_rate"))
def train(
    forward: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    x: jax.Array,
    y: jax.Array,
    batches: jax.Array,
    learning_rate: float,
) -> Any:
    """Adam on the cross-entropy of an ordinary network, in one compiled loop.

    Args:
        forward: logits of a batch.
        params: the initial parameters.
        x: all examples.
        y: their classes.
        batches: indices (steps, batch) of the examples in every step.
        learning_rate: Adam's step size.
    """
    optimizer = optax.adam(learning_rate)

    def loss(params: Any, batch: jax.Array) -> jax.Array:
        logits = forward(params, x[batch])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[batch]).mean()

    def step(carry: Any, batch: jax.Array) -> Any:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, batch), state)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), batches)
    return params


def accuracy(logits: jax.Array, y: Any) -> float:
    """The fraction of examples whose class has the largest logit."""
    return float((np.asarray(logits).argmax(1) == np.asarray(y)).mean())
