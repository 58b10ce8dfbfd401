"""A character GPT on tinyshakespeare: mean field against AdamW, with equal steps.

    python experiments/character_gpt.py --data-dir DIR                 # 0.9 M weights
    python experiments/character_gpt.py --data-dir DIR --width 96 --steps 400
    python experiments/character_gpt.py --quick                        # a minute or two

Two blocks (attention with four heads, GELU perceptron), learned positions, plain JAX.
All methods train on the same random windows of the first 90 % of the text, once each.

    adamw          one network trained by AdamW, weight decay 0.1
    dropout        the same with dropout, which is also used in prediction
    five networks  the average over five networks trained like the first
    ivon           see ivon.py
    mean field     π, m and Ξ of every matrix, weights drawn once per batch
    sparse         the same with a price for every connection; scored is its median
                   network, in which a connection is present if 1 − π > ½

Scores are nats per character and ECE of the average over drawn networks, and the share
of the connections present. They are measured on the last 5 % of the text; settings were
chosen (`--select`) and certificates are computed on the 5 % before. Then come labels
and credit by matrix and head, and text written by drawn sub-networks. Finished methods
are not run again.
"""

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ivon import Settings, train_ivon
from matplotlib import pyplot
from shared import credit_table, once, options, share_kept

import meanfield as mf
from meanfield import plots
from meanfield.prediction import metrics

SEEDS = 1
WIDTH, BLOCKS, HEADS, CONTEXT = 192, 2, 4, 64
STEPS, BATCH, STEP_SIZE = 2000, 16, 3e-3
MEMBERS, DRAWS, SCORED, LABELLED = 5, 8, 400, 300
DROPOUT, DECAY = 0.1, 0.1
IVON = Settings(step_size=0.3, hessian=0.1)
FASTER = {"spike_logit": 10.0, "log_slab_std": 3.0}
SLAB_SHARE, SPIKE_PROB = 0.01, 0.02
# Temperature, and price of a connection in nats. At T = 1 the loss would be the
# evidence bound with every character as one observation.
USUAL, SPARSE = (0.03, 0.0), (0.1, 6.0)
ARMS = ("adamw", "mean field", "sparse", "ivon", "dropout", "five networks")


def initial(width: int, symbols: int, key) -> dict:
    """Parameters: matrices, and vectors that stay point values."""
    shapes = {"symbols": (symbols, width), "places": (CONTEXT, width)}
    for block in range(BLOCKS):
        for name in ("query", "key", "value", "out"):
            shapes[f"{block}.{name}"] = (width, width)
        shapes[f"{block}.up"] = (width, 4 * width)
        shapes[f"{block}.down"] = (4 * width, width)
    shapes["read"] = (width, symbols)
    keys = jax.random.split(key, len(shapes))
    params = {}
    for (name, shape), one in zip(shapes.items(), keys, strict=True):
        looked_up = name in ("symbols", "places")
        scale = 0.1 if looked_up else (1 / shape[0]) ** 0.5
        params[name] = scale * jax.random.normal(one, shape)
    for block in range(BLOCKS):
        params[f"{block}.scales"] = {n: jnp.ones(width) for n in ("first", "second")}
        params[f"{block}.bias"] = jnp.zeros(4 * width)
    return params | {"scale": jnp.ones(width)}


def forward(params, ids, key=None, rate=0.0):
    """Logits (batch, time, symbols) of the next character after every one."""

    def norm(x, scale):
        x = x - x.mean(-1, keepdims=True)
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + 1e-5) * scale

    def dropped(x, number):
        if rate == 0.0:
            return x
        keep = jax.random.bernoulli(jax.random.fold_in(key, number), 1 - rate, x.shape)
        return jnp.where(keep, x / (1 - rate), 0)

    x = params["symbols"][ids] + params["places"][: ids.shape[1]]
    split = lambda a: a.reshape(*a.shape[:2], HEADS, -1)
    past = jnp.tril(jnp.ones((ids.shape[1], ids.shape[1]), bool))
    for block in range(BLOCKS):
        get = lambda name, block=block: params[f"{block}.{name}"]
        inner = norm(x, get("scales")["first"])
        query, keys, value = (split(inner @ get(n)) for n in ("query", "key", "value"))
        match = jnp.einsum("bqhd,bkhd->bhqk", query, keys) / query.shape[-1] ** 0.5
        share = jax.nn.softmax(jnp.where(past, match, -1e30))
        mixed = jnp.einsum("bhqk,bkhd->bqhd", share, value).reshape(x.shape)
        x = x + dropped(mixed @ get("out"), 2 * block)
        inner = norm(x, get("scales")["second"])
        inner = jax.nn.gelu(inner @ get("up") + get("bias"))
        x = x + dropped(inner @ get("down"), 2 * block + 1)
    return norm(x, params["scale"]) @ params["read"]


