"""Estimate the batch statistics of a network again, for other weights or data.

The batch statistics of a trained ensemble are averages over its noise, that is, over
all sub-networks. A sub-network that is drawn, cut or shrunk has different activations.
"""

from typing import Any

import equinox as eqx
import jax
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from meanfield.checks import require, require_whole
from meanfield.propagation import mean_field

from .ensemble import Ensemble
from .frameworks import Call, in_training_mode
from .opened import check_training


def estimate_statistics(
    model: Any,
    x: Any,
    *,
    key: PRNGKeyArray,
    batch_size: int = 128,
    num_steps: int = 1000,
    call: Call | None = None,
) -> Any:
    """Run data through a network in training mode, so that its state fits its weights.

    Weights stay as they are. A running average with momentum ρ keeps a fraction
    ρ^`num_steps` of its old value: 0.00004 with ρ = 0.99 and the default.

    Args:
        model: an ensemble, with new noise for every batch; or a model of the user's
            type, such as one that `sample`, `mean_network` or `mf.deploy.shrink`
            returned, all of whose layers are put into training mode.
        x: inputs, first axis the examples.
        key: a `jax.random.key`, for the order of the examples, noise and masks.
        batch_size: examples in a batch.
        num_steps: number of batches, from as many passes over the data as needed.
        call: for a model, as in `Ensemble.from_model`.

    Returns:
        The ensemble, or the model in inference mode, with other statistics.

    Raises:
        ValueError: the network has no state that a call changes, there are fewer
            examples than `batch_size`, or a number is not positive.

    Example:
        >>> import jax, jax.numpy as jnp, meanfield as mf
        >>> from flax import nnx
        >>> rngs, x = nnx.Rngs(0), 5 + jax.random.normal(jax.random.key(0), (128, 2))
        >>> layers = nnx.Linear(2, 3, rngs=rngs), nnx.BatchNorm(3, rngs=rngs)
        >>> net = nnx.Sequential(*layers)
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> drawn = ensemble.sample(jax.random.key(2))
        >>> key = jax.random.key(3)
        >>> drawn = mf.ensemble.estimate_statistics(drawn, x, key=key)
        >>> bool(jnp.allclose(drawn(x).mean(0), 0, atol=0.01))
        True

    References:
        Izmailov et al. 2018, Averaging weights leads to wider optima, arXiv:1803.05407,
        who go through the data once more for the same reason.
    """
    ensemble = model
    if not isinstance(model, Ensemble):
        ensemble = Ensemble.from_points(in_training_mode(model), call=call)
    require(
        bool(ensemble.state()),
        "`model` must have a state that a call in training mode changes, such as batch "
        "statistics; got none. There is nothing to estimate.",
    )
    for name, value in {"batch_size": batch_size, "num_steps": num_steps}.items():
        require_whole(name, value)
        require(value >= 1, f"`{name}` must be at least 1; got {value}.")
    examples = len(jax.tree.leaves(x)[0])
    require(
        examples >= batch_size,
        f"`batch_size` must not exceed the number of examples; got {batch_size} for "
        f"{examples} examples. Use a smaller batch.",
    )
    check_training(ensemble.params, ensemble.training, x)
    state = _run(ensemble, x, key, batch_size, num_steps)
    ensemble = ensemble.with_state(state)
    return ensemble if isinstance(model, Ensemble) else ensemble.mean_network()


@eqx.filter_jit
def _run(
    ensemble: Ensemble, x: Any, key: PRNGKeyArray, batch_size: int, num_steps: int
) -> dict[str, Array]:
    """The state after `num_steps` batches."""
    assert ensemble.training is not None
    network = mean_field(ensemble.training, noise=ensemble.noise)
    examples = len(jax.tree.leaves(x)[0])
    count = examples // batch_size
    order_key, step_key = jax.random.split(key)

    def step(state: dict[str, Array], number: Array) -> tuple[dict[str, Array], None]:
        epoch_key = jax.random.fold_in(order_key, number // count)
        order = jax.random.permutation(epoch_key, examples)
        start = number % count * batch_size
        rows = lax.dynamic_slice_in_dim(order, start, batch_size)
        own, noise = jax.random.split(jax.random.fold_in(step_key, number))
        batch = jax.tree.map(lambda array: array[rows], x)
        params = ensemble.with_state(state).params
        return network(params, batch, own, key=noise)[1], None

    state, _ = lax.scan(step, ensemble.state(), jax.numpy.arange(num_steps))
    return state
