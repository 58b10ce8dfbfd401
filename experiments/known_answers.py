"""A physics-informed network, a graph network and a KAN whose right answers are known.

    python experiments/known_answers.py [--quick]

    pinn     −u'' = π² sin πx with u(0) = u(1) = 0 from 64 noisy measurements of the
             right-hand side; the answer u = sin πx is not given. u = x (1 − x) N(x)
             with a perceptron N; its second derivative is fitted. Value and derivative
             need the same weights, so weights are drawn instead of noise
    graph    y = Σ_i relu(Σ_j A_ij x_j0) of random graphs with 10 nodes and 5 features,
             of which one matters; the network has two rounds of messages
    kan      y = sin πx₀ + 2 x₁² − |x₂| of 6 inputs, of which 3 count; two layers of
             splines (Gaussian bumps) on every edge

Targets have normal noise of a known deviation. Error: RMSE of the mean prediction from
the noiseless answer (u for the pinn), in units of the answer's deviation. Coverage:
fraction of the noiseless answers inside the 95 % interval of the drawn networks.
Inputs: for graph and kan, whether the inputs that matter have the largest credit (rms
of the values of their connections, `connection_values`), and their fraction of the
total.

    mean field       spike-and-slab, the evidence bound (T = 1)
    point, dropout   a point network by Adam; the same with dropout, in prediction too
    five networks    five of them
    ivon             see ivon.py; of six settings the best on a held-out fifth

All methods have the same number of steps. Nothing was chosen on the scored inputs.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ivon import Settings, train_ivon
from matplotlib import pyplot
from shared import epochs_of_batches, once, options, plus_minus

import meanfield as mf
from meanfield import plots

SEEDS, EPOCHS, BATCH, STEP_SIZE = 3, 300, 32, 5e-3
MEMBERS, DRAWS, DROPOUT = 5, 50, 0.1
PRIOR = mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale="learned")
IVON = [Settings(a, h) for a in (0.1, 0.01, 0.001) for h in (1.0, 30.0)]
ARMS = ("mean field", "point", "dropout", "five networks", "ivon")
WIDTH, NODES, FEATURES, BUMPS = 24, 10, 5, 8
SAME = lambda h, number: h  # noqa: E731


class Problem(NamedTuple):
    """A network, data for it, and what is known about the answer."""

    network: Callable[..., Any]  # (params, x, drop), what is fitted
    answer: Callable[..., Any]  # (params, x, drop), what is judged
    initial: Callable[[Any], Any]
    data: tuple[Any, Any]
    judged: tuple[Any, Any]  # inputs and noiseless answers
    noise: float
    counts: tuple[str, tuple[int, ...]] | None  # first weight, rows that count


def floats(tree):
    """The same numbers in float32."""
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), tree)


def drawn(shape, key):
    """A matrix that keeps the scale of what it multiplies."""
    return jax.random.normal(key, shape) / shape[0] ** 0.5


def pinn(seed: int) -> Problem:
    """The Poisson equation on an interval."""

    def inner(params, x, drop):
        hidden = drop(jnp.tanh(x[:, None] * params["in"] + params["shift"]), 0)
        hidden = drop(jnp.tanh(hidden @ params["mid"] + params["bias"]), 1)
        return x * (1 - x) * (hidden @ params["out"])[:, 0]

    def network(params, x, drop):
        along = lambda f: lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]
        return -along(along(lambda x: inner(params, x, drop)))(x)

    def initial(key):
        a, b, c = jax.random.split(key, 3)
        points = {"shift": jnp.linspace(-3, 3, WIDTH), "bias": jnp.zeros(WIDTH)}
        first = 3 * jax.random.normal(a, (1, WIDTH))
        mid, out = drawn((WIDTH, WIDTH), b), drawn((WIDTH, 1), c)
        return points | {"in": first, "mid": mid, "out": out}

    rng, points = np.random.default_rng(seed), np.linspace(0, 1, 101)
    x = rng.uniform(size=64)
    y = np.pi**2 * np.sin(np.pi * x) + rng.normal(size=64)
    judged = points, np.sin(np.pi * points)
    return Problem(network, inner, initial, (x, y), judged, 1.0, None)


def graph(seed: int) -> Problem:
    """A sum over nodes of messages from their neighbours."""

    def network(params, x, drop):
        edges, hidden = x["edges"], x["nodes"]
        for number in range(2):
            sent = edges @ hidden @ params[f"send{number}"]
            hidden = sent + hidden @ params[f"own{number}"] + params[f"bias{number}"]
            hidden = drop(jax.nn.relu(hidden), number)
        return (hidden @ params["out"]).sum((1, 2))

    def initial(key):
        keys, found = jax.random.split(key, 5), {}
        for number, inputs in enumerate((FEATURES, WIDTH)):
            found[f"send{number}"] = drawn((inputs, WIDTH), keys[2 * number])
            found[f"own{number}"] = drawn((inputs, WIDTH), keys[2 * number + 1])
            found[f"bias{number}"] = jnp.zeros(WIDTH)
        return found | {"out": drawn((WIDTH, 1), keys[4]) / NODES}

    noise, rng = 0.5, np.random.default_rng(seed)

    def draw(count):
        upper = np.triu(rng.uniform(size=(count, NODES, NODES)) < 0.25, 1)
        edges = (upper + upper.transpose(0, 2, 1)).astype(np.float32)
        nodes = rng.normal(size=(count, NODES, FEATURES)).astype(np.float32)
        truth = np.maximum(edges @ nodes[..., :1], 0).sum((1, 2))
        return {"edges": edges, "nodes": nodes}, truth

    (x, truth), judged = draw(256), draw(500)
    y = truth + noise * rng.normal(size=256)
    known = judged, noise, ("send0", (0,))
    return Problem(network, network, initial, (x, y), *known)


def kan(seed: int) -> Problem:
    """An additive function of some inputs."""
    centres = jnp.linspace(-1.2, 1.2, BUMPS)

    def network(params, x, drop):
        for number, name in enumerate(("first", "second")):
            bumps = jnp.exp(-jnp.square((x[..., None] - centres[None, None]) / 0.35))
            x = drop(jnp.einsum("bik,iko->bo", bumps, params[name]), number)
        return x[:, 0]

    def initial(key):
        a, b = jax.random.split(key)
        first = 0.2 * jax.random.normal(a, (6, BUMPS, 4))
        return {"first": first, "second": 0.3 * jax.random.normal(b, (4, BUMPS, 1))}

    noise, rng = 0.2, np.random.default_rng(seed)

    def draw(count):
        x = rng.uniform(-1, 1, size=(count, 6)).astype(np.float32)
        return x, np.sin(np.pi * x[:, 0]) + 2 * x[:, 1] ** 2 - np.abs(x[:, 2])

    (x, truth), judged = draw(256), draw(500)
    y = truth + noise * rng.normal(size=256)
    known = judged, noise, ("first", (0, 1, 2))
    return Problem(network, network, initial, (x, y), *known)


PROBLEMS = {"pinn": pinn, "graph": graph, "kan": kan}


def dropping(key, rate: float) -> Callable[..., Any]:
    """A function that applies dropout to a hidden layer."""

    def drop(hidden, number):
        own = jax.random.fold_in(key, number)
        keep = jax.random.bernoulli(own, 1 - rate, hidden.shape[1:])
        return jnp.where(keep, hidden / (1 - rate), 0)

    return drop


def fitted(problem: Problem, params, epochs: int, key, noisy: bool, rate: float):
    """Train an ensemble with drawn weights, or a point network."""
    infer = lambda params, x: problem.network(params, x, SAME)
    if rate:
        masked = lambda p, x, key: (problem.network(p, x, dropping(key, rate)), {})
        infer = mf.ensemble.Modes(infer, masked)
    if noisy:
        start = mf.ensemble.from_weights(0.01)
        model = mf.Ensemble.from_model((infer, params), initial=start, noise="weights")
    else:
        model = mf.Ensemble.from_points((infer, params))
    x, y = floats(problem.data)
    steps = epochs * (len(y) // BATCH)
    return mf.fit(
        model,
        (x, y),
        likelihood=mf.Gaussian(scale=problem.noise),
        key=key,
        epochs=epochs,
        batch_size=BATCH,
        prior=PRIOR if noisy else None,
        optimizer=optax.adam(optax.cosine_decay_schedule(STEP_SIZE, steps)),
        progress=False,
    ).ensemble


def ivon_draws(problem: Problem, params, epochs: int, keys) -> list[Any]:
    """Parameters drawn from IVON's posterior, its settings chosen on a fifth."""

    def loss(params, state, batch, key):
        error = problem.network(params, batch[0], SAME) - batch[1]
        return 0.5 * jnp.square(error / problem.noise).mean(), state

    data = floats(problem.data)

    def learn(count, settings):
        batches = epochs_of_batches(count, BATCH, epochs, key=keys[1])
        return train_ivon(loss, params, {}, data, batches, count, keys[2], settings)

    most = int(0.8 * len(data[1]))
    held = jax.tree.map(lambda a: a[most:], data)
    judge = jax.jit(lambda params: loss(params, {}, held, None)[0])
    found = [float(judge(learn(most, settings).mean)) for settings in IVON]
    posterior = learn(len(data[1]), IVON[int(np.nanargmin(found))])
    return [posterior.draw(k) for k in jax.random.split(keys[3], DRAWS)]


