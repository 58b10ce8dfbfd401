"""What works on a public model: the columns of the conversion matrix.

A column is a function of a `Converted` model. It returns nothing if everything is as it
must be, raises an AssertionError if something is wrong, and lets a refusal through: an
error of the package that says why.
"""

import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles

import meanfield as mf
from meanfield.program.named_layers import layer_names
from meanfield.program.steps import trace
from meanfield.propagation.equation import UnsupportedPrimitiveError

KEY = jax.random.key(1)
GAUSSIAN = mf.Gaussian(scale=1.0)
# By so many examples eight-bit weights are judged; fewer are drawn many times.
EXAMPLES, FEW, DRAWS = 64, 2, 400


class Model(NamedTuple):
    """A public model.

    Attributes:
        model: what `from_model` takes.
        x: inputs for `EXAMPLES` examples.
        run: ``run(model, x)``, the outputs by the model's own framework.
        call: as for `from_model`.
    """

    model: Any
    x: Any
    run: Callable[[Any, Any], Any]
    call: Any = None


class Converted:
    """A public model with what several columns need, made once."""

    def __init__(self, row: Model):
        self.row, self.x = row, row.x
        self.ensemble = mf.Ensemble.from_model(
            row.model, call=row.call, example=jax.tree.map(lambda a: a[:FEW], row.x)
        )
        outputs = row.run(row.model, row.x)
        noise = np.random.default_rng(1).normal(size=outputs.shape)
        self.y = jnp.asarray(outputs + 0.3 * noise, outputs.dtype)

    @functools.cached_property
    def trained(self) -> mf.Ensemble:
        result = mf.fit(
            self.ensemble,
            (self.x, self.y),
            likelihood=GAUSSIAN,
            key=KEY,
            epochs=1,
            batch_size=16,
            progress=False,
            prior=None,
        )
        assert np.isfinite(result.history["nll"]).all()
        return result.ensemble

    @functools.cached_property
    def spread(self) -> mf.Ensemble:
        """The ensemble with spikes and slabs of a tenth of each weight."""
        return self.ensemble.with_weights(
            {
                name: mf.SpikeSlab(
                    jnp.full_like(w.slab_mean, 0.1),
                    w.slab_mean,
                    0.01 * jnp.square(w.slab_mean) + 1e-4,
                )
                for name, w in self.ensemble.weights().items()
            }
        )

    @functools.cached_property
    def drawn(self) -> Any:
        return self.trained.sample(KEY)


def equal(one: Converted) -> None:
    """With π = Ξ = 0 the ensemble gives the outputs of the model."""
    certain = one.ensemble.with_weights(
        {
            name: mf.SpikeSlab(
                jnp.zeros_like(w.slab_mean), w.slab_mean, jnp.zeros_like(w.slab_mean)
            )
            for name, w in one.ensemble.weights().items()
        }
    )
    close(certain(one.x, key=KEY), one.row.run(one.row.model, one.x))


def fit(one: Converted) -> None:
    """A few steps of training move the weights, and the loss is finite."""
    before, after = one.ensemble.weights(), one.trained.weights()
    assert any(bool((before[n].slab_mean != after[n].slab_mean).any()) for n in before)


def shipped(one: Converted) -> None:
    """A drawn network, run by its own framework, gives the outputs of the drawn
    parameters."""
    expected = one.trained.apply_fn(one.trained.sample_params(KEY), one.x)
    close(one.row.run(one.drawn, one.x), expected)


def weights(one: Converted) -> None:
    """Mean and variance with `noise="weights"` are those of drawn networks, within 5
    standard errors."""
    x = jax.tree.map(lambda a: a[:FEW], one.x)
    ensemble = one.spread.with_noise("weights")
    keys = jax.random.split(jax.random.key(2), 2 * DRAWS)

    @eqx.filter_jit
    def draw(ensemble: mf.Ensemble, keys: Any, shipped: bool) -> Any:
        network = ensemble.network

        def once(key: Any) -> Any:
            if shipped:
                return ensemble.apply_fn(ensemble.sample_params(key), x)
            return network(ensemble.params, x, key=key)

        return jax.lax.map(once, keys, batch_size=50)

    got = draw(ensemble, keys[:DRAWS], False)
    expected = draw(ensemble, keys[DRAWS:], True)
    assert bool(np.var(expected, axis=0).max() > 1e-8)
    oracles.assert_same_law(got, expected)


