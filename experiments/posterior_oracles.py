"""The mean-field posterior of small models against exact posteriors and Markov chains.

A network 1-4-1 (tanh, 13 parameters with biases) learns a noisy cubic from 30 points;
so does a model linear in its weights, with 10 fixed random tanh features.

    enumerated      linear, prior ½ δ + ½ N(0, 1): mean field against the exact
                    posterior, a sum over all 2¹⁰ spikes
    slab only       network, prior N(0, 1): mean field against NUTS
    with spikes     network, prior ½ δ + ½ N(0, 1): mean field against Gibbs steps over
                    spikes with NUTS in between (DiscreteHMCGibbs)

The bound on the evidence has many optima. One is a nearly empty network, which all
starts with small or uncertain weights reach. So each of `STARTS` fits starts with means
as wide as the prior, small variances and hardly any spike, and the fit with the highest
bound is kept; this choice uses only training data.

On a grid within the range of the data, the predictive means are compared in units of
the reference's predictive standard deviation, and both variances are shown. The
distance between two chains is the error of the reference itself. A mean field neglects
correlations between weights, so its variance may differ from the reference's; its mean
should lie within one standard deviation (`BOUND`).

    python experiments/posterior_oracles.py [--quick]      # quick: enumeration alone
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, SVI, DiscreteHMCGibbs, Predictive, Trace_ELBO
from shared import options

import meanfield as mf
from meanfield import plots

POINTS, NOISE, HIDDEN, FEATURES, SEEDS = 30, 0.3, 4, 10, 3
STARTS, STEPS, STEP_SIZE, PARTICLES, DRAWS = 128, 2000, 0.02, 1, 4000
SPIKE_START, STD_START, SCORE_PARTICLES = 0.02, 0.1, 500
WARMUP, SAMPLES, CHAINS = 4000, 20_000, 2
BOUND = 1.0
GRID = np.linspace(-1.8, 1.8, 40)[:, None].astype(np.float32)
NETWORK = eqx.nn.MLP(1, 1, HIDDEN, 1, activation=jnp.tanh, key=jax.random.key(0))
ENSEMBLE = mf.Ensemble.from_model(NETWORK, where=lambda name, array: True)
# A prior with hardly any spike, for models in which all weights are present.
INCLUSION = {True: 0.5, False: 1 - 1e-6}


def problem(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A cubic with noise."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-2, 2, size=(POINTS, 1)).astype(np.float32)
    curve = 0.4 * x[:, 0] ** 3 - x[:, 0]
    return x, (curve + NOISE * rng.normal(size=POINTS)).astype(np.float32)


def network(x, y=None, spikes=True, normal=False):
    """The network with all parameters as latent sites, normal ones for NUTS."""
    prior = mf.SpikeSlabPrior(inclusion_prob=INCLUSION[spikes], slab_scale=1.0)
    if normal:
        zero = {name: 0 * w.mean for name, w in ENSEMBLE.weights().items()}
        prior = mf.numpyro.as_prior(
            {n: mf.SpikeSlab(z, z, z + 1) for n, z in zero.items()}
        )
    net = mf.numpyro.random_spike_slab_module("net", ENSEMBLE, prior)
    mean = numpyro.deterministic("mean", net(x)[:, 0])
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Normal(mean, NOISE), obs=y)


def features(x: np.ndarray) -> np.ndarray:
    """(points, features): random steps across the range of the data."""
    rng = np.random.default_rng(7)
    slopes, places = rng.normal(size=FEATURES), rng.uniform(-2, 2, size=FEATURES)
    return np.tanh(2 * slopes * (x - places)).astype(np.float32)


def linear(x, y=None):
    """A sum of features with spike-and-slab weights."""
    weights = mf.SpikeAndSlab(0.5, 0.0, 1.0).expand([FEATURES]).to_event(1)
    mean = numpyro.deterministic("mean", x @ numpyro.sample("weights", weights))
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Normal(mean, NOISE), obs=y)


def start(key, shapes) -> dict[str, mf.SpikeSlab]:
    """Means drawn from the prior, with small variances and hardly any spike."""
    keys = jax.random.split(key, len(shapes))
    return {
        name: mf.SpikeSlab(
            jnp.full(shape, SPIKE_START),
            jax.random.normal(key, shape),
            jnp.full(shape, STD_START**2),
        )
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def mean_field(model, x, y, grid, seed: int, **settings) -> tuple[np.ndarray, float]:
    """Predicted means drawn from the best fit, and its bound on the log-evidence."""
    guided = lambda x, y: model(x, y, **settings)
    trace = handlers.trace(handlers.seed(guided, 0)).get_trace(x, y)
    shapes = {
        name: site["value"].shape
        for name, site in trace.items()
        if site["type"] == "sample" and not site["is_observed"]
    }
    optimizer = optax.adam(optax.cosine_decay_schedule(STEP_SIZE, STEPS))
    objective = Trace_ELBO(num_particles=PARTICLES)

    def fit(key):
        start_key, run_key = jax.random.split(key)
        guide = mf.numpyro.AutoSpikeSlab(guided, init_values=start(start_key, shapes))
        svi = SVI(guided, guide, optimizer, objective)
        return svi.run(run_key, STEPS, x, y, progress_bar=False).params

    fits = jax.jit(jax.vmap(fit))(jax.random.split(jax.random.key(seed), STARTS))
    guide = mf.numpyro.AutoSpikeSlab(guided)
    SVI(guided, guide, optimizer, objective).init(jax.random.key(0), x, y)
    exact = mf.numpyro.SpikeSlabELBO(num_particles=SCORE_PARTICLES)
    score = lambda params: -exact.loss(jax.random.key(0), params, guided, guide, x, y)
    bounds = np.asarray(jax.jit(lambda fits: jax.lax.map(score, fits))(fits))
    best = int(bounds.argmax())
    params = jax.tree.map(lambda stacked: stacked[best], fits)
    key = jax.random.key(seed + 1)
    draws = guide.sample_posterior(key, params, sample_shape=(DRAWS,))
    return means_of(guided, draws, grid), float(bounds[best])


def means_of(model, draws, grid) -> np.ndarray:
    """The model's means on the grid, one row per draw of its weights."""
    predict = Predictive(model, draws, return_sites=["mean"])
    return np.asarray(predict(jax.random.key(0), grid, None)["mean"])


