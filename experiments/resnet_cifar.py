"""ResNet-20 on a part of CIFAR-10: pretrained, and from scratch.

    python experiments/resnet_cifar.py --data-dir DIR --part pretrained
    python experiments/resnet_cifar.py --data-dir DIR --part scratch
    python experiments/resnet_cifar.py --data-dir DIR --quick

The data folder has 10,000 training images, 2,000 test images, and the weights of a
ResNet-20 that others trained (on all 50,000 images, so also on ours). "pretrained" uses
it at full size; "scratch" trains a network of half the width on images of 16 × 16
pixels. Weights are drawn once per batch (`noise="weights"`), as in a shipped
sub-network; batch statistics are updated during training.

    as it came       the pretrained network
    post hoc         π and Ξ are learned, the means held: fit(hold="means")
    mean field       means, π and Ξ are learned (pretrained: fine-tuned)
    sparse           the same at a high price of a connection; scored is its median
                     network, after the statistics are estimated again
    magnitude        a point network that after half of the epochs keeps only its
                     largest connections, as many as sparse has
    point, dropout   a point network by back-propagation; the same with dropout, in
                     prediction too
    three networks   the average over three point networks
    ivon             see ivon.py

All methods learn the same images, flipped at random, for the same number of epochs.
Reported are test accuracy, NLL, ECE, and AUROC of the predictions' entropy against
Fashion-MNIST; the share of connections present, and seconds of training. The first half
of the test images is for choices (`--select` scores it) and for the certificate of
labels, the second half for scores. Finished methods are not run again.
"""

import functools
import json
import math
import shutil
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import resnet
from ivon import Settings, train_ivon
from matplotlib import pyplot
from shared import credit_table, epochs_of_batches, once, options, share_kept

import meanfield as mf
from meanfield import plots

SEEDS = 1
# Width, side of an image, images, epochs, images of a batch, images that are scored.
SIZES = {
    "pretrained": (16, 32, 2000, 2, 25, 1000),
    "scratch": (8, 16, 10_000, 6, 100, 1000),
    "quick": (4, 8, 500, 2, 50, 50),
}
MEMBERS, DRAWS, DROPOUT, LABELLED = 3, 8, 0.1, 300
# Step sizes of the means; π and Ξ have their own, larger ones.
STEP_SIZE = {"pretrained": 2e-4, "scratch": 4e-3, "quick": 4e-3}
# In the sparse arm, the remaining connections have to adapt.
SPARSE_STEP_SIZE = STEP_SIZE | {"pretrained": 1e-3}
IVON = {
    "pretrained": Settings(step_size=0.01),
    "scratch": Settings(step_size=0.2),
    "quick": Settings(step_size=0.2),
}
SPREAD_STEP = {"spike_logit": 0.1, "log_slab_std": 0.02}
SLAB_SHARE, SPIKE_PROB = 0.01, 0.02
# Temperature and price of a connection in nats, for mean field and sparse.
USUAL, SPARSE = (0.1, 0.0), (0.2, 6.0)
COLUMNS = ("accuracy", "nll", "ece", "auroc", "kept", "training")


def start(args, part: str, key):
    """Parameters before training."""
    if part == "pretrained":
        return resnet.pretrained(args.data_dir)
    return resnet.initial(SIZES[part][0], key, blocks=1 if part == "quick" else 3)


def keep_zeros():
    """Keep absent connections at zero; by then no other parameter is exactly zero."""
    return optax.stateless(
        lambda moves, params: jax.tree.map(
            lambda move, old: jnp.where(old == 0, 0, move), moves, params
        )
    )


