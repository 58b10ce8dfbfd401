from . import (
    credit as credit,
    data as data,
    deploy as deploy,
    ensemble as ensemble,
    games as games,
    learning as learning,
    neurons as neurons,
    physics as physics,
    plots as plots,
    prediction as prediction,
    propagation as propagation,
)
from .credit.connection_shapley import connection_values as connection_values
from .credit.labelling import label_connections as label_connections
from .credit.labels import ConnectionLabels as ConnectionLabels, Label as Label
from .ensemble.ensemble import Ensemble as Ensemble
from .games.shapley import shapley_values as shapley_values
from .interop import numpyro as numpyro
from .interop.arviz.bridge import to_arviz as to_arviz
from .interop.numpyro.spike_and_slab import SpikeAndSlab as SpikeAndSlab
from .interop.sklearn.estimators import (
    MeanFieldClassifier as MeanFieldClassifier,
    MeanFieldRegressor as MeanFieldRegressor,
)
from .learning.checkpoint import Checkpoint as Checkpoint
from .learning.fit import fit as fit
from .learning.likelihoods import (
    Bernoulli as Bernoulli,
    Categorical as Categorical,
    Gaussian as Gaussian,
    Poisson as Poisson,
    StudentT as StudentT,
)
from .learning.priors import SpikeSlabPrior as SpikeSlabPrior
from .learning.results import FitResult as FitResult
from .learning.selective import Selective as Selective
from .neurons.neuron_game import NeuronGame as NeuronGame
from .neurons.strong import strong_coalition as strong_coalition
from .neurons.unit_shapley import unit_values as unit_values
from .prediction.evaluate import (
    Metrics as Metrics,
    Prediction as Prediction,
    evaluate as evaluate,
    predict as predict,
)
from .propagation.equation import UnsupportedPrimitiveError as UnsupportedPrimitiveError
from .propagation.registry import register_rule as register_rule
from .propagation.transformation import mean_field as mean_field
from .runs.folder import Run as Run, load_run as load_run
from .spikeslab import SpikeSlab as SpikeSlab