def chain(x, y, spikes: bool, seed: int) -> np.ndarray:
    """Draws of a chain's means on the grid."""
    model = lambda x, y: network(x, y, spikes=spikes, normal=not spikes)
    if spikes:
        names = [f"net/{name}" for name in ENSEMBLE.weights()]
        config = {name: mf.numpyro.SpikeSlabReparam() for name in names}
        model = handlers.reparam(model, config=config)
    kernel = DiscreteHMCGibbs(NUTS(model)) if spikes else NUTS(model)
    run = MCMC(kernel, num_warmup=WARMUP, num_samples=SAMPLES, progress_bar=False)
    run.run(jax.random.key(seed), x, y)
    return means_of(model, run.get_samples(), GRID)


def enumerate_spikes(x, y, grid) -> tuple[np.ndarray, np.ndarray]:
    """Exact predictive mean and variance of the linear model, over all 2ⁿ spikes."""
    x, y, grid = (np.asarray(array, np.float64) for array in (x, y, grid))
    logs, means, variances = [], [], []
    for mask in itertools.product([False, True], repeat=x.shape[1]):
        chosen, there = x[:, np.array(mask)], grid[:, np.array(mask)]
        # The weights that are present have the posterior N(precision⁻¹ b, precision⁻¹).
        precision = chosen.T @ chosen / NOISE**2 + np.eye(chosen.shape[1])
        b = chosen.T @ y / NOISE**2
        solved = np.linalg.solve(precision, np.column_stack([b, there.T]))
        # The evidence up to terms that all masks share; a priori, all masks are equally
        # likely.
        logs.append(0.5 * (b @ solved[:, 0] - np.linalg.slogdet(precision)[1]))
        means.append(there @ solved[:, 0])
        variances.append(np.sum(there * solved[:, 1:].T, 1))
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    means, variances = np.array(means), np.array(variances)
    mean = weights @ means
    return mean, weights @ (variances + means**2) - mean**2