def fitted(
    part,
    params,
    data,
    key,
    *,
    noisy,
    pressure=USUAL,
    steps=STEP_SIZE,
    rate=0.0,
    hold=None,
    share=1.0,
    zeros=False,
):
    """Train an ensemble, or a point network, for a share of the epochs."""
    model, (epochs, batch) = (resnet.modes(rate), params), SIZES[part][3:5]
    epochs = int(epochs * share)
    number, size = epochs * (len(data[0]) // batch), steps[part]
    temperature, price = pressure
    if noisy:
        ensemble = mf.Ensemble.from_model(
            model,
            initial=mf.ensemble.from_weights(SLAB_SHARE, spike_prob=SPIKE_PROB),
            where=lambda name, array: name.startswith("weights"),
            noise="weights",
        )
        present = 1 / (1 + math.exp(price))
        prior = mf.SpikeSlabPrior(inclusion_prob=present, slab_scale="learned")
    else:
        ensemble, prior = mf.Ensemble.from_points(model), None
    faster = {name: step / size for name, step in SPREAD_STEP.items()}
    return mf.fit(
        ensemble,
        data,
        key=key,
        epochs=epochs,
        batch_size=batch,
        prior=prior,
        temperature=optax.linear_schedule(0.0, temperature, number // 2),
        optimizer=optax.chain(
            optax.scale_by_adam(),
            mf.learning.scale_steps(faster) if noisy else optax.identity(),
            optax.scale_by_learning_rate(optax.cosine_decay_schedule(size, number)),
            keep_zeros() if zeros else optax.identity(),
        ),
        augment=resnet.flip,
        hold=hold,
        progress=False,
    ).ensemble


def largest(params, share: float):
    """Keep a share of the connections, the largest ones; the others are zero."""
    sizes = np.concatenate([np.abs(w).ravel() for w in params["weights"].values()])
    least = np.quantile(sizes, 1 - share)
    kept = jax.tree.map(lambda w: jnp.where(abs(w) >= least, w, 0), params["weights"])
    return {**params, "weights": kept}


def ivon_loss(learned, state, batch, key):
    """NLL of a batch in training mode, and the statistics after it."""
    x, y = batch
    logits, after = resnet.forward(
        {**learned, **state}, resnet.flip(x, key=key), training=True
    )
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
    return nll, after


def shipped(sparse, dense, folder, probe):
    """Sizes in bytes of the exported networks, loaded back and compared."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return {
        f"{name} {format}": mf.deploy.export(
            net, folder / f"{name}.{format}", probe=probe, format=format
        ).bytes
        for name, net in {"sparse": sparse, "dense": dense}.items()
        for format in ("safetensors", "onnx")
    }


def run(args, part, arm, seed, folder, data, judged, held, foreign):
    """One arm: its scores and its labels of connections."""
    keys = jax.random.split(jax.random.key(seed), 4)
    params, fit_key = start(args, part, keys[0]), keys[1]
    draws, rate, found = [params], 0.0, {"kept": 1.0, "training": 0.0}
    began = time.perf_counter()
    if arm in ("post hoc", "mean field", "sparse"):
        ensemble = fitted(
            part,
            params,
            data,
            fit_key,
            noisy=True,
            pressure=SPARSE if arm == "sparse" else USUAL,
            steps=SPARSE_STEP_SIZE if arm == "sparse" else STEP_SIZE,
            hold="means" if arm == "post hoc" else None,
        )
        found["training"] = time.perf_counter() - began
        draws = [ensemble.sample_params(k) for k in jax.random.split(keys[2], DRAWS)]
        found["kept"] = share_kept(ensemble)
        if arm == "sparse":
            (median,) = mf.deploy.sample_subnetworks(ensemble, 1, rule="median")
            _, params = mf.ensemble.estimate_statistics(
                median.model, data[0], key=keys[3], batch_size=100, num_steps=30
            )
            found["all drawn"] = resnet.scores(draws, judged, foreign)
            draws = [params]
            dense = (resnet.modes(), start(args, part, keys[0]))
            files = args.out / part / "files"
            few = judged[0][:4]
            found["bytes"] = shipped((resnet.modes(), params), dense, files, few)
        elif not args.select and (part != "pretrained" or arm == "post hoc"):
            few = (held[0][:LABELLED], held[1][:LABELLED])
            labels = mf.label_connections(
                ensemble, data=few, key=keys[3], num_samples=2, batch_size=100
            )
            print(credit_table(labels), flush=True)
            found["verdict"] = labels.certificate.verdict
    elif arm == "magnitude":
        sparse = json.loads((folder / f"sparse-{seed}.json").read_text())
        half = functools.partial(
            fitted, part, data=data, noisy=False, steps=SPARSE_STEP_SIZE, share=0.5
        )
        params = largest(half(params, key=fit_key).params, sparse["kept"])
        draws = [half(params, key=keys[2], zeros=True).params]
        found |= {"kept": sparse["kept"], "training": time.perf_counter() - began}
    elif arm == "ivon":
        state = {"state": params.pop("state")}
        epochs, batch = SIZES[part][3:5]
        batches = epochs_of_batches(len(data[0]), batch, epochs, key=keys[2])
        posterior = train_ivon(
            ivon_loss, params, state, data, batches, len(data[0]), fit_key, IVON[part]
        )
        jax.block_until_ready(posterior)
        found["training"] = time.perf_counter() - began
        drawn = [posterior.draw(k) for k in jax.random.split(keys[3], DRAWS)]
        draws = [{**params, **posterior.state} for params in drawn]
    elif arm != "as it came":
        rate = DROPOUT if arm == "dropout" else 0.0
        members = MEMBERS if arm == "three networks" else 1
        seeds = [jax.random.key(seed + 10 * i) for i in range(members)]
        starts = [start(args, part, jax.random.split(k, 4)[0]) for k in seeds]
        draws = [
            fitted(part, one, data, key, noisy=False, rate=rate).params
            for one, key in zip(starts, seeds, strict=True)
        ] * (DRAWS if rate else 1)
        found["training"] = time.perf_counter() - began
    return resnet.scores(draws, judged, foreign, rate) | found


def figure(rows, folder):
    """NLL of every arm."""
    drawing, axes = pyplot.subplots(figsize=(7, 3))
    means = [np.mean([row["nll"] for row in found]) for found in rows.values()]
    axes.bar(list(rows), means)
    axes.set_ylabel("NLL (nats)")
    plots.save(drawing, folder / "nll.png")


def main() -> None:
    """Run missing arms; print the table, draw the figure."""
    parser = options(__doc__, out="runs/resnet_cifar", seeds=SEEDS)
    parser.add_argument("--part", choices=list(SIZES), default="pretrained")
    parser.add_argument("--arm", help="only this one")
    parser.add_argument("--select", action="store_true", help="score held-out images")
    args = parser.parse_args()
    part = "quick" if args.quick else args.part
    args.data_dir = Path(args.data_dir)
    _, side, count, _, _, scored = SIZES[part]
    train, held, test, foreign = resnet.images(args.data_dir, side, count, scored)
    arms = [
        "mean field",
        "sparse",
        "magnitude",
        "point",
        "dropout",
        "three networks",
        "ivon",
    ]
    arms = (["as it came", "post hoc"] if part == "pretrained" else []) + arms
    folder = args.out / part / ("select" if args.select else "test")
    data, rows = (train, held if args.select else test, held, foreign), {}
    print(f"{'arm':16s}" + "".join(f"{name:>10s}" for name in COLUMNS), flush=True)
    for arm in arms:
        if args.arm in (None, arm):
            rows[arm] = [
                once(
                    folder / f"{arm.replace(' ', '-')}-{seed}.json",
                    functools.partial(run, args, part, arm, seed, folder, *data),
                )
                for seed in range(args.seeds)
            ]
            means = [np.mean([row[name] for row in rows[arm]]) for name in COLUMNS]
            numbers = "".join(f"{mean:10.4f}" for mean in means)
            print(f"{arm:16s}{numbers}", flush=True)
    figure(rows, folder)
    print(f"figure and numbers in {folder}")


if __name__ == "__main__":
    main()
