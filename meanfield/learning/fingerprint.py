"""Everything that determines the results of a run, to identify checkpoints of that run.

Runs with the same fingerprint give bitwise equal results with the same versions and the
same devices. Other devices, and another number of devices or CPU cores, may add in
another order and so round differently. The programs of network and optimizer are
compared by the text that JAX prints, with operations, shapes and numbers. This text
differs between versions of JAX; between versions only the other entries are compared.
"""

import contextlib
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from meanfield.ensemble.ensemble import Ensemble
from meanfield.propagation import mean_field

from .batches import iterate
from .state import TrainState
from .training import Recipe

# Memory addresses, which differ from process to process.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+|0x[0-9a-f]+")
# Entries that earlier versions did not store.
_LATER = ("batches_crc32", "fixed_crc32", "likelihood", "optimizer_crc32", "random")
# Entries that depend on the version of JAX.
_TRACED = ("network", "optimizer")


def run_fingerprint(
    recipe: Recipe,
    state: TrainState,
    key: Any,
    data: Any,
    arrays: Any,
    *,
    batch_size: int,
    patience: int | None,
) -> dict[str, Any]:
    """Everything that must be equal to continue a run from a checkpoint.

    Args:
        recipe: everything that no step changes.
        state: the state before the first step.
        key: the key of the run.
        data: the argument of `fit`.
        arrays: the same as arrays (x, y); None for an iterable.
        batch_size: examples per step, for arrays.
        patience: patience of early stopping, or None.
    """
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    steady = not callable(recipe.temperature)
    first = arrays if arrays is not None else next(_batches(data), None)
    ensemble, likelihood = recipe.ensemble_and_likelihood(state.learned)
    update, kept = recipe.optimizer.update, state.optimizer_state
    return {
        "jax": jax.__version__,
        "key": np.asarray(jax.random.key_data(key) if typed else key).tolist(),
        "num_data": recipe.num_data,
        "batch_size": batch_size if arrays is not None else None,
        "data_crc32": None if arrays is None else _crc32(arrays),
        "batches_crc32": None if arrays is not None else _crc32_of_batches(data),
        "fixed_crc32": _crc32(eqx.filter(recipe.fixed, eqx.is_array)),
        "network": first and _program_of(_apply(ensemble), ensemble.params, first[0]),
        "likelihood": _ADDRESS.sub("", eqx.tree_pformat(likelihood)),
        "optimizer": _program_of(update, state.learned, kept, state.learned),
        # A learning rate may be part of the optimizer's state.
        "optimizer_crc32": _crc32([n for n in jax.tree.leaves(kept) if n.ndim == 0]),
        "random": _random_settings(key if typed else None),
        "parametrization": eqx.tree_pformat(recipe.parametrization),
        "prior": eqx.tree_pformat(recipe.prior),
        "temperature": recipe.temperature if steady else "schedule",
        "early_stopping": patience is not None,
        # None by default, as in runs of versions without this setting.
        "accumulate": recipe.accumulate if recipe.accumulate > 1 else None,
        "compute_dtype": recipe.compute_dtype and str(recipe.compute_dtype),
        "augmented": True if recipe.augment is not None else None,
        "drawn": list(recipe.fixed[0].drawn) or None,
        "hold": recipe.hold,
    }


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Descriptions of the differences between two fingerprints."""
    skipped = {"jax"} | {name for name in _LATER if name not in found}
    if found.get("jax") != wanted.get("jax"):
        skipped |= set(_TRACED)
    skipped |= {name for name in _TRACED if name not in found}
    return [
        f"`{name}` {found.get(name)} there, {wanted.get(name)} here"
        for name in sorted((found.keys() | wanted.keys()) - skipped)
        if found.get(name) != wanted.get(name)
    ]


def _crc32(tree: Any, start: int = 0) -> int:
    """Checksum of all numbers of a tree."""
    for array in jax.tree.leaves(tree):
        if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            array = jax.random.key_data(array)
        start = zlib.crc32(np.asarray(array, order="C").tobytes(), start)
    return start


def _crc32_of_batches(data: Any) -> int | None:
    """Checksum of all batches of a list, or of the first batch of a loader.

    None if the first batch differs each time: such a run cannot be reproduced.
    """
    if isinstance(data, list | tuple):
        checksum = 0
        for batch in iterate(data, 0):
            checksum = _crc32(batch, checksum)
        return checksum
    one, two = (_crc32(next(_batches(data), ())) for _ in range(2))
    return one if one == two else None


def _batches(data: Any) -> Iterator[Any]:
    """The batches of the first epoch; their generator is closed afterwards."""
    batches: Any = iterate(data, 0)
    with contextlib.closing(batches):
        yield from batches


def _apply(ensemble: Ensemble) -> Callable[[Any, Any], Any]:
    if ensemble.training is None:
        network = ensemble.network
        return lambda params, x: network(params, x, key=jax.random.key(0))
    trained, key = mean_field(ensemble.training), jax.random.key(0)
    return lambda params, x: trained(params, x, key, key=key)


def _program_of(function: Callable[..., Any], *arguments: Any) -> str:
    """Hash of the jaxpr of a function; values of array arguments do not change it."""
    arrays, others = eqx.partition(arguments, eqx.is_array)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arrays)

    def of_arrays(arrays: Any) -> Any:
        return eqx.filter(function(*eqx.combine(arrays, others)), eqx.is_array)

    program = jax.make_jaxpr(of_arrays)(shapes)
    digest = hashlib.sha256(_ADDRESS.sub("", str(program)).encode())
    digest.update(str(_crc32(program.consts)).encode())
    return digest.hexdigest()[:16]


def _random_settings(key: Any) -> list[str]:
    """The random generator, and JAX settings on which random numbers depend."""
    names = (
        "jax_threefry_partitionable",
        "jax_enable_x64",
        "jax_default_matmul_precision",
    )
    generator = "raw" if key is None else str(jax.random.key_impl(key))
    return [generator, *(f"{name}={getattr(jax.config, name)}" for name in names)]
