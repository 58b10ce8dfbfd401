"""Does learning find the planted inputs and connections that matter?

The designs and their truths are in planted/designs.py and planted/transformer.py: Sun,
Song & Liang's network, LBBNN's inputs, a convolution, a recurrent network, and a
compiled transformer with hidden zeros.

Networks learn by the selective rule with its defaults; nothing is tuned here. A
connection is live where 1 − π > ½ (in perceptrons, if it also lies on a path of such
connections from an input to the output); an input is kept if it has a live connection.
Reported are the fractions of live connections among the connections that matter and
among the others, with the hidden units in the best order (planted/truth.py); the
calibration of 1 − π as the probability that a connection matters; and for every score,
which has no threshold, the area under the ROC curve and the two fractions when as many
connections are kept as are live. `select_inputs` selects inputs on separate examples at
a false discovery rate of 0.1. Compared on the same examples are a point network with
magnitudes and OBD, gates under an L0 penalty, and LassoNet (planted/peers.py).

    python experiments/planted_credit.py             # ten data sets of each
    python experiments/planted_credit.py --quick     # small, two minutes
    python experiments/planted_credit.py --alone     # without the peers
"""

import functools
import math
from pathlib import Path

import jax
import matplotlib.pyplot as plt
import numpy as np
from connection_scores import connection_scores, fisher_scores
from planted import peers, transformer
from planted.designs import Design, convolution, lbbnn, recurrence, sun
from planted.truth import (
    area,
    arranged,
    calibration,
    connection_area,
    flat,
    rates,
)
from shared import once, options, plus_minus

import meanfield as mf
from meanfield.trees import map_named, named_leaves

DATA_SETS, NUM_TEST = 10, 2000
EXAMPLES, QUICK_EXAMPLES = 10_000, 1500
PEER_STEPS, QUICK_PEER_STEPS = 10_000, 1500
COPIES = (0.0, 0.1, 0.5, 0.9)
BATCH = 128
CREDIT_EXAMPLES, FDR = 1000, 0.1
SCORES = ("rms", "magnitude", "|mean|/std", "OBD")


def designs(quick: bool) -> dict:
    """All designs by name, each a function that makes it."""
    found = {"sun": lambda: sun(50 if quick else 1000)}
    for copy in COPIES:
        found[f"lbbnn {copy:g}"] = lambda copy=copy: lbbnn(copy, 8 if quick else 20)
    found |= {"convolution": convolution, "recurrence": recurrence}
    reason = transformer.missing()
    if reason:
        print(f"transformer: skipped, {reason}")
        return found
    return found | {"transformer": transformer.transformer}


def live_connections(there: dict, chain: bool) -> dict[str, np.ndarray]:
    """Live connections by layer; in a chain, only those on a path of live ones."""
    live = {name: np.asarray(prob) > 0.5 for name, prob in there.items()}
    if chain:
        layers = list(live.values())
        for before, layer in zip(layers, layers[1:], strict=False):
            layer &= before.any(1)[None, :]
        for layer, after in list(zip(layers, layers[1:], strict=False))[::-1]:
            layer &= after.any(0)[:, None]
    return live


def by_input(scores: dict[str, np.ndarray], design: Design) -> np.ndarray:
    """The largest score of the connections that read each input."""
    first = np.asarray(scores[design.reads])
    return first.reshape(len(first), -1).max(0)


def on_inputs(kept: np.ndarray | None, matter: np.ndarray, name: str) -> dict:
    """The numbers of inputs kept rightly and wrongly."""
    if kept is None:
        return {}
    return {
        f"{name} found": int((kept & matter).sum()),
        f"{name} false": int((kept & ~matter).sum()),
    }


def on_connections(design: Design, live: dict, name: str) -> dict:
    """Rates of true and false positives, and the number of live connections."""
    row = {f"{name} live": int(sum(part.sum() for part in live.values()))}
    if design.truth is None:
        return row
    kept = flat(live, design)
    true, false = rates(kept, flat(arranged(design, live), design))
    return row | {f"{name} tpr": true, f"{name} fpr": false}


