"""The state of a model through `fit`: resumed, in parts, early, broken, refused."""

import functools
import warnings

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from training_networks import KEY, X, Y, model, numbers, trained_by_hand

import meanfield as mf

SETTINGS = {"key": KEY, "prior": None, "progress": False}


def same(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if not jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)


def test_a_run_that_is_resumed_has_the_state_of_one_that_was_not(tmp_path):
    ensemble = mf.Ensemble.from_model(model("nnx", 0.3), key=KEY)
    states = []
    settings = {
        **SETTINGS,
        "epochs": 5,
        "batch_size": 12,
        "optimizer": optax.sgd(0.5),
        "validation": (X + 1, Y),
        "patience": 5,
    }
    keep = lambda report: states.append(report.ensemble.state())
    whole = mf.fit(ensemble, (X, Y), callbacks=[keep], **settings)
    stop = lambda report: report.epoch == 2
    for callbacks in ([stop], []):
        again = mf.fit(
            ensemble, (X, Y), callbacks=callbacks, checkpoint=tmp_path, **settings
        )
    same(again.ensemble, whole.ensemble)
    best = int(np.argmin(whole.history["val_nll"]))
    same(whole.ensemble.state(), states[best])
    if best < 4:
        assert any((a != states[4][n]).any() for n, a in states[best].items())


