"""The mean-field posterior of a small network against Markov chains.

A network 1-4-1 (tanh, 13 numbers, biases included) learns a noisy cubic from 30 points.

    slab only       prior N(0, 1) on every number: mean field against NUTS
    with spikes     prior ½ δ + ½ N(0, 1): mean field against Gibbs steps over spikes
                    with NUTS in between (DiscreteHMCGibbs)

On a grid inside the data: the predictive means, compared in units of the chain's
predictive deviation, and both variances side by side. The chain's two halves say how
far it agrees with itself. A mean field neglects correlations between weights, so its
variance need not be the chain's; its mean should lie within one deviation (`BOUND`).

    python experiments/posterior_oracles.py
"""

import argparse
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, SVI, DiscreteHMCGibbs, Trace_ELBO

import meanfield as mf
from meanfield import plots

POINTS, NOISE, HIDDEN, SEEDS = 30, 0.3, 4, (0, 1, 2)
STEPS, STEP_SIZE, PARTICLES, DRAWS = 6000, 0.02, 8, 2000
WARMUP, SAMPLES = 500, 2000
BOUND = 1.0
GRID = np.linspace(-1.8, 1.8, 40)[:, None].astype(np.float32)
NETWORK = eqx.nn.MLP(1, 1, HIDDEN, 1, activation=jnp.tanh, key=jax.random.key(0))
ENSEMBLE = mf.Ensemble.from_model(NETWORK, where=lambda name, array: True)
NORMAL = mf.as_prior(
    {
        name: mf.SpikeSlab(0 * w.mean, 0 * w.mean, 0 * w.mean + 1)
        for name, w in ENSEMBLE.weights().items()
    }
)


def problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A cubic with noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, size=(POINTS, 1)).astype(np.float32)
    curve = 0.4 * x[:, 0] ** 3 - x[:, 0]
    return x, (curve + NOISE * rng.normal(size=POINTS)).astype(np.float32)


def network_of_sites(x, spikes: bool):
    """Outputs of the network with every number a latent site."""
    prior = mf.SpikeSlabPrior(0.5, 1.0) if spikes else NORMAL
    return mf.random_spike_slab_module("net", ENSEMBLE, prior)(x)[:, 0]


def sites(x, y=None, spikes=False):
    """The model that the chains sample."""
    mean = numpyro.deterministic("mean", network_of_sites(x, spikes))
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Normal(mean, NOISE), obs=y)


def mean_field(x, y, spikes: bool, seed: int) -> np.ndarray:
    """Draws of the trained mean field's outputs on the grid."""
    inclusion = 0.5 if spikes else 1 - 1e-6

    def model(x, y):
        net = mf.spike_slab_module("net", ENSEMBLE, mf.SpikeSlabPrior(inclusion, 1.0))
        with numpyro.plate("data", len(x)):
            numpyro.sample("y", dist.Normal(net(x)[:, 0], NOISE), obs=y)

    optimizer = optax.adam(optax.cosine_decay_schedule(STEP_SIZE, STEPS))
    svi = SVI(model, lambda x, y: None, optimizer, Trace_ELBO(num_particles=PARTICLES))
    found = svi.run(jax.random.key(seed), STEPS, x, y, progress_bar=False)
    trained = mf.ensemble_from_params("net", ENSEMBLE, found.params)
    keys = jax.random.split(jax.random.key(seed + 1), DRAWS)
    # One sub-network for the whole grid, as a chain's draw is.
    draw = lambda key: jax.vmap(trained.sample(key))(GRID)[:, 0]
    return np.asarray(jax.vmap(draw)(keys))


def chain(x, y, spikes: bool, seed: int) -> np.ndarray:
    """Draws of the chain's outputs on the grid."""
    model = sites
    if spikes:
        names = [f"net/{name}" for name in ENSEMBLE.weights()]
        reparam = {name: mf.SpikeSlabReparam() for name in names}
        model = handlers.reparam(sites, config=reparam)
    kernel = NUTS(model)
    kernel = DiscreteHMCGibbs(kernel) if spikes else kernel
    run = MCMC(kernel, num_warmup=WARMUP, num_samples=SAMPLES, progress_bar=False)
    run.run(jax.random.key(seed), x, y, spikes=spikes)
    predict = numpyro.infer.Predictive(model, run.get_samples(), return_sites=["mean"])
    return np.asarray(predict(jax.random.key(seed), GRID, spikes=spikes)["mean"])


def main() -> None:
    """Print the table and save the figure of the first seed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--out", type=Path, default=Path("runs/posterior_oracles.png"))
    settings = parser.parse_args()
    print(
        f"{'':<14}{'seed':>5}{'means differ':>14}{'chain halves':>14}"
        f"{'variance: chain':>17}{'mean field':>12}   (means in chain deviations)"
    )
    worst, axis = 0.0, plots.new_axis()
    for spikes, name in ((False, "slab only"), (True, "with spikes")):
        for seed in SEEDS[: settings.seeds]:
            x, y = problem(seed)
            ours, theirs = mean_field(x, y, spikes, seed), chain(x, y, spikes, seed)
            deviation = np.sqrt(theirs.var(0).mean())
            half = len(theirs) // 2
            apart = lambda a, b, d=deviation: np.sqrt(np.mean((a - b) ** 2)) / d
            distance = apart(ours.mean(0), theirs.mean(0))
            halves = apart(theirs[:half].mean(0), theirs[half:].mean(0))
            worst = max(worst, distance)
            print(
                f"{name:<14}{seed:>5}{distance:>14.2f}{halves:>14.2f}"
                f"{theirs.var(0).mean():>17.4f}{ours.var(0).mean():>12.4f}",
                flush=True,
            )
            if seed == SEEDS[0]:
                style = "-" if spikes else "--"
                for draws, colour, what in (
                    (theirs, "#0072B2", "chain"),
                    (ours, "#D55E00", "mean field"),
                ):
                    axis.plot(
                        GRID,
                        draws.mean(0),
                        style,
                        color=colour,
                        label=f"{what}, {name}",
                    )
    axis.set(xlabel="input", ylabel="predictive mean")
    axis.legend(fontsize=7)
    plots.save(axis, settings.out)
    verdict = "within" if worst < BOUND else "BEYOND"
    print(f"largest distance of means {worst:.2f}: {verdict} the bound of {BOUND}")
    print(f"wrote {settings.out}")


if __name__ == "__main__":
    main()
