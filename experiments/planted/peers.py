r"""Other methods: a point network, gates learned under an L0 penalty, and LassoNet.

gates: every weight is w z with a hard concrete gate z (Louizos, Welling & Kingma 2018,
arXiv:1712.01312), written out here:

    z = clip(s (ζ − γ) + γ, 0, 1),   s = σ((ln u − ln(1 − u) + ln α) / β),  u ~ U(0, 1)
    loss = mean NLL + c Σ P(z > 0) / n,     P(z > 0) = σ(ln α − β ln(−γ / ζ))

with β = 2/3, γ = −0.1, ζ = 1.1. The price c is the highest whose loss on a held-out
fifth of the examples is within one standard error of the best. Gates take larger steps
than weights, as our spike logits do. A point network is the same without gates and
price.

LassoNet (Lemhadri, Ruan, Abraham & Tibshirani 2021) selects inputs by a penalty on
their skip connections; it runs where its package is installed.
"""

import importlib.util
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import meanfield as mf
from meanfield.learning.targets import log_prob
from meanfield.trees import map_named

BETA, GAMMA, ZETA = 2 / 3, -0.1, 1.1
PRICES, BATCH, STEP_SIZE = (1.0, 5.0, 25.0), 128, 5e-3
HELD, FASTER = 0.2, 10.0


def gate(log_alpha: Any, noise: Any) -> Any:
    """A gate from its parameter and logistic noise; without noise at test time."""
    scale = BETA if noise is not None else 1.0
    s = jax.nn.sigmoid((log_alpha + (0.0 if noise is None else noise)) / scale)
    return jnp.clip(s * (ZETA - GAMMA) + GAMMA, 0, 1)


def open_probs(log_alpha: Any) -> Any:
    """P(z > 0)."""
    return jax.nn.sigmoid(log_alpha - BETA * np.log(-GAMMA / ZETA))


def learn_gated(
    ensemble: mf.Ensemble,
    likelihood: Any,
    data: Any,
    price: float | None,
    steps: int,
    key: Any,
) -> tuple[Any, dict]:
    """Learn weights and gates by Adam.

    Args:
        ensemble: an untrained ensemble; its slab means are the start.
        likelihood: of the targets.
        data: inputs and targets.
        price: the price c; None for a point network.
        steps: number of Adam's steps.
        key: a `jax.random.key`.

    Returns:
        All parameters, with the gates in the weights, and P(z > 0) by path name.
    """
    start = {name: w.slab_mean for name, w in ensemble.weights().items()}
    params, rest = eqx.partition(
        ensemble.with_weights(start).params, eqx.is_inexact_array
    )
    x, y = map(jnp.asarray, data)
    batch = min(BATCH, len(x))
    optimizer = optax.adam(optax.cosine_decay_schedule(STEP_SIZE, steps))

    def gated(params: Any, alphas: Any, key: Any) -> Any:
        """The weights times their gates, which are drawn if there is a key."""
        gates = {}
        for number, (name, alpha) in enumerate(alphas.items()):
            own = None if key is None else jax.random.fold_in(key, number)
            noise = None if own is None else jax.random.logistic(own, alpha.shape)
            gates[name] = gate(alpha, noise)
        whole = eqx.combine(params, rest)
        return map_named(lambda n, leaf: leaf * gates[n] if n in gates else leaf, whole)

    def loss(learned: Any, rows: Any, key: Any) -> Any:
        outputs = ensemble.apply_fn(gated(*learned, key), x[rows])
        found = -log_prob(likelihood, outputs, y[rows]).sum() / batch
        there = [open_probs(alpha).sum() for alpha in learned[1].values()]
        return found + (price or 0.0) * sum(there) / len(x)

    def step(carry: Any, key: Any) -> Any:
        learned, state = carry
        rows = jax.random.randint(jax.random.fold_in(key, 0), (batch,), 0, len(x))
        found = jax.grad(loss)(learned, rows, jax.random.fold_in(key, 1))
        (moves, opens), state = optimizer.update(found, state)
        updates = moves, jax.tree.map(lambda part: FASTER * part, opens)
        return (optax.apply_updates(learned, updates), state), None

    @jax.jit
    def run(learned: Any) -> Any:
        keys = jax.random.split(key, steps)
        (learned, _), _ = jax.lax.scan(step, (learned, optimizer.init(learned)), keys)
        return learned

    alphas = (
        {} if price is None else {n: jnp.full(w.shape, 2.0) for n, w in start.items()}
    )
    params, alphas = run((params, alphas))
    there = {name: np.asarray(open_probs(alpha)) for name, alpha in alphas.items()}
    return gated(params, alphas, None), there


def losses(ensemble: mf.Ensemble, likelihood: Any, params: Any, data: Any) -> Any:
    """The loss of every example."""
    found = log_prob(likelihood, ensemble.apply_fn(params, data[0]), data[1])
    return -np.asarray(found, np.float64)


def hard_concrete(
    ensemble: mf.Ensemble, likelihood: Any, data: Any, steps: int, key: Any
) -> tuple[Any, dict]:
    """As `learn_gated`, at the price chosen on a fifth of the examples."""
    count = int(HELD * len(data[0]))
    held = jax.tree.map(lambda part: part[:count], data)
    rest = jax.tree.map(lambda part: part[count:], data)
    tried = []
    for price in PRICES:
        params, _ = learn_gated(ensemble, likelihood, rest, price, steps, key)
        tried.append(losses(ensemble, likelihood, params, held))
    best = tried[int(np.argmin([part.mean() for part in tried]))]
    fine = [
        price
        for price, part in zip(PRICES, tried, strict=True)
        if (part - best).mean() <= (part - best).std() / count**0.5
    ]
    return learn_gated(ensemble, likelihood, data, max(fine), steps, key)


def lasso_net(data: Any, classes: bool, seed: int) -> np.ndarray | None:
    """Inputs that LassoNet keeps at its least validation loss; None without LassoNet.

    The defaults are used, except that the penalty grows by a factor of 1.3 instead of
    1.02 per step, which needs 13 times fewer steps.
    """
    if importlib.util.find_spec("lassonet") is None:
        return None
    from lassonet import LassoNetClassifier, LassoNetRegressor

    x, y = np.asarray(data[0]), np.asarray(data[1]).ravel()
    model = (LassoNetClassifier if classes else LassoNetRegressor)(
        path_multiplier=1.3, verbose=0, random_state=seed, torch_seed=seed
    )
    path = model.path(x, y)
    best = min(path, key=lambda item: item.val_loss)
    return np.asarray(best.selected, bool)
