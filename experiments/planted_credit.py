"""Planted truth: which inputs and connections matter is known; what does learning say?

sun: 1,000 normal inputs of pairwise correlation ½, 10,000 examples and the target
y = tanh(2 tanh(2x₀ − x₁)) + 2 tanh(2 tanh(x₂ − 2x₃ − 2x₄)) + ν with ν ~ N(0, 1). A
network 1000-5-3-1 of tanh learns it: 5 inputs and 9 of 5,018 connections matter (Sun,
Song & Liang 2022, consistent sparse deep learning).

lbbnn: 4 inputs uniform on (−10, 10), x₃ ← d x₁ + (1 − d) x₃ with d = 0, 0.1, 0.5, 0.9,
and y = 1 where 100 + x₁ + x₂ + x₁² + x₂² + x₁x₂ exceeds its median. A network
4-20-20-1 of ReLU learns it: inputs 1 and 2 matter (Høyheim et al., input-skip latent
binary Bayesian networks).

Networks learn under the selective rule with its defaults: nothing is tuned here. A
connection is live where 1 − π > ½ and it lies on a path of such connections from an
input to the output; an input is kept if it has a live connection. Other scores know no
threshold: for each the area under the ROC curve says how well the largest score of an
input's connections tells inputs that matter from the others.

    python experiments/planted_credit.py             # ten data sets of each, minutes
    python experiments/planted_credit.py --quick     # small, seconds
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import meanfield as mf
from meanfield.credit.removal import two_orders
from meanfield.ensemble.networks import mlp
from meanfield.files import write_text

DATA_SETS, QUICK_DATA_SETS = 10, 1
NUM_TEST = 2000
SUN = {"examples": 10_000, "inputs": 1000, "widths": (5, 3)}
QUICK_SUN = {"examples": 2000, "inputs": 50, "widths": (5, 3)}
LBBNN = {"examples": 10_000, "inputs": 4, "widths": (20, 20)}
QUICK_LBBNN = {"examples": 1000, "inputs": 4, "widths": (8, 8)}
COPIES = (0.0, 0.1, 0.5, 0.9)
BATCH = 128
CREDIT_EXAMPLES = 1000
OUT = Path("runs/planted_credit")


def draw_sun(rng: np.random.Generator, number: int, inputs: int, copy: float):
    """Inputs, targets, and the inputs that matter, of Sun, Song & Liang."""
    shared = rng.normal(size=(number, 1))
    x = (shared + rng.normal(size=(number, inputs))) / np.sqrt(2)
    first = np.tanh(2 * np.tanh(2 * x[:, 0] - x[:, 1]))
    second = 2 * np.tanh(2 * np.tanh(x[:, 2] - 2 * x[:, 3] - 2 * x[:, 4]))
    y = first + second + rng.normal(size=number)
    return x.astype(np.float32), y[:, None].astype(np.float32), np.arange(5)


def draw_lbbnn(rng: np.random.Generator, number: int, inputs: int, copy: float):
    """Inputs, targets, and the inputs that matter, with a copy of one of them."""
    x = rng.uniform(-10, 10, (number, inputs))
    x[:, 2] = copy * x[:, 0] + (1 - copy) * x[:, 2]
    a, b = x[:, 0], x[:, 1]
    height = 100 + a + b + a**2 + b**2 + a * b
    y = (height > np.median(height)).astype(int)
    return (x / 10).astype(np.float32), y[:, None], np.arange(2)


def live_connections(ensemble: mf.Ensemble) -> list[np.ndarray]:
    """Of each layer, which connections lie on a path of present ones."""
    live = [np.asarray(w.inclusion_prob) > 0.5 for w in ensemble.weights().values()]
    for layer in range(1, len(live)):
        live[layer] &= live[layer - 1].any(1)[None, :]
    for layer in range(len(live) - 2, -1, -1):
        live[layer] &= live[layer + 1].any(0)[:, None]
    return live


def area(scores: np.ndarray, true: np.ndarray) -> float:
    """Probability that an input that matters has the larger score (ties count half)."""
    matter = np.isin(np.arange(len(scores)), true)
    pairs = scores[matter][:, None] - scores[~matter][None, :]
    return float(np.mean((pairs > 0) + 0.5 * (pairs == 0)))


def learn(design: str, settings: dict, copy: float, seed: int) -> dict:
    """One data set, learned and compared with the truth."""
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    sun = design == "sun"
    number = settings["examples"] + NUM_TEST
    draw = draw_sun if sun else draw_lbbnn
    x, y, true = draw(rng, number, settings["inputs"], copy)
    rest = settings["examples"]
    widths = (settings["inputs"], *settings["widths"], 1)
    activation = jnp.tanh if sun else jax.nn.relu
    ensemble = mf.Ensemble.from_model(
        mlp(widths, key=key, activation=activation), key=key
    )
    likelihood = mf.Gaussian() if sun else mf.Bernoulli()
    result = mf.fit(
        ensemble,
        (x[:rest], y[:rest]),
        likelihood=likelihood,
        key=key,
        batch_size=BATCH,
        prior="selective",
        progress=False,
    )
    metrics = mf.evaluate(
        result.ensemble,
        (x[rest:], y[rest:]),
        likelihood=result.likelihood,
        num_samples=32,
        key=key,
    )
    live = live_connections(result.ensemble)
    kept = np.flatnonzero(live[0].any(0))
    first = next(iter(result.ensemble.weights()))
    weight = result.ensemble.weights()[first]
    mean, std = np.asarray(weight.mean), np.sqrt(np.asarray(weight.var))
    some = (x[:CREDIT_EXAMPLES], y[:CREDIT_EXAMPLES])
    _, rms = two_orders(result.ensemble, result.likelihood, 1.0, some, key=key)
    scores = {
        "1 - pi": np.asarray(weight.inclusion_prob),
        "rms": rms[first],
        "magnitude": np.abs(mean),
        "|mean|/std": np.abs(mean) / (std + 1e-12),
    }
    included = np.asarray(weight.inclusion_prob).max(0)
    wrong = np.delete(included, true)
    row = {
        "design": design if sun else f"lbbnn d={copy:g}",
        "seed": seed,
        "found": len(np.intersect1d(kept, true)),
        "of": len(true),
        "false": len(np.setdiff1d(kept, true)),
        "live": int(sum(layer.sum() for layer in live)),
        "temperature": result.history["temperature"][-1],
        "price": result.history["price"][-1],
        # Calibration of an input's 1 − π against the truth.
        "included true": float(included[true].mean()),
        "included false": float(wrong.mean()),
        "score": float(metrics.rmse if sun else metrics.accuracy),
        "nll": float(metrics.nll),
    }
    return row | {
        f"auc {name}": area(score.max(0), true) for name, score in scores.items()
    }


def table(rows: list[dict]) -> str:
    """Means over the data sets of each design."""
    names = [name for name in rows[0] if name not in ("design", "seed")]
    lines = [f"{'design':<14}{'sets':>5}" + "".join(f"{n:>16}" for n in names)]
    for design in dict.fromkeys(row["design"] for row in rows):
        part = [row for row in rows if row["design"] == design]
        means = [np.mean([row[name] for row in part]) for name in names]
        cells = "".join(f"{mean:>16.3f}" for mean in means)
        lines.append(f"{design:<14}{len(part):>5}{cells}")
    return "\n".join(lines)


def main() -> None:
    """Learn every data set that has no result yet; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small, seconds")
    parser.add_argument("--data-sets", type=int, help="of each design")
    parser.add_argument("--design", choices=("sun", "lbbnn"), help="only this one")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    sets = args.data_sets or (QUICK_DATA_SETS if args.quick else DATA_SETS)
    sun, lbbnn = (QUICK_SUN, QUICK_LBBNN) if args.quick else (SUN, LBBNN)
    designs = [("sun", sun, 0.0)] + [("lbbnn", lbbnn, copy) for copy in COPIES]
    folder = args.out / ("quick" if args.quick else "full")
    rows = []
    for design, settings, copy in designs:
        if args.design not in (None, design):
            continue
        for seed in range(sets):
            path = folder / f"{design}-{copy:g}-{seed}.json"
            if not path.exists():
                write_text(path, json.dumps(learn(design, settings, copy, seed)))
            rows.append(json.loads(path.read_text()))
            print({name: rows[-1][name] for name in list(rows[-1])[:12]}, flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
