r"""A network with spike-and-slab weights inside a NumPyro model, as one statement.

    prior = mf.SpikeSlabPrior(inclusion_prob=0.1, slab_scale=1.0)
    net = mf.numpyro.spike_slab_module("net", network, prior=prior)
    y = net(x)

In `spike_slab_module` π, m, Ξ are parameters of the model: every unit and example has
independent noise (local reparameterization), and the KL is a factor of the model. It is
meant for SVI, and is as fast as training by `fit`.

`random_spike_slab_module` makes every weight tensor a latent site. It is meant for the
guide `AutoSpikeSlab`, and for Markov chains on small networks.
"""

from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.primitives import Messenger

from meanfield.checks import require
from meanfield.elementary import safe_sqrt
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.divergence import total_kl
from meanfield.learning.priors import SpikeSlabPrior
from meanfield.spikeslab import SpikeSlab, is_spike_slab
from meanfield.trees import map_named

from .matched_moments import require_plain_bound
from .spike_and_slab import SpikeAndSlab

_PARTS = ("spike_prob", "slab_mean", "slab_scale")


def spike_slab_module(name: str, network: Any, prior: Any = None) -> Callable:
    r"""Put a network with spike-and-slab weights into a NumPyro model.

    Registers π, m and √Ξ of every random weight (``<name>/<path>/spike_prob``, …) and
    every learned point value (``<name>/<path>``) by `numpyro.param`, and with a prior
    adds −Σ KL(q ‖ prior) to the log-density. The objective of SVI is then the bound of
    `fit`, if a subsampling plate scales the likelihood to all data and this statement
    is outside of plates.

    Args:
        name: prefix of the parameters.
        network: an `Ensemble`, or an argument of `Ensemble.from_model`. The weights of
            a Flax or Equinox model are the initial slab means.
        prior: a `SpikeSlabPrior`, a mapping from names to priors, or None for no KL.

    Returns:
        A function of a batch that draws new noise at every call. It needs a seed
        handler, which SVI and `Predictive` provide.

    Raises:
        ValueError: the name is already used; the network is not supported; a prior is
            given inside a plate; or the objective weights draws by their densities
            (`RenyiELBO`), which the noise of this network does not have.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, numpyro
        >>> import numpyro.distributions as dist
        >>> import meanfield as mf
        >>> network = eqx.nn.MLP(3, 1, 8, 1, key=jax.random.key(0))
        >>> def model(x, y=None):
        ...     prior = mf.SpikeSlabPrior(inclusion_prob=0.1, slab_scale=1.0)
        ...     net = mf.numpyro.spike_slab_module("net", network, prior)
        ...     mean = net(x)[:, 0]
        ...     with numpyro.plate("data", len(x)):
        ...         numpyro.sample("y", dist.Normal(mean, 0.1), obs=y)
        >>> seeded = numpyro.handlers.seed(model, jax.random.key(1))
        >>> trace = numpyro.handlers.trace(seeded).get_trace(jnp.ones((5, 3)))
        >>> trace["y"]["value"].shape
        (5,)
    """
    require_plain_bound(f"spike_slab_module {name!r}")
    ensemble = _as_ensemble(network)
    plates = _Plates()
    with plates:
        values = {
            site: numpyro.param(site, start, constraint=constraint)
            for site, (start, constraint) in _starts(name, ensemble).items()
        }
    require(
        prior is None or not plates.names,
        f"spike_slab_module {name!r} is inside the plate {plates.names}, where its KL "
        "would be counted for each of the plate's entries. Put the statement before "
        "the plate, and only the likelihood inside.",
    )
    ensemble = ensemble_from_params(name, ensemble, values)
    if prior is not None:
        numpyro.factor(f"{name}/kl", -total_kl(ensemble.weights(), prior))

    def apply(x: Any) -> Any:
        key = numpyro.prng_key()
        if key is None:
            raise ValueError(
                f"The network {name!r} draws noise and needs a key; run the model "
                "under numpyro.handlers.seed."
            )
        return ensemble(x, key=key)

    return apply


class _Plates(Messenger):
    """Records the plates around the parameters that are registered in its context."""

    def __init__(self):
        super().__init__()
        self.names: list[str] = []

    def postprocess_message(self, msg: Any) -> None:
        self.names = [frame.name for frame in msg["cond_indep_stack"]]


def ensemble_from_params(
    name: str, network: Any, params: Mapping[str, Any]
) -> Ensemble:
    """The ensemble that SVI has trained through `spike_slab_module`.

    Args:
        name: the name given to the statement.
        network: the network given to the statement.
        params: the result of `svi.get_params(state)` or `svi.run(...).params`.

    Returns:
        An `Ensemble` with the learned π, m, Ξ and point values.

    Raises:
        ValueError: a parameter of the network is missing.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, numpyro, meanfield as mf
        >>> network = eqx.nn.MLP(3, 1, 8, 1, key=jax.random.key(0))
        >>> def model(x):
        ...     return mf.numpyro.spike_slab_module("net", network)(x)
        >>> seeded = numpyro.handlers.seed(model, jax.random.key(1))
        >>> trace = numpyro.handlers.trace(seeded).get_trace(jnp.ones((5, 3)))
        >>> params = {k: v["value"] for k, v in trace.items() if v["type"] == "param"}
        >>> list(mf.numpyro.ensemble_from_params("net", network, params).weights())
        ['layers/0/weight', 'layers/1/weight']
    """
    ensemble = _as_ensemble(network)
    missing = sorted(set(_starts(name, ensemble)) - set(params))
    require(
        not missing,
        f"`params` must have the parameters of the network; got none for {missing}. "
        "Pass the name and the network that the model uses.",
    )

    def value(path: str, leaf: Any) -> Any:
        site = f"{name}/{path}"
        if is_spike_slab(leaf):
            spike, mean, std = (params[f"{site}/{part}"] for part in _PARTS)
            return SpikeSlab(spike, mean, jnp.square(std))
        return params.get(site, leaf) if _learned(ensemble, path, leaf) else leaf

    points = map_named(value, ensemble.params, is_spike_slab)
    return eqx.tree_at(lambda e: e.params, ensemble, points)


