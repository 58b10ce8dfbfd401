"""What makes the bits of a training run, so that no other run goes on from its state.

The same fingerprint gives the same bits with the same versions, on equally many devices
of the same kind (on a CPU: equally many cores), because sums in another order round
otherwise. Programs are compared by the text that JAX prints of them, which holds their
operations, shapes and numbers; between versions of JAX that text differs, and only the
rest is compared.
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

from .batches import iterate
from .training import Recipe, TrainState

# Places in memory, which differ from process to process.
_ADDRESS = re.compile(r" at 0x[0-9a-f]+|0x[0-9a-f]+")
# What earlier versions did not write down, and what is text of one version of JAX.
_LATER = ("batches_crc32", "fixed_crc32", "likelihood", "optimizer_crc32", "random")
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
    """What must be the same for a run to be gone on with.

    Args:
        recipe: what no step changes.
        state: the state before the first step.
        key: of the run.
        data: as `fit` was given it.
        arrays: the same as arrays (x, y); None for an iterable.
        batch_size: examples a step, for arrays.
        patience: of early stopping, or None.
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
        # A learning rate may be a number of the optimizer's state.
        "optimizer_crc32": _crc32([n for n in jax.tree.leaves(kept) if n.ndim == 0]),
        "random": _random_settings(key if typed else None),
        "parametrization": eqx.tree_pformat(recipe.parametrization),
        "prior": eqx.tree_pformat(recipe.prior),
        "temperature": recipe.temperature if steady else "schedule",
        "early_stopping": patience is not None,
        # None where nothing is asked for, as in runs from before there was a choice.
        "accumulate": recipe.accumulate if recipe.accumulate > 1 else None,
        "compute_dtype": recipe.compute_dtype and str(recipe.compute_dtype),
        "augmented": True if recipe.augment is not None else None,
        "drawn": list(recipe.fixed[0].drawn) or None,
    }


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """In what a fingerprint that was found differs from the one of this run."""
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
        start = zlib.crc32(np.asarray(array, order="C").tobytes(), start)
    return start


def _crc32_of_batches(data: Any) -> int | None:
    """Checksum of all batches of a list, or of the first batch of a loader.

    None where that batch is another one each time: then there are no bits to go on to.
    """
    if isinstance(data, list | tuple):
        checksum = 0
        for batch in iterate(data, 0):
            checksum = _crc32(batch, checksum)
        return checksum
    one, two = (_crc32(next(_batches(data), ())) for _ in range(2))
    return one if one == two else None


def _batches(data: Any) -> Iterator[Any]:
    """The batches of the first epoch; what produces them is closed again."""
    batches: Any = iterate(data, 0)
    with contextlib.closing(batches):
        yield from batches


def _apply(ensemble: Ensemble) -> Callable[[Any, Any], Any]:
    network = ensemble.network
    return lambda params, x: network(params, x, key=jax.random.key(0))


def _program_of(function: Callable[..., Any], *arguments: Any) -> str:
    """Hash of the program that JAX makes of a function, whatever its numbers."""
    arrays, others = eqx.partition(arguments, eqx.is_array)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arrays)

    def of_arrays(arrays: Any) -> Any:
        return eqx.filter(function(*eqx.combine(arrays, others)), eqx.is_array)

    program = jax.make_jaxpr(of_arrays)(shapes)
    digest = hashlib.sha256(_ADDRESS.sub("", str(program)).encode())
    digest.update(str(_crc32(program.consts)).encode())
    return digest.hexdigest()[:16]


def _random_settings(key: Any) -> list[str]:
    """The generator, and the settings of JAX on which numbers depend."""
    names = (
        "jax_threefry_partitionable",
        "jax_enable_x64",
        "jax_default_matmul_precision",
    )
    generator = "raw" if key is None else str(jax.random.key_impl(key))
    return [generator, *(f"{name}={getattr(jax.config, name)}" for name in names)]
