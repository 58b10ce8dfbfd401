r"""Energies of labels, their Gibbs distribution, and soft membership of units.

With the label energy E(x, y) = −z_y(x) of the logits z and a temperature T:

    P_T(y|x) = exp(−E(x, y)/T) / Z,      F(x) = −T ln Z,      Z = Σ_y' exp(−E(x, y')/T)
    U(S)     = ⟨E(x, y) − F(x)⟩          payoff of a coalition  v(S) = U(∅) − U(S)

U is T times the cross-entropy at temperature T. For real targets the energy is
Gaussian, E = ½ (y − ŷ)², and U is its mean. A unit with Shapley value φ belongs to the
strong coalition with probability σ((φ − θ)/T), which becomes φ > θ as T → 0.

Source: Bouchaffra et al. 2024, arXiv:2410.12264, for the idea of selecting units by a
payoff made from energies. The formulas above are this project's own interpretation.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from meanfield.checks import require


def gibbs_probs(
    energies: Float[Array, "*batch classes"], temperature: float | int = 1.0
) -> Float[Array, "*batch classes"]:
    """P_T(y) = exp(−E_y/T) / Σ_y' exp(−E_y'/T).

    Args:
        energies: E, one for each class.
        temperature: T > 0, in the units of the energies.

    Returns:
        Probabilities of the classes, of the shape of the energies.

    Raises:
        ValueError: the temperature is not positive.

    Example:
        >>> import jax.numpy as jnp
        >>> import meanfield as mf
        >>> mf.credit.gibbs_probs(jnp.array([0.0, jnp.log(3.0)])).round(2).tolist()
        [0.75, 0.25]
    """
    _check(temperature)
    return jax.nn.softmax(-energies / temperature)


def free_energy(
    energies: Float[Array, "*batch classes"], temperature: float | int = 1.0
) -> Float[Array, "*batch"]:
    """F = −T ln Σ_y exp(−E_y/T), in the units of the energies.

    Raises:
        ValueError: the temperature is not positive.
    """
    _check(temperature)
    return -temperature * jax.nn.logsumexp(-energies / temperature, axis=-1)


def excess_energy(
    energies: Float[Array, "*batch classes"],
    labels: Int[Array, "*batch"],
    temperature: float | int = 1.0,
) -> Float[Array, "*batch"]:
    """E_y − F ≥ 0, which is T times −ln P_T(y) for the true class y.

    Raises:
        ValueError: the temperature is not positive.
    """
    own = jnp.take_along_axis(energies, labels[..., None], -1)[..., 0]
    return own - free_energy(energies, temperature)


def gibbs_membership(
    values: Float[Any, "*units"], threshold: Any, temperature: Any
) -> Float[Array, "*units"]:
    """σ((φ − θ)/T), and the step function φ > θ at T = 0.

    Args:
        values: φ, Shapley values of the units.
        threshold: θ, in the units of φ.
        temperature: T ≥ 0, in the units of φ.
    """
    away = jnp.asarray(values) - threshold
    cold = jnp.asarray(temperature) == 0
    smooth = jax.nn.sigmoid(away / jnp.where(cold, 1, temperature))
    return jnp.where(cold, (away > 0).astype(smooth.dtype), smooth)


def _check(temperature: Any) -> None:
    require(temperature > 0, f"`temperature` must be positive; got {temperature}.")