def moments(one: Converted) -> None:
    """Mean and variance in one pass are finite, and of the shape of the outputs."""
    found = one.trained.moments(one.x)
    assert found.mean.shape == found.var.shape == one.y.shape
    assert np.isfinite(found.mean).all()
    assert np.isfinite(found.var).all()


def labels(one: Converted) -> None:
    """Every connection has a label."""
    few = jax.tree.map(lambda a: a[:16], (one.x, one.y))
    found = mf.label_connections(one.trained, data=few, likelihood=GAUSSIAN, key=KEY)
    for part in found.fractions.values():
        assert abs(sum(part.values()) - 1) < 1e-6


def credit(one: Converted) -> None:
    """Values of all connections add up to the payoff minus that of the empty coalition.

    Where the payoff is too irregular for that, the check in the result must say so.
    """
    few = jax.tree.map(lambda a: a[:16], (one.x, one.y))
    found = mf.connection_values(one.trained, few, likelihood=GAUSSIAN, key=KEY)
    total = sum(float(jnp.sum(part)) for part in found.values.values())
    gained = found.payoff - found.empty_payoff
    added_up = abs(total - gained) <= 0.05 * max(1, abs(gained))
    if not added_up and found.check.verdict == "cannot tell":
        raise ValueError(
            f"the `check` of the values says 'cannot tell': they add up to "
            f"{total:.2g} instead of {gained:.2g}, standard error "
            f"{found.gap_error:.2g}."
        )
    assert added_up


def game(one: Converted) -> None:
    """Some layer's units are players, whose payoffs are finite."""
    few = jax.tree.map(lambda a: a[:16], (one.x, one.y))
    refusal = None
    x = jax.tree.map(lambda a: a[:FEW], one.x)
    program = trace(one.trained.apply_fn, one.trained.mean_params(), x)
    for layer in layer_names(program):
        try:
            played = mf.NeuronGame(one.trained, layer, few, likelihood=GAUSSIAN)
        except ValueError as error:
            refusal = error
            continue
        masks = np.ones((2, played.num_players), bool)
        masks[1] = False
        assert np.isfinite(played(masks)).all()
        return
    assert refusal is not None
    raise refusal


def exported(format: str) -> Callable[[Converted], None]:
    """A column: the drawn network in a file, loaded back, gives the same outputs."""

    def export(one: Converted) -> None:
        with tempfile.TemporaryDirectory() as folder:
            mf.deploy.export(
                one.drawn,
                Path(folder, "network"),
                probe=one.x,
                format=format,
                link="none",
                call=one.row.call,
            )

    return export


COLUMNS: dict[str, Callable[[Converted], None]] = {
    "π = Ξ = 0": equal,
    "drawn weights": weights,
    "fit": fit,
    "draw = shipped": shipped,
    "moments": moments,
    "labels": labels,
    "credit": credit,
    "game": game,
    "safetensors": exported("safetensors"),
    "numpy": exported("numpy"),
    "onnx": exported("onnx"),
    "onnx-int8": exported("onnx-int8"),
    "stablehlo": exported("stablehlo"),
}


def convert(row: Model) -> dict[str, str]:
    """By column, "yes", or why it is refused.

    Raises:
        AssertionError: something is wrong.
    """
    cells = {}
    one = Converted(row)
    for name, column in COLUMNS.items():
        try:
            column(one)
            cells[name] = "yes"
        except (ValueError, UnsupportedPrimitiveError) as error:
            # A refusal names what is refused; other errors are failures.
            if "`" not in str(error) and "changes an output" not in str(error):
                raise
            cells[name] = " ".join(str(error).split())
    return cells


def close(got: Any, expected: Any) -> None:
    scale = max(1.0, float(jnp.abs(expected).max()))
    np.testing.assert_allclose(got, expected, atol=2e-5 * scale)
