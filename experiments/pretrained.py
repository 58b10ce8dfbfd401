"""Wrap a network that others trained, label its connections, and export it.

    pip install expaloma rdkit
    python experiments/pretrained.py              # 2 minutes
    python experiments/pretrained.py --quick

`expaloma` is an Equinox graph network that predicts partial charges of the atoms of a
molecule; its weights (espaloma_charge 0.0.8, 147,000 numbers) are in its wheel. The
network is wrapped unchanged; `call=` passes a padded molecule to it. Its training data
are not needed: the targets are its own charges on made-up molecules, with an allowed
standard deviation of 0.02 e. So the labels show which connections determine its
outputs.

    post hoc     π and Ξ are learned, the means held: fit(hold="means")
    fine-tuned   then the means are learned too
    magnitude    the same number of connections, those with the largest magnitude

Printed are RMSEs in e against the charges of the original network, on molecules that
none of these learned from: for the network of means, one drawn network, and the median
network, in which a connection is present where 1 − π > ½. Then follow the labels and
the credit of every matrix, certified on further molecules, and the size of the files.

Source of the network: Wang et al., EspalomaCharge, arXiv:2302.06758; Equinox port by
M. Russo (MIT).
"""

import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib import pyplot
from shared import credit_table, options, share_kept

import meanfield as mf
from meanfield import plots

try:
    from expaloma.featurize import from_rdkit_mol
    from expaloma.nn.model import load_eqx
    from expaloma.paths import bundled_eqx_path
    from rdkit import Chem, RDLogger
except ModuleNotFoundError as error:
    raise SystemExit(f"{error}; pip install expaloma rdkit") from error

SEED, ATOMS, EDGES = 0, 40, 84
GROUPS = ("C", "O", "N", "F", "Cl", "Br", "C#N", "C(=O)O", "C(=O)N", "OC", "SC")
SCAFFOLDS = ("c1cc({})ccc1{}", "c1cc({})ncc1{}", "C({})CC{}")
DEVIATION = 0.02
TRAIN, HELD, EPOCHS, BATCH = 120, 90, 60, 20
PRIOR = mf.SpikeSlabPrior(inclusion_prob=0.05, slab_scale="learned")
FASTER = {"spike_logit": 10.0, "log_slab_std": 3.0}
STEP_SIZE = {"post hoc": 3e-3, "fine-tuned": 3e-4}
LIKELIHOOD = mf.Gaussian(scale=DEVIATION)


def molecules() -> dict[str, np.ndarray]:
    """Padded graphs of molecules made of a scaffold and two groups, in random order."""
    smiles = {
        Chem.CanonSmiles(scaffold.format(one, other))
        for scaffold in SCAFFOLDS
        for one in GROUPS
        for other in GROUPS
    }
    RDLogger.DisableLog("rdApp.*")  # type: ignore
    rows = []
    for text in np.random.default_rng(0).permutation(sorted(smiles)):
        graph = from_rdkit_mol(Chem.AddHs(Chem.MolFromSmiles(text)))
        atoms, edges = len(graph.h0), len(graph.senders)
        if atoms >= ATOMS or edges > EDGES:
            continue
        # The last atom is always padding.
        ends = np.full((2, EDGES), ATOMS - 1, np.int32)
        ends[:, :edges] = graph.senders, graph.receivers
        pad = [(0, ATOMS - atoms), (0, 0)]
        rows.append(
            {
                "atoms": np.pad(graph.h0, pad),
                "formal": np.pad(graph.q_ref, pad),
                "real": np.arange(ATOMS) < atoms,
                "ends": ends,
            }
        )
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def charges(network, x):
    """Charges of the atoms of one padded molecule; 0 for padding."""
    real = x["real"]
    found = network(
        x["atoms"],
        x["ends"][0],
        x["ends"][1],
        jnp.where(real, 0, 1),
        2,
        0.0,
        q_ref=x["formal"],
        atom_mask=real,
    )
    return jnp.where(real, found[:, 0], 0)


