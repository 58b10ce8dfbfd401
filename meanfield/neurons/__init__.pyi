from .features import coalition_features as coalition_features
from .label_players import LabelGame as LabelGame, label_game as label_game
from .links import NeuronLinks as NeuronLinks, neuron_links as neuron_links
from .neuron_game import NeuronGame as NeuronGame
from .one_sum import CreditSums as CreditSums, credit_sums as credit_sums
from .posterior_values import (
    PosteriorValues as PosteriorValues,
    posterior_shapley_values as posterior_shapley_values,
)
from .readout import readout_values as readout_values
from .sequence import PlayedLayer as PlayedLayer, play_layers as play_layers
from .strong import (
    StrongCoalition as StrongCoalition,
    soft_membership as soft_membership,
    strong_coalition as strong_coalition,
)
from .strong_links import LinkTest as LinkTest, link_test as link_test
from .training.coalition_training import (
    CoalitionResult as CoalitionResult,
    train_coalitions as train_coalitions,
)
from .training.rounds import CoalitionRound as CoalitionRound
from .unit_shapley import UnitValues as UnitValues, unit_values as unit_values
