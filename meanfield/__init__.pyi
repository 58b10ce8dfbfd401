from .propagation import (
    Moments as Moments,
    UnsupportedPrimitiveError as UnsupportedPrimitiveError,
    mean_field as mean_field,
    register_rule as register_rule,
)
from .spikeslab import SpikeSlab as SpikeSlab
