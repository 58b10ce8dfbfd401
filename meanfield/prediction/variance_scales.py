r"""A scalar per layer for the variances of one pass, fitted on held-out data.

A pass that propagates variances treats the entries of a signal as independent, and also
the uses of a shared weight. The error is to a large part one factor per layer,

    Δ²_l → s_l Δ²_l     after every contraction with the weights of layer l,

so these factors are fitted: they minimise the mean of −ln ⟨p(y | x)⟩ on examples that
the network was not trained on. The ensemble itself and the cost of a prediction do not
change.

Source: arXiv:2606.16214, calibrated propagation of variances with a scalar per layer,
for dropout, also fitted on held-out data.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, PRNGKeyArray

from meanfield.checks import require, require_whole
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.batches import array_pair, check_batch
from meanfield.learning.likelihoods import Categorical

from .predictive import average_chunk

RATE, LARGEST = 0.1, 7.0


def fit_scales(
    ensemble: Ensemble,
    data: tuple[Any, Any],
    *,
    likelihood: Any = Categorical(),  # noqa: B008  (frozen)
    reading: str = "delta",
    num_samples: int = 16,
    steps: int = 60,
    batch_size: int = 250,
    key: PRNGKeyArray,
) -> dict[str, float]:
    """Factors of the layers' variances that maximise the likelihood of held-out data.

    Args:
        ensemble: a trained ensemble.
        data: arrays (x, y) that it was not trained on; some hundred examples are
            enough.
        likelihood: as in `fit`.
        reading: "delta" or "moments", the reading to calibrate.
        num_samples: draws of the last layer.
        steps: steps of Adam in ln s.
        batch_size: examples per step.
        key: a `jax.random.key`.

    Returns:
        A factor for every random weight by path name, for `scales=` of `predict` and
        `evaluate`.

    Raises:
        ValueError: the data do not fit, `reading` is "sampled", or a number is not
            positive.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(2, 3, 8, 1, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> held_out = jnp.ones((4, 2)), jnp.array([0, 1, 2, 0])
        >>> scales = mf.prediction.fit_scales(
        ...     ensemble, held_out, steps=3, key=jax.random.key(2)
        ... )
        >>> sorted(scales)
        ['layers/0/weight', 'layers/1/weight']
    """
    require(
        reading in ("moments", "delta"),
        f"`reading` must be 'moments' or 'delta'; got {reading!r}.",
    )
    for name, number in (("steps", steps), ("batch_size", batch_size)):
        require_whole(name, number)
        require(number >= 1, f"`{name}` must be at least 1; got {number}.")
    x, y = array_pair(data)
    check_batch(ensemble, likelihood, x, y)
    names = list(ensemble.weights())
    start = {name: jnp.zeros(()) for name in names}
    arrays = jax.tree.map(jnp.asarray, (x, y))
    size = min(batch_size, len(jax.tree.leaves(y)[0]))
    found = _descend(
        ensemble, likelihood, arrays, start, key, reading, num_samples, steps, size
    )
    return {name: float(jnp.exp(value)) for name, value in found.items()}


@eqx.filter_jit
def _descend(
    ensemble: Ensemble,
    likelihood: Any,
    data: Any,
    start: Mapping[str, Array],
    key: PRNGKeyArray,
    reading: str,
    num_samples: int,
    steps: int,
    size: int,
) -> Mapping[str, Array]:
    """Mean of ln s over the second half of Adam's steps, with a cosine schedule."""
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, steps))
    number = jax.tree.leaves(data)[0].shape[0]

    def loss(logs: Any, batch: Any, key: PRNGKeyArray) -> Array:
        scales = jax.tree.map(jnp.exp, logs)
        x, y = batch
        found = average_chunk(
            ensemble, likelihood, x, y, key, num_samples, reading, scales
        )
        return -found["log_prob"].mean()

    def step(carry: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
        logs, memory = carry
        rows_key, draw_key = jax.random.split(key)
        rows = jax.random.choice(rows_key, number, (size,), replace=False)
        batch = jax.tree.map(lambda a: a[rows], data)
        gradient = jax.grad(loss)(logs, batch, draw_key)
        update, memory = optimizer.update(gradient, memory)
        logs = jax.tree.map(
            lambda s, d: jnp.clip(s + d, -LARGEST, LARGEST), logs, update
        )
        return (logs, memory), logs

    state = start, optimizer.init(start)
    _, path = lax.scan(step, state, jax.random.split(key, steps))
    return jax.tree.map(lambda values: values[steps // 2 :].mean(), path)
