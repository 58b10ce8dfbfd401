"""One pass with variances against the mean network and against several samples.

A small transformer and a convolutional network learn few images of digits or
Fashion-MNIST as mean-field ensembles. These predictions from the same ensemble are
compared:

- the mean network, unscaled and with a temperature fitted on held-out images;
- 4 samples of the ensemble's noise;
- one pass that propagates means and variances (`reading="delta"`), unscaled and with a
  scalar per layer fitted on the same held-out images (`fit_scales`); then 8 draws of
  the last layer, or no draws but softmax(m/√(1 + πv/8)) of the moments of the logits
  (MacKay 1992, The evidence framework applied to classification networks).

Scores are accuracy, NLL and the area under the risk-coverage curve (AURC, in percent;
images are ranked by the probability of their likeliest class), each with the standard
error over seeds, which draw the split and the network; and the differences of AURC and
NLL from the mean network on the same images. The cost is the time for some hundred
images divided by that of the mean network, the fastest of 30 alternating rounds in one
process.

    python experiments/one_pass.py
    python experiments/one_pass.py --data fashion_mnist --data-dir DIR
    python experiments/one_pass.py --quick
"""

import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import minimize_scalar
from shared import options, plus_minus, resumed

import meanfield as mf
from meanfield import data
from meanfield.prediction import metrics

SIZES = {"digits": (600, 300), "fashion_mnist": (4000, 1000)}  # learned, held out
EPOCHS = {"digits": 60, "fashion_mnist": 10}
BATCH, SEEDS, ROUNDS, LAST_DRAWS, CHUNK = 100, 3, 30, 8, 300
PRIOR, TEMPERATURE = mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale=1.0), 0.05
WIDTH, HEADS, BLOCKS, TOKENS = 32, 4, 2, 16
WAYS = (
    "mean network",
    "mean network, temperature",
    "4 samples",
    "one pass",
    "one pass, scaled",
    "one pass, scaled, no draws",
)


class Block(eqx.Module):
    """Attention and a layer of units, each normalized first and added to its input."""

    norms: list
    attention: eqx.nn.MultiheadAttention
    layers: list

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.norms = [eqx.nn.LayerNorm(WIDTH) for _ in range(2)]
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, key=keys[0])
        self.layers = [
            eqx.nn.Linear(WIDTH, 4 * WIDTH, key=keys[1]),
            eqx.nn.Linear(4 * WIDTH, WIDTH, key=keys[2]),
        ]

    def __call__(self, x):
        """Activations (tokens, width) after the block."""
        y = jax.vmap(self.norms[0])(x)
        x = x + self.attention(y, y, y)
        y = jax.vmap(self.layers[0])(jax.vmap(self.norms[1])(x))
        return x + jax.vmap(self.layers[1])(jax.nn.gelu(y))


class Transformer(eqx.Module):
    """Patches of an image as tokens, blocks, and the mean over tokens."""

    embed: eqx.nn.Linear
    places: jax.Array
    blocks: list
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, side, key):
        keys = jax.random.split(key, 3 + BLOCKS)
        self.embed = eqx.nn.Linear(side**2 // TOKENS, WIDTH, key=keys[0])
        self.places = 0.3 * jax.random.normal(keys[1], (TOKENS, WIDTH))
        self.blocks = [Block(k) for k in keys[3:]]
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.head = eqx.nn.Linear(WIDTH, 10, key=keys[2])

    def __call__(self, x):
        """Logits of an image (side, side)."""
        patch = x.shape[0] // 4
        x = x.reshape(4, patch, 4, patch).swapaxes(1, 2).reshape(TOKENS, -1)
        x = jax.vmap(self.embed)(x) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x.mean(0)))