def credit_of_inputs(problem: Problem, ensemble, key) -> dict[str, Any]:
    """Whether the inputs that count have the most credit, and their share of it."""
    name, rows = problem.counts
    data = jax.tree.map(lambda a: a[:128], floats(problem.data))
    values = mf.connection_values(
        ensemble,
        data,
        likelihood=mf.Gaussian(scale=problem.noise),
        noise="weights",
        num_nodes=8,
        num_checks=0,
        key=key,
    )
    credit = np.abs(values.rms[name]).reshape(len(values.rms[name]), -1).sum(1)
    first = set(np.argsort(-credit)[: len(rows)].tolist())
    share = float(credit[list(rows)].sum() / credit.sum())
    return {"found": float(first == set(rows)), "share": share}


def run(problem: Problem, arm: str, epochs: int, seed: int) -> dict[str, Any]:
    """Error and coverage of one method, and its credit of inputs."""
    keys = jax.random.split(jax.random.key(seed), 4)
    params, rate, found = problem.initial(keys[0]), 0.0, {}
    if arm == "mean field":
        ensemble = fitted(problem, params, epochs, keys[1], True, 0.0)
        draws = [ensemble.sample_params(k) for k in jax.random.split(keys[2], DRAWS)]
        if problem.counts:
            found = credit_of_inputs(problem, ensemble, keys[3])
    elif arm == "ivon":
        draws = ivon_draws(problem, params, epochs, keys)
    else:
        rate, draws = DROPOUT if arm == "dropout" else 0.0, []
        for member in range(MEMBERS if arm == "five networks" else 1):
            own = jax.random.fold_in(keys[0], member)
            one = fitted(problem, problem.initial(own), epochs, own, False, rate)
            draws.append(one.params)
        draws = draws * (DRAWS if rate else 1)

    @jax.jit
    def answer(params, x, key):
        return problem.answer(params, x, dropping(key, rate) if rate else SAME)

    x, truth = floats(problem.judged[0]), problem.judged[1]
    own = jax.random.split(keys[3], len(draws))
    said = np.array([answer(p, x, k) for p, k in zip(draws, own, strict=True)])
    error = np.sqrt(np.mean((said.mean(0) - truth) ** 2)) / np.std(truth)
    low, high = np.quantile(said, [0.025, 0.975], axis=0)
    inside = (low - 1e-9 <= truth) & (truth <= high + 1e-9)
    return {"error": float(error), "coverage": float(inside.mean()), **found}


