from .ensemble import Ensemble as Ensemble
from .initial import critical as critical, from_weights as from_weights
from .jaynes import jaynes_initial as jaynes_initial
from .opened import Modes as Modes
from .statistics import estimate_statistics as estimate_statistics
