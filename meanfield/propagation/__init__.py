"""The transformation: an ordinary network function evaluated on random weights."""

from .equation import (
    Equation as Equation,
    UnsupportedPrimitiveError as UnsupportedPrimitiveError,
)
from .inspection import (
    count_readings as count_readings,
    count_summands as count_summands,
)
from .readings import Readings as Readings
from .registry import register_rule as register_rule
from .transformation import (
    joint_output_distribution as joint_output_distribution,
    mean_field as mean_field,
)
from .values import Moments as Moments, Random as Random