class Convolutional(eqx.Module):
    """Two strided convolutions and two dense layers."""

    convs: list
    layers: list

    def __init__(self, side, key):
        keys = jax.random.split(key, 4)
        self.convs = [
            eqx.nn.Conv2d(1, 16, 4, 2, padding=1, key=keys[0]),
            eqx.nn.Conv2d(16, 32, 3, 2, padding=1, key=keys[1]),
        ]
        self.layers = [
            eqx.nn.Linear(32 * (side // 4) ** 2, 128, key=keys[2]),
            eqx.nn.Linear(128, 10, key=keys[3]),
        ]

    def __call__(self, x):
        """Logits of an image (side, side)."""
        x = x[None]
        for conv in self.convs:
            x = jax.nn.relu(conv(x))
        x = jax.nn.relu(self.layers[0](x.reshape(-1)))
        return self.layers[1](x)


NETWORKS = {"cnn": Convolutional, "transformer": Transformer}


def trained(name: str, seed: int, images, epochs: int) -> mf.Ensemble:
    """The ensemble after training with one seed."""
    key = jax.random.key(seed)
    x, y = images
    ensemble = mf.Ensemble.from_model(
        NETWORKS[name](x.shape[1], key),
        key=key,
        example=x[:1],
        where=lambda path, array: array.ndim >= 2 and path != "places",
    )
    return mf.fit(
        ensemble,
        (x, y),
        key=key,
        epochs=epochs,
        batch_size=BATCH,
        prior=PRIOR,
        temperature=TEMPERATURE,
        progress=False,
    ).ensemble


def temperature_of(logits, y) -> float:
    """The temperature of the softmax with the smallest NLL."""
    nll = lambda t: metrics.nll(np.asarray(jax.nn.softmax(logits / np.exp(t))), y)
    return float(np.exp(minimize_scalar(nll, bounds=(-2, 2), method="bounded").x))


def ways_of(ensemble: mf.Ensemble, held_out, key) -> dict:
    """Functions from images to class probabilities, by name."""
    network, params = ensemble.apply_fn, ensemble.mean_params()
    points = eqx.filter_jit(network)
    temperature = temperature_of(points(params, held_out[0]), held_out[1])
    scales = mf.prediction.fit_scales(ensemble, held_out, key=key)

    @eqx.filter_jit
    def mean(params, x, temperature):
        return jax.nn.softmax(network(params, x) / temperature)

    @eqx.filter_jit
    def one(ensemble, x, key):
        return jax.nn.softmax(ensemble.network(ensemble.params, x, key=key))

    def sampled(ensemble, x, number):
        draws = [one(ensemble, x, k) for k in jax.random.split(key, number)]
        return sum(draws) / number

    @eqx.filter_jit
    def one_pass(ensemble, x, scales):
        outputs = mf.propagation.joint_output_distribution(network, "delta", scales)
        draw = outputs(ensemble.params, x)
        keys = jax.random.split(key, LAST_DRAWS)
        return jax.nn.softmax(jax.vmap(draw)(keys)).mean(0)

    @eqx.filter_jit
    def undrawn(ensemble, x, scales):
        logits = mf.mean_field(network, "delta", scales=scales)(ensemble.params, x)
        return jax.nn.softmax(logits.mean / jnp.sqrt(1 + jnp.pi / 8 * logits.var))

    arrays = jax.tree.map(jnp.asarray, scales)
    ways = (
        lambda x: mean(params, x, 1.0),
        lambda x: mean(params, x, temperature),
        lambda x: sampled(ensemble, x, 4),
        lambda x: one_pass(ensemble, x, None),
        lambda x: one_pass(ensemble, x, arrays),
        lambda x: undrawn(ensemble, x, arrays),
    )
    return dict(zip(WAYS, ways, strict=True))


def compared(name: str, seed: int, images, epochs: int) -> dict:
    """Scores and seconds of every prediction, for one network and one seed."""
    train, held_out, (x, y) = split(images, seed)
    ensemble = trained(name, seed, train, epochs)
    ways = ways_of(ensemble, held_out, jax.random.key(100 + seed))
    chunks = [jnp.asarray(x[i : i + CHUNK]) for i in range(0, len(x), CHUNK)]
    seconds = {way: [] for way in ways}
    rows = {}
    for way, run in ways.items():
        probs = np.concatenate([run(chunk) for chunk in chunks]).astype(np.float64)
        probs = probs / probs.sum(1, keepdims=True)
        wrong = probs.argmax(1) != y
        curve = mf.prediction.selective_curve(1 - probs.max(1), wrong)
        rows[way] = {
            "accuracy": 100 * (1 - wrong.mean()),
            "nll": metrics.nll(probs, y),
            "aurc": 100 * curve.area,
        }
    for _ in range(ROUNDS):
        for way, run in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(run(chunks[0]))
            seconds[way].append(time.perf_counter() - start)
    for way, row in rows.items():
        row["cost"] = min(seconds[way]) / min(seconds["mean network"])
    return {"ways": rows}


def read(name: str, data_dir):
    """All images and labels, and the numbers to train on and to hold out."""
    images = data.load(name, data_dir=data_dir)
    x = np.concatenate([images.x_train, images.x_test])
    y = np.concatenate([images.y_train, images.y_test])
    side = round(x[0].size ** 0.5)
    return x.reshape(-1, side, side)[:16000], y[:16000], SIZES[name]


def split(images, seed: int):
    """Training, held-out and test images, each with labels."""
    x, y, sizes = images
    parts = np.split(np.random.default_rng(seed).permutation(len(x)), np.cumsum(sizes))
    return [(x[part], y[part]) for part in parts]


def main() -> None:
    """Run missing cases, and print a table for each network."""
    args = options(__doc__, out="runs/one_pass", seeds=SEEDS)
    args.add_argument("--network", choices=NETWORKS, help="only this one")
    args.add_argument("--data", choices=SIZES, default="digits")
    args = args.parse_args()
    images = read(args.data, args.data_dir)
    seeds = range(min(args.seeds, 1) if args.quick else args.seeds)
    for name in NETWORKS if args.network is None else [args.network]:
        epochs = 10 if args.quick else EPOCHS[args.data]
        rows = resumed(
            args.out / f"{args.data}.jsonl",
            [{"network": name, "seed": seed, "epochs": epochs} for seed in seeds],
            lambda case: compared(
                case["network"], case["seed"], images, case["epochs"]
            ),
        )
        print(f"\n{args.data}, {name}, {len(seeds)} seeds")
        head = ("accuracy %", "NLL", "AURC %", "NLL − mean's", "AURC − mean's", "cost")
        print(f"{'':<27}" + "".join(f"{title:>18}" for title in head))
        for way in WAYS:
            own = [row["ways"][way] for row in rows]
            base = [row["ways"][WAYS[0]] for row in rows]
            cells = [plus_minus([r["accuracy"] for r in own], 2)]
            cells += [plus_minus([r[k] for r in own], 3) for k in ("nll", "aurc")]
            for k in ("nll", "aurc"):
                less = [a[k] - b[k] for a, b in zip(own, base, strict=True)]
                cells.append(plus_minus(less, 3, "+"))
            cells.append(f"{np.median([r['cost'] for r in own]):.2f}")
            print(f"{way:<27}" + "".join(f"{cell:>18}" for cell in cells))


if __name__ == "__main__":
    main()
