from .checkpoint import Checkpoint as Checkpoint
from .hyperpriors import LayerPrior as LayerPrior
from .likelihoods import (
    Bernoulli as Bernoulli,
    Categorical as Categorical,
    Gaussian as Gaussian,
    Poisson as Poisson,
    StudentT as StudentT,
)
from .logs import log_csv as log_csv, log_json as log_json
from .optimizers import scale_steps as scale_steps
from .parametrization import Projected as Projected, Unconstrained as Unconstrained
from .priors import (
    SpikeSlabPrior as SpikeSlabPrior,
    posterior_as_prior as posterior_as_prior,
)
from .results import (
    EpochReport as EpochReport,
    FitResult as FitResult,
    NonFiniteLossError as NonFiniteLossError,
)
from .selective import Selective as Selective
from .sharding import device_mesh as device_mesh
