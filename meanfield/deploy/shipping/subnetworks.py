r"""Sub-networks drawn from an ensemble, with the masks and keys that reproduce them.

| rule        | connection present                                  | weight          |
|-------------|-----------------------------------------------------|-----------------|
| `draw`      | with probability 1 − π                              | drawn, N(m, Ξ)  |
| `labels`    | important: yes; absent: no; variable: as `draw`     | drawn           |
| `median`    | if 1 − π > ½ (the median probability network)       | m               |
| `mean`      | if 1 − π > ½                                        | (1 − π) m       |
| `coalition` | as `draw`; units outside are held at their mean     | drawn           |

Random streams may change between versions of JAX, so the masks are stored in addition
to the key. The median probability model: Barbieri & Berger 2004, Annals of Statistics
32(3).
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from meanfield.checks import require
from meanfield.credit.labels import Label
from meanfield.ensemble.ensemble import Ensemble
from meanfield.ensemble.frameworks import Call
from meanfield.spikeslab import SpikeSlab
from meanfield.trees import named_leaves

RULES = ("draw", "labels", "median", "mean", "coalition")
# Rules that give a single network, without a key.
FIXED = ("median", "mean")


@dataclasses.dataclass(frozen=True)
class Subnetwork:
    """One drawn network and its provenance.

    Attributes:
        model: an ordinary model with exact zeros.
        masks: for each random weight, where a connection is present.
        mask_hash: sha256 of the masks, see `hash_masks`.
        rule: how it was drawn.
        key_data: the integers of the network's random key; None if no key was used.
        key_impl: the name of the random generator.
        coalition: by layer, a mask of the units in the coalition; the others are held
            at their mean.
        call: how `Ensemble.from_model` was told to call the module, or None.
    """

    model: Any
    masks: dict[str, np.ndarray]
    mask_hash: str
    rule: str
    key_data: tuple[int, ...] | None = None
    key_impl: str | None = None
    coalition: dict[str, np.ndarray] | None = None
    call: Call | None = None

    @property
    def num_weights(self) -> int:
        """Number of connections of the ensemble."""
        return sum(mask.size for mask in self.masks.values())

    @property
    def num_nonzero(self) -> int:
        """Number of connections that are present."""
        return sum(int(mask.sum()) for mask in self.masks.values())


def sample_subnetworks(
    ensemble: Ensemble,
    num_networks: int,
    *,
    key: PRNGKeyArray | None = None,
    rule: str = "draw",
    labels: Any = None,
    coalition: Mapping[str, Any] | None = None,
) -> list[Subnetwork]:
    """Draw sub-networks.

    Network i depends only on the key and on i, not on the number of networks.

    Args:
        ensemble: a trained ensemble.
        num_networks: K ≥ 1; the rules "median" and "mean" give one network, so K = 1.
        key: a `jax.random.key`; "median" and "mean" need none.
        rule: "draw", "labels", "median", "mean" or "coalition".
        labels: for the rule "labels", the result of `label_connections` (or a mapping
            from weight to an array of `mf.Label`).
        coalition: for the rule "coalition", a boolean mask of the output units of each
            layer, by the layer's path, as in the results of `strong_coalition`. Units
            outside are held at their mean when the network is shrunk.

    Returns:
        One `Subnetwork` for each draw: the model, its masks and their hash.

    Raises:
        ValueError: an unknown rule, K < 1, or an argument is missing that the rule
            needs.

    Example:
        >>> import equinox as eqx, jax, meanfield as mf
        >>> net = eqx.nn.MLP(4, 3, 16, 2, key=jax.random.key(0))
        >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
        >>> drawn = mf.deploy.sample_subnetworks(ensemble, 2, key=jax.random.key(2))
        >>> [len(network.mask_hash) for network in drawn]
        [64, 64]
    """
    require(
        rule in RULES,
        f"`rule` must be one of {', '.join(RULES)}; got {rule!r}.",
    )
    require(
        num_networks >= 1,
        f"`num_networks` must be at least 1; got {num_networks}.",
    )
    if rule in FIXED:
        require(
            num_networks == 1,
            f"`num_networks` must be 1 for the rule {rule!r}, which gives a single "
            f"network; got {num_networks}. Use the rule 'draw' for different networks.",
        )
        return [_describe(ensemble, likely_params(ensemble, rule), rule)]
    require(
        key is not None,
        f"`key` is needed for the rule {rule!r}; pass key=jax.random.key(seed).",
    )
    assert key is not None
    source, masks = ensemble, None
    if rule == "labels":
        source = ensemble.with_weights(_fixed_by_labels(ensemble.weights(), labels))
    if rule == "coalition":
        require(
            bool(coalition),
            "`coalition` is needed for the rule 'coalition': a boolean mask of the "
            "output units of each layer, by the layer's path.",
        )
        masks = {name: np.asarray(mask) for name, mask in (coalition or {}).items()}
    keys = [jax.random.fold_in(key, i) for i in range(num_networks)]
    return [_describe(ensemble, source.sample_params(k), rule, k, masks) for k in keys]


def hash_masks(masks: Mapping[str, np.ndarray]) -> str:
    """sha256 over names, shapes and packed bits, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(masks):
        mask = np.asarray(masks[name], bool)
        digest.update(f"{name} {list(mask.shape)}\n".encode())
        digest.update(np.packbits(mask, axis=None).tobytes())
    return digest.hexdigest()


