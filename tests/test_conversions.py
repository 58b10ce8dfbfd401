"""A few rows of the conversion matrix; `tools/conversion_matrix.py` runs them all."""

import pytest
from conversions import COLUMNS, Converted
from public_models import MODELS

# Cheap rows of different frameworks, and the columns that no other test has.
ROWS = (
    "attention as its user wrote it, jax.numpy",
    "equinox.nn.MultiheadAttention, query and memory",
    "flax.nnx.LoRALinear",
    "haiku.nets.MLP",
)
FAST = ("π = Ξ = 0", "drawn weights", "draw = shipped", "safetensors")


@pytest.fixture(scope="module", params=ROWS)
def converted(request):
    try:
        row = MODELS[request.param]()
    except ImportError as error:
        pytest.skip(f"the optional package is missing: {error}")
    return Converted(row)


@pytest.mark.parametrize("column", FAST)
def test_a_public_model_is_converted(converted, column):
    COLUMNS[column](converted)
