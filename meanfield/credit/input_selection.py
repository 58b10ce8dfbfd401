r"""Select the inputs that matter given all others, at a given false discovery rate.

Input j does not matter if y is independent of x_j given the other inputs. Then x_j can
be replaced by a value x̃_j drawn from its conditional distribution given the other
inputs, independently of y: for every network

    d_i = ℓ(y_i, f(x_i with x̃_ij)) − ℓ(y_i, f(x_i)),        E d_i = 0,

with ℓ the negative log-likelihood, on examples that were not used for training. The
mean of d is the credit of the input, in nats per example. A one-sided t-test of this
mean gives a p-value. Benjamini and Hochberg's step-up rule selects inputs so that the
expected fraction of false selections is at most q if the tests are independent or
positively dependent. This holds for any network; a poor network selects few inputs.

If the inputs are jointly normal, x̃_j has this distribution: exactly with at least five
times as many examples as inputs, approximately with fewer (see `conditional`). For
inputs far from normal, such as zeros and ones, the rate is not guaranteed.

Cross-fitting uses every example for both training and testing: each of several
ensembles is trained without one part of the examples, and d is computed on this part.
As E d = 0 holds on each part, one test uses all parts together.

References:
    Watson & Wright 2021, Machine Learning 110:2107 (conditional predictive impact).
    Candès, Fan, Janson & Lv 2018, JRSS B 80:551. Benjamini & Hochberg 1995.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray
from scipy import stats

from meanfield.checks import require, require_whole
from meanfield.ensemble.ensemble import Ensemble
from meanfield.keys import numpy_generator
from meanfield.learning.batches import array_pair, check_batch
from meanfield.learning.likelihoods import Categorical
from meanfield.learning.targets import log_prob

from .conditional import conditional_draws

LEAST_EXAMPLES = 20


@dataclasses.dataclass(frozen=True)
class InputSelection:
    """The result of `select_inputs`.

    Attributes:
        selected: mask of the inputs that matter.
        p_values: p-value of every input, for the hypothesis that it does not matter.
        credits: increase of the loss without the information that only this input has,
            in nats per example.
        standard_errors: standard errors of the credits.
        fdr: q, largest expected fraction of false selections.
        num_examples: number of examples of the test.
    """

    selected: Bool[np.ndarray, " inputs"]
    p_values: Float[np.ndarray, " inputs"]
    credits: Float[np.ndarray, " inputs"]
    standard_errors: Float[np.ndarray, " inputs"]
    fdr: float
    num_examples: int


def select_inputs(
    ensemble: Ensemble | Sequence[Ensemble],
    data: tuple[Any, Any] | Sequence[tuple[Any, Any]],
    *,
    fdr: float = 0.1,
    key: PRNGKeyArray,
    likelihood: Any = Categorical(),  # noqa: B008  (frozen)
    num_samples: int = 8,
) -> InputSelection:
    r"""Select the inputs that matter, with false discovery rate at most `fdr`.

        d_ij = ℓ(y_i, f(x_i with x̃_ij)) − ℓ(y_i, f(x_i)),   x̃_ij ~ P(x_j | the others)

    Args:
        ensemble: a trained ensemble; its network of posterior means is f. Or several,
            for cross-fitting.
        data: inputs x (examples, inputs) and targets that were not used for training;
            for several ensembles, one such pair for each of them, in the same order, of
            examples that it has not learned from.
        fdr: q in (0, 1), largest expected fraction of false selections.
        key: a `jax.random.key`, for x̃.
        likelihood: likelihood of the targets; `Categorical()` by default.
        num_samples: draws of x̃ for each example and input.

    Returns:
        An `InputSelection`; no input is selected if none differs from chance.

    Raises:
        ValueError: `fdr` out of range, inputs that are not a table of at least 20
            examples, or data that do not fit.

    Example:
        >>> import jax, jax.numpy as jnp, meanfield as mf
        >>> network = lambda params, x: x @ params["w"]
        >>> ensemble = mf.Ensemble.from_model(
        ...     (network, {"w": jnp.array([[0.0, 3.0], [0.0, 0.1]])}),
        ...     initial=lambda name, w, *_: mf.SpikeSlab(0 * w, w, 0 * w),
        ...     key=jax.random.key(0))
        >>> x = jax.random.normal(jax.random.key(1), (200, 2))
        >>> y = (x[:, 0] > 0).astype(int)
        >>> found = mf.credit.select_inputs(ensemble, (x, y), key=jax.random.key(2))
        >>> found.selected.tolist()
        [True, False]

    References:
        Watson & Wright 2021, Testing conditional independence in supervised learning
        algorithms, Machine Learning 110:2107.
    """
    number = np.ndim(fdr) == 0 and np.asarray(fdr).dtype.kind in "iuf"
    require(
        number and 0 < fdr < 1, f"`fdr` must lie strictly between 0 and 1; got {fdr!r}."
    )
    require_whole("num_samples", num_samples)
    require(num_samples >= 1, f"`num_samples` must be at least 1; got {num_samples}.")
    pairs = _pairs(ensemble, data)
    ends = np.cumsum([len(x) for _, x, _ in pairs])
    examples = int(ends[-1])
    require(
        examples >= LEAST_EXAMPLES,
        f"`data` must have at least {LEAST_EXAMPLES} examples for a test; got "
        f"{examples}.",
    )
    for own, x, y in pairs:
        check_batch(own, likelihood, x, y)
    table = np.concatenate([np.asarray(x, np.float64) for _, x, _ in pairs])
    whole = [_losses(own, likelihood, x, y) for own, x, y in pairs]
    differences = np.zeros(table.shape[::-1])
    draws = conditional_draws(table, num_samples, numpy_generator(key))
    for number, drawn in enumerate(draws):
        rows = np.split(drawn, ends[:-1], axis=1)
        for part, (own, x, y) in enumerate(pairs):
            columns = jnp.asarray(rows[part], x.dtype)
            place = jnp.asarray(number)
            found = _differences(own, likelihood, x, y, whole[part], place, columns)
            differences[number, ends[part] - len(x) : ends[part]] = found
    credits = differences.mean(1)
    errors = differences.std(1, ddof=1) / np.sqrt(examples)
    ratios = np.divide(credits, errors, out=np.zeros_like(credits), where=errors > 0)
    p_values = np.where(errors > 0, stats.t.sf(ratios, examples - 1), 1.0)
    return InputSelection(
        step_up(p_values, fdr), p_values, credits, errors, fdr, examples
    )


def _pairs(ensemble: Any, data: Any) -> list[tuple[Ensemble, Any, Any]]:
    """Every ensemble with its inputs and targets."""
    if isinstance(ensemble, Ensemble):
        ensemble, data = [ensemble], [data]
    require(
        len(ensemble) == len(data) >= 1,
        "`data` must hold a pair (x, y) for each of several ensembles; got "
        f"{len(data)} for {len(ensemble)}.",
    )
    pairs = [(one, *array_pair(part)) for one, part in zip(ensemble, data, strict=True)]
    for _, x, _ in pairs:
        require(
            isinstance(x, jax.Array) and x.ndim == 2,
            "`data` must hold a table of inputs (examples, inputs); got "
            f"{jax.tree.map(jnp.shape, x)}. Pass an ensemble of a network that takes a "
            "table: x.reshape(len(x), -1) of images, several inputs side by side.",
        )
    widths = sorted({x.shape[1] for _, x, _ in pairs})
    require(
        len(widths) == 1,
        f"`data` must have the same inputs in all its parts; got {widths} inputs.",
    )
    # Integer inputs become real too, because the values drawn for them are real.
    kind = jnp.result_type(float)
    return [
        (own, x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(kind), y)
        for own, x, y in pairs
    ]


def step_up(
    p_values: Float[np.ndarray, " tests"], fdr: float
) -> Bool[np.ndarray, " tests"]:
    """Benjamini and Hochberg's rule: reject the k smallest, k = max {i: p_(i) ≤ q i/m}.

    Args:
        p_values: p-values of m hypotheses.
        fdr: q.

    Returns:
        Mask of the rejected hypotheses.
    """
    order = np.sort(p_values)
    count = len(order)
    below = np.flatnonzero(order <= fdr * np.arange(1, count + 1) / count)
    return p_values <= (order[below[-1]] if below.size else -1.0)


@eqx.filter_jit
def _losses(
    ensemble: Ensemble, likelihood: Any, x: Float[Array, "examples inputs"], y: Any
) -> Float[Array, " examples"]:
    """Loss of every example by the network of posterior means."""
    found = log_prob(likelihood, ensemble.apply_fn(ensemble.mean_params(), x), y)
    return -found.reshape(found.shape[0], -1).sum(1)


@eqx.filter_jit
def _differences(
    ensemble: Ensemble,
    likelihood: Any,
    x: Float[Array, "examples inputs"],
    y: Any,
    whole: Float[Array, " examples"],
    number: Int[Array, ""],
    columns: Float[Array, "samples examples"],
) -> Float[Array, " examples"]:
    """d of every example for one input, averaged over the columns drawn for it."""

    def drawn(column: Float[Array, " examples"]) -> Float[Array, " examples"]:
        changed = x.at[:, number].set(column)
        return _losses(ensemble, likelihood, changed, y) - whole

    return lax.map(drawn, columns).mean(0)
