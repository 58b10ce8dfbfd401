r"""The layered Hamiltonian, in which neurons, like weights, are degrees of freedom.

    βH = β Σ_l |y_l − h_l^M|² + Σ_{l,m} |h_l^{m+1} − f^m(h_l^m)|² / (2 ε_m)

with l an example, m a layer, f^m(h) = σ(W^m h + b^m). The constraint h^{m+1} = f^m(h^m)
is replaced by a Gaussian of variance ε; ε → 0 is the ordinary network. H couples only
consecutive layers and has the same form for every m and l: it is invariant under a
shift m → m + 1 if all layers have the same distribution, and under permutations of the
examples. Integrating out every second layer is a renormalization step in depth
(`decimation` treats the cases that can be solved exactly).

The partition function with neurons as dynamic variables is that of arXiv:2410.00396;
this Gaussian form is this project's own, consistent with it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from meanfield.checks import is_concrete, require

Layer = Callable[[Float[Array, "batch units"]], Float[Array, "batch outputs"]]


def layered_hamiltonian(
    states: Sequence[Float[Array, "batch _"]],
    targets: Float[Array, "batch outputs"],
    layers: Sequence[Layer],
    *,
    inverse_temperature: float | int = 1.0,
    noise_var: float | int | Sequence[float | int] = 1e-2,
) -> Float[Array, ""]:
    """βH of a configuration of neurons, up to terms independent of the configuration.

    Args:
        states: h^0 … h^M, one array of shape (batch, units) for the input and one for
            the output of every layer.
        targets: y.
        layers: f^0 … f^{M−1}, each from a batch of states to the next.
        inverse_temperature: β of the cost.
        noise_var: ε > 0, one for all layers or one for each.

    Returns:
        βH, one number.

    Raises:
        ValueError: the numbers of states and layers do not fit, or ε is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> h = [jnp.ones((3, 2)), jnp.zeros((3, 2))]
        >>> float(layered_hamiltonian(h, h[1], [jnp.zeros_like]))
        0.0
    """
    misfit = jnp.sum(jnp.square(targets - states[-1]))
    return inverse_temperature * misfit + jnp.sum(
        layer_energies(states, layers, noise_var=noise_var)
    )


def layer_energies(
    states: Sequence[Float[Array, "batch _"]],
    layers: Sequence[Layer],
    *,
    noise_var: float | int | Sequence[float | int] = 1e-2,
) -> Float[Array, " layers"]:
    """Coupling energy Σ_l |h_l^{m+1} − f^m(h_l^m)|² / (2 ε_m) of every layer m.

    Args:
        states: h^0 … h^M.
        layers: f^0 … f^{M−1}.
        noise_var: ε > 0, one for all layers or one for each.

    Returns:
        One energy per layer, summed over the batch.

    Raises:
        ValueError: the numbers of states and layers do not fit, or ε is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> h = [jnp.ones((1, 2)), jnp.zeros((1, 2))]
        >>> float(layer_energies(h, [lambda h: h], noise_var=0.5)[0])
        2.0
    """
    require(
        len(layers) >= 1 and len(states) == len(layers) + 1,
        f"`states` must hold one state more than there are layers; got {len(states)} "
        f"states for {len(layers)} layers. Give h^0 (the input) to h^M.",
    )
    variances = _per_layer(noise_var, len(layers))
    return jnp.stack(
        [
            jnp.sum(jnp.square(after - layer(before))) / (2 * variance)
            for before, after, layer, variance in zip(
                states[:-1], states[1:], layers, variances, strict=True
            )
        ]
    )


def forward_states(
    inputs: Float[Array, "batch inputs"], layers: Sequence[Layer]
) -> list[Float[Array, "batch _"]]:
    """States h^0 … h^M of the ordinary network, the configuration for ε → 0.

    Args:
        inputs: h^0.
        layers: f^0 … f^{M−1}, each from a batch of states to the next.

    Returns:
        The inputs, and the outputs of every layer.

    Example:
        >>> import jax.numpy as jnp
        >>> layers = [lambda h: 2 * h, lambda h: h + 1]
        >>> states = forward_states(jnp.ones((1, 2)), layers)
        >>> states[-1].tolist()
        [[3.0, 3.0]]
    """
    states = [inputs]
    for layer in layers:
        states.append(layer(states[-1]))
    return states


def _per_layer(noise_var: Any, num: int) -> list[Any]:
    several = isinstance(noise_var, Sequence)
    variances = list(noise_var) if several else [noise_var] * num
    require(
        len(variances) == num,
        f"`noise_var` must be one number or one for each of {num} layers; got "
        f"{len(variances)}. Give one number, or one for each layer.",
    )
    for variance in variances:
        if is_concrete(variance):
            require(
                bool(variance > 0),
                f"`noise_var` must be positive; got {variance}. For the limit 0 use "
                "forward_states.",
            )
    return variances