def on_scores(design: Design, scores: dict, kept: int, matter, name: str) -> dict:
    """Areas for connections and inputs, and rates if as many are kept as are live."""
    row = {}
    if matter is not None:
        row[f"{name} input auc"] = area(by_input(scores, design), matter)
    if design.truth is None:
        return row
    row[f"{name} auc"] = connection_area(design, scores)
    order = np.sort(flat(scores, design))[::-1]
    top = {n: scores[n] >= order[max(kept, 1) - 1] for n in design.truth}
    found = on_connections(design, top, f"{name} top")
    return row | {kind: found[kind] for kind in (f"{name} top tpr", f"{name} top fpr")}


def of_peers(design: Design, data, matter, quick: bool, kept: int, key) -> dict:
    """Results of a point network, gates under an L0 penalty, and LassoNet."""
    fresh, steps = design.build(key), QUICK_PEER_STEPS if quick else PEER_STEPS
    likelihood = design.likelihood
    params, _ = peers.learn_gated(fresh, likelihood, data, None, steps, key)
    point = {name: named_leaves(params)[name] for name in fresh.weights()}

    def network(weights, x):
        whole = map_named(lambda name, leaf: weights.get(name, leaf), params)
        return fresh.apply_fn(whole, x)

    some = jax.tree.map(lambda part: part[:CREDIT_EXAMPLES], data)
    params_gated, there = peers.hard_concrete(fresh, likelihood, data, steps, key)
    gated = named_leaves(params_gated)
    scores = {
        "point magnitude": {name: abs(np.asarray(w)) for name, w in point.items()},
        "point OBD": fisher_scores(network, likelihood, point, some),
        "gates": {name: p * abs(np.asarray(gated[name])) for name, p in there.items()},
    }
    live = live_connections(there, design.chain)
    row = on_connections(design, live, "gates")
    for name, score in scores.items():
        row |= on_scores(design, score, kept, matter, name)
    if matter is not None:
        row |= on_inputs(by_input(live, design), matter, "gates")
    if matter is not None and data[0].ndim == 2:
        classes = isinstance(likelihood, mf.Bernoulli)
        row |= on_inputs(peers.lasso_net(data, classes, 0), matter, "LassoNet")
    return row


def learn(design: Design, seed: int, quick: bool, alone: bool) -> dict:
    """Learn one data set and compare the result with the truth."""
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    examples = QUICK_EXAMPLES if quick else EXAMPLES
    x, y = design.draw(rng, examples + NUM_TEST)
    x = x if x.dtype.kind == "i" else x.astype(np.float32)
    y = y.reshape(len(y), -1)
    y = y.astype(int if y.dtype == bool else np.float32)
    train, test = (x[:examples], y[:examples]), (x[examples:], y[examples:])
    result = mf.fit(
        design.build(key),
        train,
        likelihood=design.likelihood,
        key=key,
        batch_size=BATCH,
        prior="selective",
        progress=False,
    )
    learned, likelihood = result.ensemble, result.likelihood
    metrics = mf.evaluate(learned, test, likelihood=likelihood, num_samples=32, key=key)
    some = jax.tree.map(lambda part: part[:CREDIT_EXAMPLES], train)
    scores = connection_scores(learned, likelihood, some, key=key)
    there = {n: np.asarray(w.inclusion_prob) for n, w in learned.weights().items()}
    live = live_connections(there, design.chain)
    matter = None
    row = on_connections(design, live, "ours")
    if design.inputs is not None:
        matter = np.zeros(by_input(there, design).size, bool)
        matter[list(design.inputs)] = True
        row |= on_inputs(by_input(live, design), matter, "ours")
    if design.truth is not None:
        probs = flat(there, design)
        row |= calibration(probs, flat(arranged(design, there), design))
    kept = row["ours live"]
    for name in SCORES:
        row |= on_scores(design, scores[name], kept, matter, name)
    row |= on_scores(design, there, kept, matter, "1-pi")
    if matter is not None and x.ndim == 2:
        chosen = mf.credit.select_inputs(
            learned, test, fdr=FDR, key=key, likelihood=likelihood
        ).selected
        row |= on_inputs(chosen, matter, "select_inputs")
    if not alone:
        row |= of_peers(design, train, matter, quick, kept, key)
    return row | {
        "T": result.search.temperature,
        "price": result.search.price,
        "acc or rmse": float(metrics.rmse if metrics.rmse else metrics.accuracy),
        "nll": float(metrics.nll),
    }


