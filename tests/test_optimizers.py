import equinox as eqx
import jax
import numpy as np
import optax
import pytest

import meanfield as mf

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (16, 3))
Y = (X[:, 0] > 0).astype(int)


@pytest.fixture(scope="module")
def ensemble():
    network = eqx.nn.MLP(3, 2, 8, 1, key=KEY)
    return mf.Ensemble.from_model(network, key=jax.random.key(1))


def one_step(ensemble, factors):
    optimizer = optax.chain(optax.sgd(0.1), mf.learning.scale_steps(factors))
    result = mf.fit(
        ensemble,
        (X, Y),
        key=KEY,
        epochs=1,
        batch_size=16,
        optimizer=optimizer,
        parametrization=mf.learning.Unconstrained(),
        progress=False,
        prior=None,
    )
    return mf.learning.Unconstrained().encode(
        result.ensemble.weights()["layers/0/weight"]
    )


def moved(ensemble, factors):
    start = mf.learning.Unconstrained().encode(ensemble.weights()["layers/0/weight"])
    end = one_step(ensemble, factors)
    return {
        name: np.asarray(getattr(end, name)) - np.asarray(getattr(start, name))
        for name in ("spike_logit", "slab_mean", "log_slab_std")
    }


def test_named_numbers_step_by_their_factor_and_the_others_by_one(ensemble):
    plain = moved(ensemble, {})
    # Of two names that fit, the first counts.
    factors = {"weight/spike_logit": 3.0, "spike_logit": 9.0, "log_slab_std": 0.0}
    scaled = moved(ensemble, factors)
    assert np.abs(plain["spike_logit"]).max() > 1e-4
    np.testing.assert_allclose(
        scaled["spike_logit"], 3 * plain["spike_logit"], atol=2e-6
    )
    np.testing.assert_allclose(scaled["slab_mean"], plain["slab_mean"], atol=1e-7)
    np.testing.assert_allclose(scaled["log_slab_std"], 0, atol=1e-6)


def test_names_that_fit_nothing_and_negative_factors_are_refused(ensemble):
    with pytest.raises(
        ValueError, match=r"`factors` must be named by the end of a.*got 'logit'"
    ):
        one_step(ensemble, {"logit": 2.0})
    with pytest.raises(ValueError, match=r"`factors` must be finite numbers ≥ 0"):
        mf.learning.scale_steps({"slab_mean": -1.0})


def test_a_line_search_is_told_the_loss_at_other_places(ensemble):
    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=10)
    # Of parts of a batch too: the loss elsewhere is that of the same parts and draws.
    found = mf.fit(
        ensemble,
        (X, Y),
        key=KEY,
        epochs=12,
        batch_size=16,
        optimizer=optax.lbfgs(linesearch=search),
        accumulate=2,
        progress=False,
        prior=None,
    )
    assert found.history["nll"][-1] < 0.6 * found.history["nll"][0]


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            optax.chain(
                optax.clip(1.0), optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1))
            ),
            "got optax.contrib.sam, which increases it",
        ),
        (optax.MultiSteps(optax.adam(0.1), 2), r"its \.gradient_transformation\(\)"),
        (optax.lookahead(optax.adam(0.1), 5, 0.5), "`optimizer` cannot take a step"),
        (1e-2, "must be an Optax gradient transformation; got float 0.01"),
        (optax.adam, "must be an Optax gradient transformation; got function"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*")
def test_what_is_no_optimizer_of_a_loss_is_refused(ensemble, optimizer, message):
    with pytest.raises(ValueError, match=message):
        mf.fit(
            ensemble,
            (X, Y),
            key=KEY,
            epochs=1,
            batch_size=16,
            optimizer=optimizer,
            prior=None,
        )
