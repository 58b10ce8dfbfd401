"""Selection of inputs: its rate of false discoveries, its power, its limits."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import meanfield as mf
from meanfield.credit.conditional import conditional_draws
from meanfield.credit.input_selection import step_up

KEY = jax.random.key(0)
INPUTS, TRUE, EXAMPLES = 30, 8, 300


def linear(params, x):
    return x @ params["w"]


def fixed(w):
    """An ensemble without uncertainty whose logit is w · x; one program for all."""
    return mf.Ensemble.from_model(
        (linear, {"w": jnp.asarray(w, jnp.float32)[:, None]}),
        initial=lambda name, w, *_: mf.SpikeSlab(0 * w, w, 0 * w),
        key=KEY,
    )


def planted(rng, correlation=0.6):
    """Inputs of which neighbours are alike, labels of the first few alone."""
    x = rng.normal(size=(EXAMPLES, INPUTS))
    for j in range(1, INPUTS):
        x[:, j] = correlation * x[:, j - 1] + np.sqrt(1 - correlation**2) * x[:, j]
    order = rng.permutation(INPUTS)
    true = np.isin(np.arange(INPUTS), order[:TRUE])
    slope = true * rng.choice([-1.5, 1.5], INPUTS)
    y = rng.random(EXAMPLES) < 1 / (1 + np.exp(-x @ slope))
    return x.astype(np.float32), y[:, None].astype(int), true, slope


def test_false_discoveries_keep_their_rate_and_power_is_above_chance():
    """The network is wrong about every input that does not matter."""
    rng = np.random.default_rng(0)
    false, power, chance = [], [], []
    for repetition in range(100):
        x, y, true, slope = planted(rng)
        ensemble = fixed(slope + 0.7 * rng.normal(size=INPUTS))
        found = mf.credit.select_inputs(
            ensemble,
            (x, y),
            fdr=0.1,
            key=jax.random.key(repetition),
            likelihood=mf.Bernoulli(),
            num_samples=2,
        )
        count = found.selected.sum()
        false.append((found.selected & ~true).sum() / max(count, 1))
        power.append((found.selected & true).sum() / TRUE)
        chance.append(count / INPUTS)
    assert np.mean(false) <= 0.1 + 2 * np.std(false) / 10
    assert np.mean(power) > np.mean(chance) + 5 * np.std(power) / 10
    assert np.mean(power) > 0.5


def test_parts_judged_by_their_own_networks_are_one_test():
    """Cross-fitting with equal networks is the test of all examples by that network."""
    rng = np.random.default_rng(4)
    x, y, _, slope = planted(rng)
    wrong = fixed(slope + 0.7 * rng.normal(size=INPUTS))
    again = fixed(slope + 0.7 * rng.normal(size=INPUTS))
    parts = [(x[:200], y[:200]), (x[200:], y[200:])]
    settings = {"key": KEY, "likelihood": mf.Bernoulli(), "num_samples": 40}
    together = mf.credit.select_inputs([wrong, wrong], parts, **settings)
    whole = mf.credit.select_inputs(wrong, (x, y), **settings)
    assert together.num_examples == EXAMPLES
    scale = whole.standard_errors
    assert np.abs((together.credits - whole.credits) / scale).max() < 1
    mixed = mf.credit.select_inputs([wrong, again], parts, **settings)
    second = mf.credit.select_inputs(again, parts[1], **settings)
    first = mf.credit.select_inputs(wrong, parts[0], **settings)
    expected = (200 * first.credits + 100 * second.credits) / EXAMPLES
    # The conditional distributions are those of all examples, or of the part alone.
    assert np.abs((mixed.credits - expected) / mixed.standard_errors).max() < 2
    with pytest.raises(ValueError, match="a pair .* for each of several ensembles"):
        mf.credit.select_inputs([wrong, again], parts[:1], **settings)


def test_an_input_that_only_resembles_one_that_matters_is_not_selected():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(2000, 3))
    x[:, 1] = 0.9 * x[:, 0] + np.sqrt(0.19) * x[:, 1]
    y = (x[:, :1] + 0.5 * rng.normal(size=(2000, 1)) > 0).astype(int)
    found = mf.credit.select_inputs(
        fixed([2.0, 2.0, 0.0]), (x, y), key=KEY, likelihood=mf.Bernoulli()
    )
    assert found.selected.tolist() == [True, False, False]
    # What the network does not read has no credit at all.
    assert found.credits[2] == 0
    assert found.p_values[2] == 1


@pytest.mark.parametrize("inputs", [6, 200])
def test_an_input_read_in_place_of_the_one_that_matters_is_not_selected(inputs):
    """The network is wrong altogether: it reads only what resembles the true input."""
    false = np.zeros(60, bool)
    for repetition in range(len(false)):
        rng = np.random.default_rng(repetition)
        x = rng.normal(size=(300, inputs))
        x[:, 0] = 0.8 * x[:, 1] + 0.6 * x[:, 0]
        y = 3 * x[:, 1] + rng.logistic(size=300) > 0

        def losses(x, y=y):
            return np.logaddexp(0, np.where(y, -3, 3) * x[:, 0])

        draws = next(conditional_draws(x, 4, rng))
        found = [losses(draw[:, None]) - losses(x) for draw in draws]
        test: Any = stats.ttest_1samp(np.mean(found, 0), 0, alternative="greater")
        false[repetition] = test.pvalue < 0.05
    assert false.mean() <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / len(false))


def test_draws_have_the_covariances_of_the_sample_with_the_other_inputs():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3)) + 3
    for j, draws in enumerate(conditional_draws(x, 2000, rng)):
        others = np.column_stack([np.delete(x, j, 1), np.ones(60)])
        for draw in draws[:3]:
            np.testing.assert_allclose(others.T @ draw, others.T @ x[:, j], rtol=1e-9)
            np.testing.assert_allclose((draw**2).sum(), (x[:, j] ** 2).sum())
        fit = others @ np.linalg.lstsq(others, x[:, j], rcond=None)[0]
        error = draws.std(0) / 2000**0.5
        assert (np.abs(draws.mean(0) - fit) < 5 * error).all()


@pytest.mark.parametrize("kind", ["constant", "duplicate", "categories"])
@pytest.mark.parametrize("inputs", [4, 20])
def test_an_input_that_the_others_determine_stays_as_it_is(kind, inputs):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(50, inputs))
    stays = {"constant": [1], "duplicate": [1, 3], "categories": [0, 1, 2]}[kind]
    with contextlib.ExitStack() as stack:
        if kind == "constant":
            x[:, 1] = 7
        elif kind == "duplicate":
            x[:, 3] = x[:, 1]
        else:
            x[:, :3] = np.eye(3)[np.argmax(x[:, :3], 1)]
        if kind != "constant":
            stack.enter_context(pytest.warns(UserWarning, match="are determined by"))
        found = [draws[0] for draws in conditional_draws(x, 1, rng)]
    same = [bool((found[j] == x[:, j]).all()) for j in range(inputs)]
    assert np.flatnonzero(same).tolist() == stays


def test_whole_numbers_are_inputs_too():
    rng = np.random.default_rng(6)
    x = rng.integers(-9, 9, (300, 2))
    y = (x[:, :1] > 0).astype(int)
    settings = {"key": KEY, "likelihood": mf.Bernoulli()}
    found = mf.credit.select_inputs(fixed([2.0, 0.0]), (x, y), **settings)
    assert found.selected.tolist() == [True, False]


@pytest.mark.parametrize("fdr", [0.05, 0.2, 0.6])
def test_the_step_up_rule_is_that_of_its_definition(fdr):
    for seed in range(20):
        p = np.random.default_rng(seed).random(9) ** 3
        slow = np.zeros(9, bool)
        for k in range(1, 10):
            largest = np.sort(p)[k - 1]
            if largest <= fdr * k / 9:
                slow = p <= largest
        assert (step_up(p, fdr) == slow).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fdr": 0.0}, "`fdr` must lie strictly between 0 and 1; got 0.0"),
        ({"fdr": 1.0}, "`fdr` must lie strictly between 0 and 1"),
        ({"num_samples": 0}, "`num_samples` must be at least 1"),
        ({"data": (np.zeros((9, 2)), np.zeros((9, 1), int))}, "at least 20 examples"),
        ({"data": (np.zeros((30, 2, 2)), np.zeros((30, 1)))}, "a table of inputs"),
    ],
)
def test_bad_input_is_refused(change, message):
    rng = np.random.default_rng(4)
    data = rng.normal(size=(30, 2)), rng.integers(0, 2, (30, 1))
    settings = {"data": data, "key": KEY, "likelihood": mf.Bernoulli()} | change
    with pytest.raises(ValueError, match=message):
        mf.credit.select_inputs(fixed([1.0, 0.0]), **settings)
