"""The noise: its distribution, its independence, and that XLA computes it once."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from meanfield.propagation.noise import _to_normal, fold_in, normal

NUMBER = 200_000


def draw(seed, shape=(NUMBER,), impl=None, dtype=jnp.float32):
    return np.asarray(normal(jax.random.key(seed, impl=impl), shape, dtype), np.float64)


def test_every_value_is_the_normal_quantile_of_its_uniform_number():
    words = np.linspace(0, 2**32 - 1, 300_001).astype(np.uint32)
    words = np.concatenate([words, np.arange(4096) << 8, 2**32 - 1 - np.arange(4096)])
    words = words.astype(np.uint32)
    uniform = (words >> 8) * 2.0**-23 + (2.0**-24 - 1)
    exact = math.sqrt(2) * special.erfinv(uniform)
    got = np.asarray(_to_normal(jnp.asarray(words)), np.float64)
    assert np.abs(got - exact).max() < 1e-4
    assert 5.3 < got.max() < 5.5


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_the_law_is_standard_normal(impl, seed):
    z = draw(seed, impl=impl)
    error = 1 / math.sqrt(NUMBER)
    for power, moment, var in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs((z**power).mean() - moment) < 5 * math.sqrt(var) * error
    assert stats.kstest(z, "norm").pvalue > 1e-6


def test_entries_keys_and_streams_do_not_know_of_one_another():
    error = 5 / math.sqrt(NUMBER)
    z = draw(0)
    for lag in (1, 2, 3, 64, 100, 128, 784, 65_536):
        assert abs(np.mean(z[lag:] * z[:-lag])) < error * 1.3
        assert abs(np.mean(z[lag:] ** 2 * z[:-lag] ** 2) - 1) < 8 * error * 1.3
    base = jax.random.key(0)
    streams = [z] + [
        np.asarray(normal(fold_in(base, n), (NUMBER,), jnp.float32), np.float64)
        for n in (0, 1, 2, 255, 2**30)
    ]
    streams += [draw(seed) for seed in (1, 2, 2**31 - 1)]
    correlation = np.corrcoef(streams) - np.eye(len(streams))
    assert np.abs(correlation).max() < error
    squares = np.corrcoef(np.square(streams)) - np.eye(len(streams))
    assert np.abs(squares).max() < error


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_folded_keys_are_all_different(impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), 50)
    fold = jax.vmap(jax.vmap(fold_in, (None, 0)), (0, None))
    folded = jax.random.key_data(fold(keys, jnp.arange(200)))
    assert len(np.unique(folded.reshape(10_000, -1), axis=0)) == 10_000
    again = fold_in(fold_in(keys[0], 1), 2)
    other = fold_in(fold_in(keys[0], 2), 1)
    assert (jax.random.key_data(again) != jax.random.key_data(other)).any()
    assert again.dtype == keys.dtype


def test_raw_keys_and_typed_keys_draw_alike():
    typed, raw = jax.random.key(5), jax.random.PRNGKey(5)
    np.testing.assert_array_equal(
        normal(fold_in(typed, 3), (7,), jnp.float32),
        normal(fold_in(raw, 3), (7,), jnp.float32),
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_has_the_same_noise_rounded(dtype):
    z = normal(jax.random.key(0), (64,), dtype)
    assert z.dtype == dtype
    whole = normal(jax.random.key(0), (64,), jnp.float32)
    np.testing.assert_array_equal(z, whole.astype(dtype))
