from .banzhaf import banzhaf_values as banzhaf_values
from .exchange import (
    StableCoalition as StableCoalition,
    stable_coalition as stable_coalition,
)
from .interactions import (
    InteractionValues as InteractionValues,
    interaction_values as interaction_values,
)
from .intervals import IndexValues as IndexValues
from .known_games import ClosedFormGame as ClosedFormGame
from .owen import owen_values as owen_values
from .shapley import ShapleyValues as ShapleyValues, shapley_values as shapley_values
