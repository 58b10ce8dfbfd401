"""The activations of the strong units of a layer, as features of an example."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

from meanfield.checks import require
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.batches import check_inputs, input_arrays
from meanfield.program.steps import trace
from meanfield.program.units import find_units

from .silence import activations


def coalition_features(
    ensemble: Ensemble,
    layer: str,
    x: Any,
    *,
    mask: Bool[Any, " units"] | Mapping[str, Bool[Any, " units"]] | None = None,
) -> Float[Array, "examples features"]:
    """Activations of the units of a layer that belong to its coalition.

    Args:
        ensemble: a trained ensemble, whose network of posterior means is evaluated.
        layer: a parameter path without its last name.
        x: a batch of inputs.
        mask: mask of the units in the coalition, or such masks by layer; by default all
            units.

    Returns:
        Shape (examples, units in the mask). Channels are averaged over their positions.

    Raises:
        ValueError: an unknown layer, or a mask of another length.

    Example:
        >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
        >>> net = eqx.nn.MLP(4, 3, 16, 2, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_points(net)
        >>> strong = jnp.arange(16) < 5
        >>> mf.neurons.coalition_features(ensemble, "layers/1", jnp.ones((7, 4)),
        ...                       mask=strong).shape
        (7, 5)

    References:
        The coalition is that of Bouchaffra et al. 2024, arXiv:2410.12264.
    """
    x = input_arrays(x, "x")
    check_inputs(ensemble, x, "x")
    points = ensemble.mean_params()
    program = trace(ensemble.apply_fn, points, x)
    units = find_units(program, layer)
    require(
        units.place is not None,
        f"`layer` must be dense or convolutional; got {layer!r}, which is recurrent: "
        "its units have an activation for each time step.",
    )
    if isinstance(mask, Mapping):
        require(
            layer in mask,
            f"`layer` must be among the layers in `mask`, {list(mask)}; got {layer!r}.",
        )
        mask = mask[layer]
    chosen = np.ones(units.size, bool) if mask is None else np.asarray(mask, bool)
    require(
        chosen.shape == (units.size,),
        f"`mask` must have one entry for each of the {units.size} units of {layer!r}; "
        f"got shape {chosen.shape}.",
    )

    return activations(program, points, x, units).mean(1)[:, chosen]