def table(rows: list[dict]) -> str:
    """Mean ± standard error per design, one line per quantity."""
    names = dict.fromkeys(row["design"] for row in rows)
    kinds = dict.fromkeys(kind for row in rows for kind in row)
    lines = [f"{'':<26}" + "".join(f"{name:>18}" for name in names)]
    for kind in kinds:
        if kind in ("design", "seed"):
            continue
        cells = []
        for name in names:
            values = [row.get(kind) for row in rows if row["design"] == name]
            known = all(v is not None and math.isfinite(v) for v in values)
            cells.append(f"{plus_minus(values, 3) if known else '–':>18}")
        lines.append(f"{kind:<26}" + "".join(cells))
    return "\n".join(lines)


def figure(rows: list[dict], path: Path) -> None:
    """True against false positive rates of connections, one panel per design."""
    known = [
        name
        for name in dict.fromkeys(r["design"] for r in rows)
        if any("ours tpr" in r for r in rows if r["design"] == name)
    ]
    ways = {"ours": "ours", "gates": "gates under an L0 penalty"}
    others = (*SCORES, "point magnitude", "point OBD")
    ways |= {f"{name} top": f"{name}, same number" for name in others}
    if not known:
        return
    grid, axes = plt.subplots(
        1, len(known), figsize=(3.2 * len(known), 3.2), squeeze=False
    )
    for axis, name in zip(axes[0], known, strict=True):
        own = [row for row in rows if row["design"] == name]
        for way, title in ways.items():
            if not all(f"{way} fpr" in row for row in own):
                continue
            false, true = (
                np.mean([row[f"{way} {kind}"] for row in own])
                for kind in ("fpr", "tpr")
            )
            axis.plot(false, true, "o", label=title)
        axis.set(title=name, xlabel="false positives", ylim=(-0.05, 1.05))
    axes[0][0].set_ylabel("true positives")
    axes[0][-1].legend(fontsize=6)
    grid.tight_layout()
    grid.savefig(path, dpi=150)


def main() -> None:
    """Learn every data set without a result; print the table."""
    parser = options(__doc__, out="runs/planted_credit")
    parser.add_argument("--data-sets", type=int, help="of each design")
    parser.add_argument("--design", help="only this one, or those that begin so")
    parser.add_argument("--alone", action="store_true", help="train no peers")
    args = parser.parse_args()
    sets = args.data_sets or (1 if args.quick else DATA_SETS)
    folder = args.out / ("quick" if args.quick else "full")
    folder = folder / "alone" if args.alone else folder
    rows = []
    for name, make in designs(args.quick).items():
        if not name.startswith(args.design or ""):
            continue
        paths = [
            folder / f"{name.replace(' ', '-')}-{seed}.json" for seed in range(sets)
        ]
        make = functools.cache(make)
        for seed, path in enumerate(paths):
            row = once(
                path,
                lambda m=make, seed=seed: learn(m(), seed, args.quick, args.alone),
            )
            rows.append({"design": name, "seed": seed} | row)
            print({kind: rows[-1][kind] for kind in list(rows[-1])[:8]}, flush=True)
    print(table(rows))
    figure(rows, folder / "rates.png")


if __name__ == "__main__":
    main()
