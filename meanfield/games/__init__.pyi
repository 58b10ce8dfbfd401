from .banzhaf import banzhaf_values as banzhaf_values
from .exchange import (
    StableCoalition as StableCoalition,
    stable_coalition as stable_coalition,
)
from .index_values import (
    IndexValues as IndexValues,
    InteractionValues as InteractionValues,
    ShapleyValues as ShapleyValues,
)
from .interactions import interaction_values as interaction_values
from .known_games import (
    ClosedFormGame as ClosedFormGame,
    airport as airport,
    glove as glove,
    quadratic as quadratic,
    shoe as shoe,
    unanimity as unanimity,
    weighted_voting as weighted_voting,
)
from .owen import owen_values as owen_values
from .shapley import shapley_values as shapley_values