def likely_params(ensemble: Ensemble, rule: str) -> Any:
    """Parameters with weights m ("median") or (1 − π) m where 1 − π > ½, else 0.

    Args:
        ensemble: the ensemble.
        rule: "median" or "mean".
    """
    likely = {
        name: jnp.where(
            weight.inclusion_prob > 0.5,
            weight.slab_mean if rule == "median" else weight.mean,
            0,
        )
        for name, weight in ensemble.weights().items()
    }
    return ensemble.with_weights(likely).params


def _fixed_by_labels(
    weights: Mapping[str, SpikeSlab], labels: Any
) -> dict[str, SpikeSlab]:
    """The distributions with π = 0 for important and π = 1 for absent connections."""
    arrays = getattr(labels, "labels", labels)
    require(
        isinstance(arrays, Mapping) and set(arrays) == set(weights),
        "`labels` must give an array of labels for every random weight (the result of "
        f"label_connections); needed {sorted(weights)}, got "
        f"{sorted(arrays) if isinstance(arrays, Mapping) else arrays}.",
    )
    fixed = {}
    for name, weight in weights.items():
        codes = np.asarray(arrays[name])
        require(
            codes.shape == weight.shape,
            f"`labels` of {name!r} must have the shape of the weight, {weight.shape}; "
            f"got {codes.shape}. Pass labels of this ensemble.",
        )
        # Connections that share a spike are kept if any of them is important, and
        # removed if all of them are absent.
        important = (codes == Label.IMPORTANT).any(weight.shared, keepdims=True)
        absent = (codes == Label.ABSENT).all(weight.shared, keepdims=True)
        spike = jnp.where(important, 0, weight.spike_prob)
        spike = jnp.where(absent, 1, spike)
        fixed[name] = SpikeSlab(spike, weight.slab_mean, weight.slab_var)
    return fixed


def _describe(
    ensemble: Ensemble,
    params: Any,
    rule: str,
    key: Any = None,
    coalition: dict[str, np.ndarray] | None = None,
) -> Subnetwork:
    arrays = named_leaves(params)
    masks = {name: np.asarray(arrays[name]) != 0 for name in ensemble.weights()}
    data = impl = None
    if key is not None:
        data = tuple(int(n) for n in np.ravel(jax.random.key_data(key)))
        impl = str(jax.random.key_impl(key))
    model = ensemble.rebuild(params)
    return Subnetwork(
        model, masks, hash_masks(masks), rule, data, impl, coalition, ensemble.call
    )