def fitted(arm: str, ensemble, data, epochs: int, key):
    """Learn distributions around the weights; when fine-tuned, the weights too."""
    steps = epochs * (len(data[1]) // BATCH)
    rate = optax.cosine_decay_schedule(STEP_SIZE[arm], steps)
    return mf.fit(
        ensemble,
        data,
        likelihood=LIKELIHOOD,
        hold="means" if arm == "post hoc" else None,
        prior=PRIOR,
        temperature=optax.linear_schedule(0.0, 1.0, steps // 2),
        optimizer=optax.chain(
            optax.scale_by_adam(),
            mf.learning.scale_steps(FASTER),
            optax.scale_by_learning_rate(rate),
        ),
        key=key,
        epochs=epochs,
        batch_size=BATCH,
        progress=False,
    ).ensemble


def largest(ensemble, network, share: float):
    """The network with only a share of its connections, the largest ones."""
    weights = ensemble.weights()
    sizes = np.concatenate([np.abs(w.slab_mean).ravel() for w in weights.values()])
    least = np.quantile(sizes, 1 - share)
    points = mf.Ensemble.from_model(network, call=charges)
    return points.model(
        lambda name, w: jnp.where(jnp.abs(w.slab_mean) >= least, w.slab_mean, 0)
    )


def main() -> None:
    """Wrap the network, fit distributions, label connections, and export it."""
    args = options(__doc__, out="runs/pretrained").parse_args()
    epochs = 3 if args.quick else EPOCHS
    network = load_eqx(bundled_eqx_path())
    x = molecules()
    pick = lambda first, last=None: jax.tree.map(
        lambda a: jnp.asarray(a[first:last]), x
    )
    answer = jax.jit(lambda net, x: jax.vmap(functools.partial(charges, net))(x))
    parts = pick(0, TRAIN), pick(TRAIN, TRAIN + HELD), pick(TRAIN + HELD)
    train, held, test = ((part, answer(network, part)) for part in parts)
    spread = float(test[1][parts[2]["real"]].std())
    print(f"{len(x['real'])} molecules; deviation of their charges {spread:.3f} e")

    def error(net) -> float:
        wrong = (answer(net, test[0]) - test[1])[test[0]["real"]]
        return float(jnp.sqrt(jnp.square(wrong).mean()))

    keys = jax.random.split(jax.random.key(SEED), 4)
    ensemble = mf.Ensemble.from_model(
        network,
        call=charges,
        initial=mf.ensemble.from_weights(0.001, spike_prob=0.02),
        noise="weights",
    )
    head = ("kept", "means", "one drawn", "median", "magnitude")
    print(f"{'RMSE, e':12s}" + "".join(f"{name:>11s}" for name in head))
    rows, medians = {}, {}
    for arm in STEP_SIZE:
        ensemble = fitted(arm, ensemble, train, epochs, keys[0])
        (median,) = mf.deploy.sample_subnetworks(ensemble, 1, rule="median")
        share, medians[arm] = share_kept(ensemble), median.model
        rows[arm] = (
            share,
            error(ensemble.mean_network()),
            error(ensemble.sample(keys[1])),
            error(median.model),
            error(largest(ensemble, network, share)),
        )
        print(f"{arm:12s}" + "".join(f"{n:11.4f}" for n in rows[arm]), flush=True)
        labels = mf.label_connections(
            ensemble, data=held, likelihood=LIKELIHOOD, key=keys[2], num_samples=2
        )
        print(credit_table(labels), flush=True)

    shutil.rmtree(args.out / "files", ignore_errors=True)
    (args.out / "files").mkdir(parents=True)
    for name, net in {"as it came": network, **medians}.items():
        path = args.out / "files" / f"{name.replace(' ', '-')}.safetensors"
        file = mf.deploy.export(
            net, path, probe=pick(0, 4), format="safetensors", call=charges
        )
        print(f"{name:12s} {file.bytes:9,d} bytes as {type(net).__name__}")
    figure, axes = pyplot.subplots(figsize=(5, 3))
    for arm, row in rows.items():
        axes.plot(head[1:], row[1:], "o-", label=f"{arm}, {100 * row[0]:.0f} % kept")
    axes.set_ylabel("RMSE (e)")
    axes.legend()
    plots.save(figure, args.out / "charges.png")
    print(f"figure and files in {args.out}")


if __name__ == "__main__":
    main()
