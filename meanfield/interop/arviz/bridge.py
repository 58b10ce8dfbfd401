"""An ensemble as ArviZ inference data, in the format of ArviZ 0.x or 1.x."""

from collections.abc import Sequence
from typing import Any

import arviz as az
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.batches import array_pair, check_batch
from meanfield.learning.likelihoods import Categorical
from meanfield.learning.targets import align_targets, output_distribution
from meanfield.spikeslab import SpikeSlab

MOST_NUMBERS = 100_000_000


def to_arviz(
    ensemble: Ensemble,
    data: tuple[Any, Any],
    *,
    likelihood: Any = Categorical(),  # noqa: B008  (frozen)
    num_samples: int = 400,
    num_chains: int = 4,
    var_names: Sequence[str] | None = None,
    key: PRNGKeyArray,
) -> Any:
    r"""Drawn sub-networks and their predictions of the data, for ArviZ.

    Every draw is one sub-network: its weights are a draw of the posterior, its outputs
    give the log-likelihood and one posterior-predictive target for each example. Draws
    are independent; they are divided into chains only because ArviZ's summaries need
    several chains.

    Args:
        ensemble: a trained ensemble.
        data: arrays (x, y).
        likelihood: as in `fit`; for learned noise pass `result.likelihood`.
        num_samples: draws in all, a multiple of `num_chains`.
        num_chains: chains to divide them into.
        var_names: random weights to keep; all by default.
        key: a `jax.random.key`.

    Returns:
        An `InferenceData` (ArviZ 0.x) or a `DataTree` (1.x) with the groups posterior,
        posterior_predictive, log_likelihood, observed_data and constant_data. A weight
        ``layers/0/weight`` is called ``layers.0.weight`` (a slash would make a group)
        and has the dimensions ``layers.0.weight_0``, …; targets have ``example``. An
        underscore is added to a name that is already taken: ``chain``, ``x``, ``y``, or
        the name of another weight or dimension.

    Raises:
        ValueError: `num_samples` is not a multiple of `num_chains`, a name in
            `var_names` is unknown, the draws hold more than 100,000,000 numbers, or a
            log-likelihood is NaN.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 3, 4, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> data = jnp.ones((5, 2)), jnp.array([0, 1, 2, 0, 1])
        >>> found = mf.to_arviz(ensemble, data, num_samples=32, key=jax.random.key(2))
        >>> dict(found["log_likelihood"].sizes)["example"]
        5
    """
    x, y = array_pair(data)
    check_batch(ensemble, likelihood, x, y)
    require(
        num_chains >= 1 and num_samples >= num_chains and num_samples % num_chains == 0,
        f"`num_samples` must be a multiple of `num_chains`; got {num_samples} and "
        f"{num_chains}.",
    )
    weights = ensemble.weights()
    names = list(weights) if var_names is None else list(var_names)
    unknown = sorted(set(names) - set(weights))
    require(
        not unknown,
        f"`var_names` must be among the random weights {sorted(weights)}; got "
        f"{unknown}.",
    )
    numbers = num_samples * (sum(weights[n].size for n in names) + len(y))
    require(
        numbers <= MOST_NUMBERS,
        f"`num_samples` draws must hold at most {MOST_NUMBERS:,} numbers; got "
        f"{numbers:,}. Draw fewer, or keep only some weights with `var_names`.",
    )
    keys = jax.random.split(key, num_samples)
    kept, log_prob, predicted = _draw_all(
        ensemble, likelihood, x, y, keys, tuple(names)
    )
    bad = np.isnan(np.asarray(log_prob)).any(0)
    require(
        not bad.any(),
        f"`likelihood` gave a log-likelihood of NaN for example {int(bad.argmax())}. "
        "Look for numbers that are not finite in the ensemble, or parameters outside "
        "the distribution's range.",
    )
    targets = np.asarray(y)
    variables = _variables({name: weights[name].ndim for name in names}, x, targets)
    event = [f"target_{axis}" for axis in range(targets.ndim - 1)]
    groups = {
        "posterior": {variables[n]: _chains(kept[n], num_chains) for n in names},
        "posterior_predictive": {
            "y": _chains(predicted, num_chains, targets.shape),
        },
        "log_likelihood": {"y": _chains(log_prob, num_chains)},
        "observed_data": {"y": targets},
        "constant_data": {"x": np.asarray(x)} if eqx.is_array(x) else {},
    }
    shapes = {variables[name]: weights[name].shape for name in names}
    dims = {
        name: [f"{name}_{axis}" for axis in range(len(shape))]
        for name, shape in shapes.items()
    }
    dims["y"] = ["example", *event]
    coords = {
        f"{name}_{axis}": np.arange(size)
        for name, shape in shapes.items()
        for axis, size in enumerate(shape)
    }
    coords["example"] = np.arange(len(targets))
    if eqx.is_array(x):
        dims["x"] = ["example", *(f"feature_{axis}" for axis in range(x.ndim - 1))]
    return _collect(groups, coords, dims)


