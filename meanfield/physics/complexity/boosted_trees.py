r"""Gradient-boosted trees on binary predictors, by matrix products.

    F ← F + η · tree(x),    leaf value = Σ (y − p)/Σ p (1 − p),    p = 1/(1 + e^{−F})

Every node of a tree splits on one predictor. With binary predictors, the sums of
gradients and curvatures on one side of all candidate splits are one matrix product,
predictors × nodes of the level, so a whole fit for all folds is one compiled program.
The split of a node is the one with the largest gain

    G₁²/H₁ + G₀²/H₀ − G²/H       G = Σ (y − p),  H = Σ p (1 − p)  of the examples there

with index 1 for the examples whose predictor is on, and 0 for those where it is off.

References:
    Friedman 2001, Annals of Statistics 29, 1189; Chen & Guestrin 2016, arXiv:1603.02754
    (the gain with curvatures).
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

NUM_TREES = 30
RATE = 0.2
DEPTH = 4
# Smallest curvature Σ p (1 − p) allowed on a side of a split.
MIN_CURVATURE = 1.0


@functools.partial(jax.jit, static_argnames=("num_trees", "depth"))
def boosted_trees(
    predictors: Bool[Array, "folds predictors examples"],
    target: Bool[Array, " examples"],
    learned: Bool[Array, "folds examples"],
    *,
    num_trees: int = NUM_TREES,
    depth: int = DEPTH,
) -> Float[Array, "folds examples"]:
    """Probability that the target is on, for every example and fold.

    Args:
        predictors: binary predictors, one per row, which may differ between folds.
        target: the target to predict.
        learned: mask of the training examples of each fold.
        num_trees: number of trees in every fold.
        depth: number of splits from the root of a tree to a leaf.

    Returns:
        Probabilities for all examples, including those not trained on.

    Example:
        >>> import jax
        >>> x = jax.random.bernoulli(jax.random.key(0), shape=(1, 2, 400))
        >>> y = x[0, 0] ^ x[0, 1]
        >>> p = boosted_trees(x, y, jax.numpy.ones((1, 400), bool))
        >>> bool(((p[0] > 0.9) == y).all())
        True
    """

    def one_fold(x: Array, mask: Array) -> Array:
        x, mask = x.astype(jnp.float32), mask.astype(jnp.float32)
        usual = (mask @ target) / mask.sum()

        def grow(scores: Array, _: None) -> tuple[Array, None]:
            p = jax.nn.sigmoid(scores)
            gradient, curvature = mask * (target - p), mask * p * (1 - p)
            leaf = jnp.zeros(x.shape[1], jnp.int32)
            for level in range(depth):
                leaf = 2 * leaf + _answers(x, gradient, curvature, leaf, 2**level)
            at = jax.nn.one_hot(leaf, 2**depth)
            total = jnp.maximum(curvature @ at, 1e-6)
            return scores + RATE * ((gradient @ at) / total)[leaf], None

        start = jnp.full(x.shape[1], jnp.log(usual / (1 - usual)))
        return jax.nn.sigmoid(jax.lax.scan(grow, start, None, num_trees)[0])

    return jax.vmap(one_fold)(predictors, learned)


def _answers(
    x: Float[Array, "predictors examples"],
    gradient: Float[Array, " examples"],
    curvature: Float[Array, " examples"],
    node: Int[Array, " examples"],
    num_nodes: int,
) -> Int[Array, " examples"]:
    """For every example, its side of the best split of its node; 0 without a split."""
    at = jax.nn.one_hot(node, num_nodes)
    parts = jnp.concatenate([gradient[:, None] * at, curvature[:, None] * at], axis=1)
    on, both = x @ parts, parts.sum(0)
    g_on, h_on = on[:, :num_nodes], on[:, num_nodes:]
    g, h = both[:num_nodes], both[num_nodes:]
    g_off, h_off = g - g_on, h - h_on
    allowed = (h_on >= MIN_CURVATURE) & (h_off >= MIN_CURVATURE)
    gain = jnp.square(g_on) / h_on + jnp.square(g_off) / h_off - jnp.square(g) / h
    gain = jnp.where(allowed, gain, 0.0)
    best = jnp.argmax(gain, axis=0)
    found = jnp.take_along_axis(gain, best[None], axis=0)[0] > 0
    asked = jnp.take_along_axis(x[best], node[None], axis=0)[0]
    return (asked * found[node]).astype(jnp.int32)
