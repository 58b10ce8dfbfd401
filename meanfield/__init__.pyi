from . import data as data, plots as plots, runs as runs, workflow as workflow
from .ensemble import Ensemble as Ensemble
from .learning.checkpoint import Checkpoint as Checkpoint
from .learning.fit import (
    EpochReport as EpochReport,
    FitResult as FitResult,
    NonFiniteLossError as NonFiniteLossError,
    fit as fit,
)
from .learning.likelihoods import (
    Bernoulli as Bernoulli,
    Categorical as Categorical,
    Gaussian as Gaussian,
    Poisson as Poisson,
    StudentT as StudentT,
)
from .learning.parametrization import (
    Projected as Projected,
    Unconstrained as Unconstrained,
)
from .learning.priors import SpikeSlabPrior as SpikeSlabPrior
from .prediction.evaluate import (
    Metrics as Metrics,
    Prediction as Prediction,
    evaluate as evaluate,
    predict as predict,
)
from .propagation import (
    Moments as Moments,
    UnsupportedPrimitiveError as UnsupportedPrimitiveError,
    mean_field as mean_field,
    register_rule as register_rule,
)
from .spikeslab import SpikeSlab as SpikeSlab