def test_parts_of_a_batch_move_the_state_one_after_the_other():
    point = mf.Ensemble.from_points(model("nnx"))
    result = mf.fit(
        point, [(X, Y)], epochs=1, accumulate=2, optimizer=optax.sgd(0.0), **SETTINGS
    )
    parts = [(X[::2], Y[::2]), (X[1::2], Y[1::2])]
    expected = trained_by_hand("nnx", model("nnx"), parts, rate=0.0)
    found = result.ensemble.mean_network()
    for one, other in zip(numbers("nnx", found), numbers("nnx", expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_loss_that_breaks_keeps_the_last_good_state():
    point = mf.Ensemble.from_points(model("nnx"))
    with pytest.raises(mf.learning.NonFiniteLossError) as error:
        mf.fit(
            point,
            (X, Y),
            epochs=5,
            optimizer=optax.sgd(1e30),
            batch_size=24,
            **SETTINGS,
        )
    for array in error.value.result.ensemble.state().values():
        assert np.isfinite(array).all()


def test_statistics_stay_float32_where_the_network_computes_in_bfloat16():
    ensemble = mf.Ensemble.from_model(model("nnx"), key=KEY)
    result = mf.fit(
        ensemble, (X, Y), epochs=2, batch_size=12, compute_dtype="bfloat16", **SETTINGS
    )
    for name, array in ensemble.state().items():
        assert result.ensemble.state()[name].dtype == array.dtype


def looped(params, x):
    def step(h, t):
        return jnp.tanh(h.astype(t.dtype) + t @ params), None

    return jax.lax.scan(step, jnp.zeros((len(x), 3), jnp.float32), x[None])[0]


def averaging():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Its default mode is deprecated.
        norm = eqx.nn.BatchNorm(3, "batch", mode="ema")
    return eqx.nn.Sequential([eqx.nn.Linear(4, 3, key=KEY), norm])


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("kind", ["loop", "state"])
def test_a_network_that_mixes_types_is_not_computed_in_bfloat16(kind, batches):
    if kind == "loop":
        network = (looped, jax.random.normal(KEY, (4, 3)))
    else:
        network = eqx.nn.make_with_state(averaging)()
    ensemble = mf.Ensemble.from_model(network, key=KEY)
    data = [(X, Y)] if batches else (X, Y)
    with pytest.raises(ValueError, match="`compute_dtype` must be a type in which"):
        mf.fit(ensemble, data, batch_size=12, compute_dtype="bfloat16", **SETTINGS)


class Growing(nnx.Module):
    def __init__(self):
        self.layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        self.seen = nnx.Variable(jnp.zeros((0, 4)))

    def __call__(self, x):
        self.seen.set_value(jnp.concatenate([self.seen.get_value(), x]))
        return self.layer(x)


class LinenGrowing(linen.Module):
    @linen.compact
    def __call__(self, x):
        seen = self.variable("seen", "rows", lambda: jnp.zeros((0, 4)))
        if self.is_mutable_collection("seen") and not self.is_initializing():
            seen.value = jnp.concatenate([seen.value, x])
        return linen.Dense(3)(x)


def linen_growing():
    net = LinenGrowing()
    return net, net.init(KEY, X)


@pytest.mark.parametrize(("make", "name"), [(Growing, "seen"), (linen_growing, "rows")])
def test_a_state_that_changes_its_shape_is_refused_by_name(make, name):
    ensemble = mf.Ensemble.from_model(make())
    with pytest.raises(
        ValueError,
        match=rf"`model` must keep the shapes.*{name}': 'float32\[0, 4\] to "
        r"float32\[24, 4\].*Give the state its final shape",
    ):
        mf.fit(ensemble, (X, Y), batch_size=12, **SETTINGS)


class Drops(eqx.Module):
    """A network that draws in every mode, or as its dropout says."""

    layer: eqx.nn.Linear
    drop: eqx.nn.Dropout
    always: bool = eqx.field(static=True, default=False)

    def __call__(self, x, key):
        x = self.drop(self.layer(x), key=key)
        return x + jax.random.normal(key, x.shape) if self.always else x


def test_an_equinox_module_gets_a_key_for_every_example():
    net = Drops(eqx.nn.Linear(4, 3, key=KEY), eqx.nn.Dropout(0.5))
    point = mf.Ensemble.from_points(net)
    assert point.training is not None
    masked, state = point.training(point.params, X, KEY)
    whole = jax.vmap(net.layer)(X)
    # Compiled and not compiled: equal but for rounding.
    np.testing.assert_allclose(point(X, key=KEY), whole, rtol=1e-5, atol=1e-6)
    kept = np.asarray(masked != 0)
    np.testing.assert_allclose(masked, 2 * kept * whole, rtol=1e-5, atol=1e-6)
    assert 0.2 < kept.mean() < 0.8
    assert len(np.unique(kept, axis=0)) > 1
    assert state == {}
    call = lambda module, x, key: module(x, key)
    called = mf.Ensemble.from_points(net, call=call)
    assert called.training is not None
    np.testing.assert_array_equal(called.training(net, X, KEY)[0], masked)
    loud = mf.Ensemble.from_points(Drops(net.layer, net.drop, always=True))
    with pytest.raises(ValueError, match="must not draw random numbers in inference"):
        loud(X, key=KEY)


def test_layers_with_different_names_of_the_batch_axis_are_refused():
    class Two(eqx.Module):
        one: eqx.nn.BatchNorm
        two: eqx.nn.BatchNorm

        def __init__(self):
            self.one = eqx.nn.BatchNorm(4, "a", mode="batch")
            self.two = eqx.nn.BatchNorm(4, "b", mode="batch")

    with pytest.raises(ValueError, match=r"one name of the batch axis.*\['a', 'b'\]"):
        mf.Ensemble.from_points(eqx.nn.make_with_state(Two)())


class LinenField(linen.Module):
    train: bool | None = None

    @linen.compact
    def __call__(self, x):
        return linen.Dense(3)(linen.Dropout(0.5, deterministic=not self.train)(x))


def test_the_mode_of_a_linen_module_may_be_a_field():
    variables = LinenField(train=False).init(KEY, X)
    for train in (None, True, False):
        ensemble = mf.Ensemble.from_points((LinenField(train=train), variables))
        assert (ensemble.training is None) == (train is False)
        net, own = ensemble.sample(KEY)
        np.testing.assert_allclose(
            ensemble(X, key=KEY), net.apply(own, X), rtol=1e-5, atol=1e-6
        )


class LinenFixed(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dropout(0.5, deterministic=False)(linen.Dense(3)(x))


def test_a_mode_that_cannot_be_set_is_refused_with_the_way_out():
    net = LinenFixed()
    variables = net.init({"params": KEY, "dropout": KEY}, X)
    ensemble = mf.Ensemble.from_points((net, variables))
    with pytest.raises(ValueError, match=r"in inference mode: .*dropout.* `train`"):
        ensemble(X, key=KEY)


def test_functions_have_two_modes_too():
    def infer(params, x):
        return (x - params["state"]["mean"]) @ params["weight"]

    def train(params, x, key):
        mean = 0.9 * params["state"]["mean"] + 0.1 * x.mean(0)
        return (x - x.mean(0)) @ params["weight"], {"state": {"mean": mean}}

    params = {"weight": jnp.ones((4, 3)), "state": {"mean": jnp.zeros(4)}}
    modes = mf.ensemble.Modes(infer, train, state=("state",))
    result = mf.fit(
        mf.Ensemble.from_model((modes, params)), [(X, Y)], epochs=3, **SETTINGS
    )
    expected = (1 - 0.9**3) * X.mean(0)
    np.testing.assert_allclose(
        result.ensemble.state()["state/mean"], expected, rtol=1e-5
    )
    again = mf.ensemble.estimate_statistics(
        result.ensemble.sample(KEY), X, key=KEY, batch_size=24, num_steps=200
    )
    np.testing.assert_allclose(again[1]["state"]["mean"], X.mean(0), rtol=1e-5)


def evaluation(net):
    net.eval()
    return net


@pytest.mark.parametrize(
    "make",
    [
        lambda: eqx.nn.MLP(4, 3, 8, 1, key=KEY),
        lambda: eqx.nn.MultiheadAttention(2, 4, key=KEY),
        lambda: evaluation(model("nnx", 0.5)),
        lambda: eqx.nn.inference_mode(model("equinox", 0.5)),
        lambda: nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0)),
        lambda: (linen.Dense(3), linen.Dense(3).init(KEY, X)),
    ],
)
def test_a_model_without_a_training_mode_has_none(make):
    ensemble = mf.Ensemble.from_points(make())
    assert ensemble.training is None
    with pytest.raises(ValueError, match="must have a state that a call in training"):
        mf.ensemble.estimate_statistics(ensemble, X, key=KEY)


def test_numbers_of_steps_that_cannot_be_are_refused():
    ensemble = mf.Ensemble.from_points(model("nnx"))
    estimate = functools.partial(mf.ensemble.estimate_statistics, ensemble, X, key=KEY)
    with pytest.raises(ValueError, match="`batch_size` must not exceed the number of"):
        estimate(batch_size=25)
    with pytest.raises(ValueError, match="`num_steps` must be at least 1; got 0"):
        estimate(batch_size=8, num_steps=0)