def random_spike_slab_module(
    name: str, network: Any, prior: Any, point_scale: float = 1.0
) -> Callable:
    r"""Put a network into a NumPyro model with every weight tensor a latent site.

    Args:
        name: prefix of the sites, ``<name>/<path>``.
        network: an `Ensemble`, or an argument of `Ensemble.from_model`; only its shapes
            and its frozen values are used.
        prior: a `SpikeSlabPrior` with fixed hyperparameters; or a mapping from path
            names to distributions, such as `as_prior(ensemble.weights())` (normal ones
            for NUTS).
        point_scale: standard deviation of the normal prior of biases and norm scales.

    Returns:
        A function of a batch, `x -> outputs`, the same network at every call.

    Raises:
        ValueError: the prior has learned hyperparameters, or lacks a weight.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, numpyro, meanfield as mf
        >>> network = eqx.nn.MLP(3, 1, 8, 1, key=jax.random.key(0))
        >>> def model(x):
        ...     prior = mf.SpikeSlabPrior(inclusion_prob=0.5, slab_scale=1.0)
        ...     return mf.numpyro.random_spike_slab_module("net", network, prior)(x)
        >>> seeded = numpyro.handlers.seed(model, jax.random.key(1))
        >>> trace = numpyro.handlers.trace(seeded).get_trace(jnp.ones((5, 3)))
        >>> trace["net/layers/0/weight"]["value"].shape
        (8, 3)
    """
    ensemble = _as_ensemble(network)
    require(point_scale > 0, f"`point_scale` must be positive; got {point_scale}.")

    def draw(path: str, leaf: Any) -> Any:
        if is_spike_slab(leaf):
            return numpyro.sample(
                f"{name}/{path}", _site_distribution(prior, path, leaf)
            )
        if _learned(ensemble, path, leaf):
            distribution = (
                dist.Normal(0.0, point_scale).expand(leaf.shape).to_event(leaf.ndim)
            )
            return numpyro.sample(f"{name}/{path}", distribution)
        return leaf

    points = map_named(draw, ensemble.params, is_spike_slab)
    return lambda x: ensemble.apply_fn(points, x)


def _as_ensemble(network: Any) -> Ensemble:
    if isinstance(network, Ensemble):
        return network
    # Even if the model is traced, the network's initial values are constants.
    with jax.ensure_compile_time_eval():
        return Ensemble.from_model(network)


def _learned(ensemble: Ensemble, path: str, leaf: Any) -> bool:
    return eqx.is_inexact_array(leaf) and path not in ensemble.frozen


def _starts(name: str, ensemble: Ensemble) -> dict[str, tuple[Any, Any]]:
    """Initial value and constraint of every parameter.

    A π of exactly 0 or 1 and a slab scale of exactly 0 have no unconstrained value, so
    they are initialised slightly inside.
    """
    starts: dict[str, tuple[Any, Any]] = {}

    def add(path: str, leaf: Any) -> Any:
        site = f"{name}/{path}"
        if is_spike_slab(leaf):
            spike = jnp.clip(leaf.spike_prob, 1e-3, 1 - 1e-3)
            std = jnp.maximum(safe_sqrt(leaf.slab_var), 1e-4)
            starts[f"{site}/spike_prob"] = (spike, constraints.unit_interval)
            starts[f"{site}/slab_mean"] = (leaf.slab_mean, constraints.real)
            starts[f"{site}/slab_scale"] = (std, constraints.softplus_positive)
        elif _learned(ensemble, path, leaf):
            starts[site] = (leaf, constraints.real)
        return leaf

    map_named(add, ensemble.params, is_spike_slab)
    return starts


def _site_distribution(prior: Any, path: str, weight: SpikeSlab) -> dist.Distribution:
    if isinstance(prior, SpikeSlabPrior):
        require(
            prior.is_fixed,
            "`prior` must have fixed numbers, because a generative model has no "
            "posterior to learn them from. Give numbers, or a mapping to distributions "
            "that depend on your own hyper-parameters.",
        )
        layer = prior.for_layer(path, weight)
        distribution = SpikeAndSlab(1 - layer.inclusion_prob, 0.0, layer.slab_scale)
        return distribution.expand(weight.shape).to_event(weight.ndim)
    require(
        isinstance(prior, Mapping) and path in prior,
        f"`prior` must be a SpikeSlabPrior or a mapping with an entry for {path!r}.",
    )
    distribution = prior[path]
    require(
        distribution.shape() == weight.shape,
        f"`prior[{path!r}]` must have the shape of the weight, {weight.shape}; got "
        f"{distribution.shape()}.",
    )
    return (
        distribution
        if distribution.event_dim == weight.ndim
        else distribution.to_event(weight.ndim - distribution.event_dim)
    )