def main() -> None:
    """Run the methods that have no result yet; print the tables, draw the figure."""
    args = options(__doc__, out="runs/known_answers", seeds=SEEDS).parse_args()
    seeds, epochs = (1, 20) if args.quick else (args.seeds, EPOCHS)
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3))
    for axis, (name, make) in zip(axes, PROBLEMS.items(), strict=True):
        print(f"{name:16s}{'error':>18s}{'coverage':>18s}", flush=True)
        for arm in ARMS:
            path = args.out / f"{name}-{arm.replace(' ', '-')}-{epochs}"
            rows = [
                once(
                    path.with_name(f"{path.name}-{seed}.json"),
                    functools.partial(run, make(seed), arm, epochs, seed),
                )
                for seed in range(seeds)
            ]
            error, coverage = ([r[n] for r in rows] for n in ("error", "coverage"))
            more = [r[n] for n in ("found", "share") if n in rows[0] for r in rows]
            print(f"{arm:16s}{plus_minus(error):>18s}{plus_minus(coverage):>18s}", more)
            axis.plot(np.mean(coverage), np.mean(error), "o", label=arm)
        axis.set(title=name, xlabel="coverage of 95 %", ylabel="error", yscale="log")
    axes[0].legend(fontsize=6)
    plots.save(figure, args.out / "known_answers.png")
    print(f"figure and numbers in {args.out}")


if __name__ == "__main__":
    main()
