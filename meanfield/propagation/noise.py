"""Standard normal noise that is fast enough for a training step.

`jax.random.normal` is exact and slow: on two CPU cores it takes a third as long as the
whole training step of a small network. Here a counter is hashed with the two words of
the key, and the result is made normal by a ratio of polynomials:

    u = uniform on (−1, 1) in steps of 2⁻²³,   w = −log₂(1 − u²),   ε = u P₃(w) / Q₃(w)

P₃/Q₃ is the minimax fit to √2 erf⁻¹(u)/u. The error of ε is below 1e-4 everywhere, and
the largest |ε| is 5.4. Equal keys give equal noise on every platform and sharding.

The division comes last on purpose: XLA computes a cheap operation again for every use
of its result, but a division only once. Noise is used four times in a step.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PRNGKeyArray

GOLDEN_RATIO = 0x9E3779B9
MIX = (0x7FEB352D, 0x846CA68B)
LOG2 = (0.44183587, -0.26653628, 0.14701877, -0.04424374)
NUMERATOR = (1.2534908, 0.29727342, 0.037291272, 0.0025704745)
DENOMINATOR = (1.0, 0.055996795, 0.01325215, 0.00013187334)


def fold_in(key: PRNGKeyArray, number: Any) -> PRNGKeyArray:
    """A different key for every number, from a few multiplications."""
    words = _words(key)
    carry = (jnp.asarray(number).astype(jnp.uint32) + 1) * jnp.uint32(GOLDEN_RATIO)
    # After the second round every word depends on all words.
    for _ in range(2):
        mixed = []
        for word in words:
            carry = _mix(word ^ carry)
            mixed.append(carry)
        words = mixed
    data = jnp.stack(words)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return data
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(key))


def normal(
    key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any
) -> Float[Array, "*shape"]:
    """Independent N(0, 1) numbers; float64 comes from `jax.random.normal`."""
    if dtype == jnp.float64 or math.prod(shape) >= 2**32:
        return jax.random.normal(key, shape, dtype)
    noise = _to_normal(_hash(key, math.prod(shape)))
    return noise.reshape(shape).astype(dtype)


def uniform(
    key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any
) -> Float[Array, "*shape"]:
    """Independent numbers, uniform on [0, 1); float64 from `jax.random.uniform`."""
    if dtype == jnp.float64 or math.prod(shape) >= 2**32:
        return jax.random.uniform(key, shape, dtype)
    bits = _hash(key, math.prod(shape)) >> 8
    return (bits.astype(jnp.float32) * 2.0**-24).reshape(shape).astype(dtype)


def _words(key: PRNGKeyArray) -> list[Array]:
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    words = [lax.index_in_dim(key, i, keepdims=False) for i in range(key.size)]
    return [word.astype(jnp.uint32) for word in words]


def _hash(key: PRNGKeyArray, size: int) -> Array:
    words = _words(key)
    first, second = words[:2]
    # The two halves of an `rbg` key are equal, so xor alone would cancel them.
    for more, yet_more in zip(words[2::2], words[3::2], strict=True):
        first, second = _mix(first) ^ more, _mix(second) ^ yet_more
    # Zero is a fixed point of the mix, so the counter starts at one.
    counter = (lax.iota(jnp.uint32, size) + 1) * jnp.uint32(GOLDEN_RATIO)
    return _mix(_mix(counter ^ first) + second)


def _mix(x: Array) -> Array:
    """A bijection of 32-bit words: every output bit depends on every input bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(MIX[0])
    x = (x ^ (x >> 15)) * jnp.uint32(MIX[1])
    return x ^ (x >> 16)


def _to_normal(bits: Array) -> Array:
    uniform = (bits >> 8).astype(jnp.float32) * 2.0**-23 + (2.0**-24 - 1)
    w = -_log2((1 - uniform) * (1 + uniform))
    return uniform * _polynomial(NUMERATOR, w) / _polynomial(DENOMINATOR, w)


def _log2(x: Array) -> Array:
    """Base-two logarithm of a positive normal float32, to 2e-5."""
    word = lax.bitcast_convert_type(x, jnp.int32)
    exponent = ((word >> 23) - 127).astype(jnp.float32)
    fraction = lax.bitcast_convert_type((word & 0x7FFFFF) | 0x3F800000, jnp.float32) - 1
    bend = fraction * (1 - fraction) * _polynomial(LOG2, fraction)
    return exponent + fraction + bend


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    result = jnp.float32(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        result = result * x + jnp.float32(coefficient)
    return result