def _variables(ranks: dict[str, int], x: Any, targets: np.ndarray) -> dict[str, str]:
    """Names of the weights' variables; neither they nor their dimensions clash."""
    taken = {"chain", "draw", "sample", "x", "y", "example"}
    taken |= {f"target_{axis}" for axis in range(targets.ndim)}
    taken |= {f"feature_{axis}" for axis in range(np.ndim(x) if eqx.is_array(x) else 0)}
    found = {}
    for name, rank in ranks.items():
        variable = name.replace("/", ".")
        while not taken.isdisjoint(new := _names_of(variable, rank)):
            variable += "_"
        taken |= new
        found[name] = variable
    return found


def _names_of(variable: str, rank: int) -> set[str]:
    return {variable, *(f"{variable}_{axis}" for axis in range(rank))}


def _collect(groups: dict[str, Any], coords: Any, dims: Any) -> Any:
    """ArviZ 1.x takes one mapping of groups, 0.x an argument for each."""
    if int(az.__version__.split(".")[0]) >= 1:
        return az.from_dict(groups, coords=coords, dims=dims)
    # In ArviZ 0.x a log-likelihood must not name its event dimensions.
    likelihood = groups.pop("log_likelihood")
    found = az.from_dict(**groups, coords=coords, dims=dims)
    pointwise = {**dims, "y": ["example"]}
    found.extend(az.from_dict(log_likelihood=likelihood, coords=coords, dims=pointwise))
    return found


def _chains(draws: Any, num_chains: int, shape: tuple[int, ...] | None = None) -> Any:
    draws = np.asarray(draws)
    inner = draws.shape[1:] if shape is None else shape
    return draws.reshape(num_chains, -1, *inner)


@eqx.filter_jit
def _draw_all(
    ensemble: Ensemble, likelihood: Any, x: Any, y: Any, keys: Any, names: tuple
) -> tuple[dict[str, Any], Any, Any]:
    def draw(key: PRNGKeyArray) -> tuple[dict[str, Any], Any, Any]:
        weight_key, target_key = jax.random.split(key)
        weights = ensemble.weights()
        keys = jax.random.split(weight_key, len(weights))
        values = {
            name: weight.sample(key)
            for (name, weight), key in zip(weights.items(), keys, strict=True)
        }
        point = ensemble.with_weights(
            {name: _certain(value) for name, value in values.items()}
        )
        # With π = 0 and Ξ = 0 the noise is zero: these are the sub-network's outputs.
        distribution = output_distribution(likelihood, point(x, key=target_key))
        log_prob = distribution.log_prob(align_targets(distribution, y))
        kept = {name: values[name] for name in names}
        return kept, log_prob, distribution.sample(target_key)

    return jax.lax.map(draw, keys)


def _certain(value: Any) -> SpikeSlab:
    zero = jnp.zeros_like(value)
    return SpikeSlab(zero, value, zero)