@functools.cache
def modes(rate: float) -> mf.ensemble.Modes:
    """The network for prediction, and the same with dropout for training."""
    train = lambda params, x, key: (forward(params, x, key, rate), {})
    return mf.ensemble.Modes(forward, train)


def windows(ids, count: int, rng) -> tuple:
    """Windows at random positions, and for each character the one that follows."""
    starts = rng.integers(0, len(ids) - CONTEXT - 1, count)
    rows = starts[:, None] + np.arange(CONTEXT)
    return jnp.asarray(ids[rows]), jnp.asarray(ids[rows + 1])


def fitted(args, params, data, key, *, noisy, pressure=USUAL, rate=0.0):
    """Train an ensemble, or a point network."""
    model = (modes(rate) if rate else forward, params)
    warm = optax.warmup_cosine_decay_schedule(
        0, STEP_SIZE, args.steps // 20, args.steps
    )
    temperature, price = pressure
    if noisy:
        start = mf.ensemble.from_weights(SLAB_SHARE, spike_prob=SPIKE_PROB)
        ensemble = mf.Ensemble.from_model(model, initial=start, noise="weights")
        share = 1 / (1 + math.exp(price))
        prior = mf.SpikeSlabPrior(inclusion_prob=share, slab_scale="learned")
        optimizer = optax.chain(
            optax.clip_by_global_norm(CONTEXT * 1.0),
            optax.scale_by_adam(),
            mf.learning.scale_steps(FASTER),
            optax.scale_by_learning_rate(warm),
        )
    else:
        ensemble, prior = mf.Ensemble.from_points(model), None
        optimizer = optax.chain(
            optax.clip_by_global_norm(CONTEXT * 1.0),
            optax.adamw(warm, weight_decay=DECAY),
        )
    return mf.fit(
        ensemble,
        data,
        key=key,
        epochs=1,
        batch_size=BATCH,
        prior=prior,
        # The loss is summed over a window, so the windows of the text are counted.
        num_data=args.num_data,
        temperature=optax.linear_schedule(0.0, temperature, args.steps // 2),
        optimizer=optimizer,
        progress=False,
    ).ensemble


def ivon_loss(params, state, batch, key):
    """Nats per character."""
    logits = forward(params, batch[0])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
    return losses.mean(), state


@functools.partial(jax.jit, static_argnames="rate")
def probabilities(params, x, key, rate):
    """Probabilities of the next character."""
    return jax.nn.softmax(forward(params, x, key, rate))


def scores(draws, data, rate=0.0):
    """Nats per character and ECE of the average over drawn parameters."""
    keys = jax.random.split(jax.random.key(7), len(draws))
    total = sum(
        np.concatenate(
            [
                probabilities(params, data[0][i : i + 50], key, rate)
                for i in range(0, len(data[0]), 50)
            ]
        )
        for params, key in zip(draws, keys, strict=True)
    )
    mean = (total / len(draws)).reshape(-1, total.shape[-1]).astype(np.float64)
    mean, y = mean / mean.sum(-1, keepdims=True), np.asarray(data[1]).ravel()
    found = {"nats": metrics.nll(mean, y), "ece": metrics.ece(mean, y)}
    return found | {"accuracy": metrics.accuracy(mean, y)}


def heads(labels) -> dict[str, float]:
    """Credit of every attention head: the sum over its connections."""
    found = {}
    for block in range(BLOCKS):
        value = lambda name, block=block: labels.values[f"{block}.{name}"]
        inward = sum(value(n).sum(0) for n in ("query", "key", "value"))
        credit = inward.reshape(HEADS, -1).sum(1)
        credit = credit + value("out").reshape(HEADS, -1).sum(1)
        found |= {f"{block}.{head}": float(c) for head, c in enumerate(credit)}
    return found


def written(params, symbols: str, length: int, key) -> str:
    """Text generated by one network, one character at a time."""
    ids = np.zeros((1, CONTEXT), np.int32) + symbols.index("\n")
    for number in range(length):
        chances = probabilities(params, jnp.asarray(ids[:, -CONTEXT:]), key, 0.0)
        own = jax.random.fold_in(key, number)
        drawn = int(jax.random.categorical(own, jnp.log(chances[0, -1])))
        ids = np.append(ids, [[drawn]], 1)
    return "".join(symbols[i] for i in ids[0, CONTEXT:])


def run(args, arm, seed, text, symbols):
    """Train one method; its scores and, for spikes and slabs, credit of connections."""
    keys = jax.random.split(jax.random.key(seed), 4)
    rng = np.random.default_rng(seed)
    count = len(text)
    data = windows(text[: int(0.9 * count)], args.steps * BATCH, rng)
    held = windows(text[int(0.9 * count) : int(0.95 * count)], args.scored, rng)
    test = windows(text[int(0.95 * count) :], args.scored, rng)
    judged = held if args.select else test
    params = initial(args.width, len(symbols), keys[0])
    rate, found = 0.0, {"kept": 1.0}
    if arm in ("mean field", "sparse"):
        pressure = SPARSE if arm == "sparse" else USUAL
        ensemble = fitted(args, params, data, keys[1], noisy=True, pressure=pressure)
        draws = [ensemble.sample_params(k) for k in jax.random.split(keys[2], DRAWS)]
        found["kept"] = share_kept(ensemble)
        found["text"] = [written(p, symbols, args.length, keys[3]) for p in draws[:2]]
        found["mean network"] = scores([ensemble.mean_params()], judged)["nats"]
        if arm == "sparse":
            (median,) = mf.deploy.sample_subnetworks(ensemble, 1, rule="median")
            found["all drawn"] = scores(draws, judged)["nats"]
            draws = [median.model[1]]
        if not args.select:
            labelled = jax.tree.map(lambda a: a[:LABELLED], held)
            labels = mf.label_connections(
                ensemble, data=labelled, key=keys[3], num_samples=2, batch_size=16
            )
            print(credit_table(labels), flush=True)
            found |= {"heads": heads(labels), "verdict": labels.certificate.verdict}
    elif arm == "ivon":
        batches = jnp.arange(args.steps * BATCH).reshape(-1, BATCH)
        characters = args.num_data * CONTEXT
        posterior = train_ivon(
            ivon_loss, params, {}, data, batches, characters, keys[1], IVON
        )
        draws = [posterior.draw(k) for k in jax.random.split(keys[2], DRAWS)]
    else:
        rate = DROPOUT if arm == "dropout" else 0.0
        draws = []
        for member in range(MEMBERS if arm == "five networks" else 1):
            own = jax.random.fold_in(keys[0], member) if member else keys[0]
            one = initial(args.width, len(symbols), own)
            net = fitted(args, one, data, own, noisy=False, rate=rate)
            draws.append(net.params)
        draws = draws * (DRAWS if rate else 1)
    return scores(draws, judged, rate) | found


def main() -> None:
    """Run the methods that have no result yet; print the table, draw the figure."""
    parser = options(__doc__, out="runs/character_gpt", seeds=SEEDS)
    parser.add_argument("--width", type=int, default=WIDTH)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--arm", choices=ARMS, help="only this one")
    parser.add_argument("--select", action="store_true", help="score held-out text")
    args = parser.parse_args()
    args.scored, args.length = SCORED, 200
    if args.quick:
        args.width, args.steps, args.scored, args.length = 32, 60, 40, 40
    text = (Path(args.data_dir) / "text" / "tinyshakespeare.txt").read_text()
    symbols = "".join(sorted(set(text)))
    ids = np.searchsorted(list(symbols), list(text)).astype(np.int32)
    args.num_data = int(0.9 * len(ids)) // CONTEXT
    name = f"{args.width}-{args.steps}-{'select' if args.select else 'test'}"
    folder, rows = args.out / name, {}
    print(f"{'arm':16s}{'nats':>9s}{'ece':>9s}{'kept':>9s}", flush=True)
    for arm in ARMS if args.arm is None else [args.arm]:
        rows[arm] = [
            once(
                folder / f"{arm.replace(' ', '-')}-{seed}.json",
                functools.partial(run, args, arm, seed, ids, symbols),
            )
            for seed in range(args.seeds)
        ]
        means = [np.mean([r[n] for r in rows[arm]]) for n in ("nats", "ece", "kept")]
        print(f"{arm:16s}" + "".join(f"{m:9.4f}" for m in means), flush=True)
        more = {n: v for n, v in rows[arm][0].items() if n not in ("nats", "ece")}
        print(json.dumps(more, indent=1), flush=True)
    drawing, axes = pyplot.subplots(figsize=(6, 3))
    axes.bar(
        list(rows), [np.mean([r["nats"] for r in found]) for found in rows.values()]
    )
    axes.set_ylabel("nats per character")
    plots.save(drawing, folder / "nats.png")
    print(f"figure and numbers in {folder}")


if __name__ == "__main__":
    main()