def compare(name: str, seed: int):
    """The mean field's draws, the reference's mean and variance, chains' distance."""
    x, y = problem(seed)
    if name == "enumerated":
        draws, bound = mean_field(linear, features(x), y, features(GRID), seed)
        return draws, bound, *enumerate_spikes(features(x), y, features(GRID)), 0.0
    spikes = name == "with spikes"
    draws, bound = mean_field(network, x, y, GRID, seed, spikes=spikes)
    chains = [chain(x, y, spikes, 10 * seed + number) for number in range(CHAINS)]
    both = np.concatenate(chains)
    first, second = (one.mean(0) for one in chains)
    apart = distance(first, second, both.var(0))
    return draws, bound, both.mean(0), both.var(0), apart


def distance(one, other, variance) -> float:
    """Root mean square over the grid, in units of the reference's deviation."""
    return float(np.sqrt(np.mean((one - other) ** 2) / np.mean(variance)))


def main() -> None:
    """Print the table and save the figure of the first seed."""
    parser = options(__doc__, out="runs/posterior_oracles", seeds=SEEDS)
    settings = parser.parse_args()
    print(
        f"{'':<14}{'seed':>5}{'bound':>9}{'means differ':>14}{'chains differ':>15}"
        f"{'variance: reference':>21}{'mean field':>12}   (in deviations)"
    )
    cases, seeds = ("enumerated", "slab only", "with spikes"), settings.seeds
    if settings.quick:
        cases, seeds = cases[:1], 1
    worst, figure = 0.0, plots.new_axis(9.0, 3.2).figure
    figure.clear()
    axes = figure.subplots(1, len(cases), sharey=True, squeeze=False)[0]
    for name, axis in zip(cases, axes, strict=True):
        for seed in range(seeds):
            draws, bound, mean, variance, apart = compare(name, seed)
            differ = distance(draws.mean(0), mean, variance)
            worst = max(worst, differ)
            print(
                f"{name:<14}{seed:>5}{bound:>9.2f}{differ:>14.2f}{apart:>15.2f}"
                f"{variance.mean():>21.4f}{draws.var(0).mean():>12.4f}",
                flush=True,
            )
            if seed == 0:
                picture(axis, name, draws, mean, variance, problem(seed))
    path = settings.out / "posterior_oracles.png"
    plots.save(axes[0], path)
    verdict = "within" if worst < BOUND else "BEYOND"
    print(f"largest distance of means {worst:.2f}: {verdict} the bound of {BOUND}")
    print(f"wrote {path}")


def picture(axis, name, draws, mean, variance, data) -> None:
    """Means with bands of two deviations: the reference's, and the mean field's."""
    reference = "exact" if name == "enumerated" else "chain"
    for middle, var, colour, style, label in (
        (mean, variance, "#0072B2", "-", reference),
        (draws.mean(0), draws.var(0), "#D55E00", "--", "mean field"),
    ):
        ends = (middle - 2 * np.sqrt(var), middle + 2 * np.sqrt(var))
        axis.plot(GRID[:, 0], middle, style, color=colour, label=label)
        axis.fill_between(GRID[:, 0], *ends, color=colour, alpha=0.2, linewidth=0)
    axis.plot(*data, ".", color="#999999", markersize=4, label="data")
    axis.set(title=name, xlabel="input", xlim=(GRID.min(), GRID.max()))
    if name == "enumerated":
        axis.set_ylabel("prediction ± 2 std of the mean")
    axis.legend(frameon=False, fontsize=7)


if __name__ == "__main__":
    main()
