from . import (
    analysis as analysis,
    data as data,
    plots as plots,
    report as report,
    runs as runs,
    workflow as workflow,
)
from .credit.banzhaf import banzhaf_values as banzhaf_values
from .credit.coalition_training import (
    CoalitionResult as CoalitionResult,
    train_coalitions as train_coalitions,
)
from .credit.coalitions import NeuronGame as NeuronGame
from .credit.exchange import (
    StableCoalition as StableCoalition,
    stable_coalition as stable_coalition,
)
from .credit.features import coalition_features as coalition_features
from .credit.games import ClosedFormGame as ClosedFormGame
from .credit.inclusion import (
    inclusion_gradients as inclusion_gradients,
    probabilistic_values as probabilistic_values,
)
from .credit.interactions import interaction_values as interaction_values
from .credit.label_game import LabelGame as LabelGame, label_game as label_game
from .credit.labels import (
    ConnectionLabels as ConnectionLabels,
    Label as Label,
    label_connections as label_connections,
)
from .credit.links import link_test as link_test, neuron_links as neuron_links
from .credit.owen import owen_values as owen_values
from .credit.perturbation import perturb_connections as perturb_connections
from .credit.posterior import (
    PosteriorValues as PosteriorValues,
    posterior_shapley_values as posterior_shapley_values,
)
from .credit.readout import readout_values as readout_values
from .credit.sequence import play_layers as play_layers
from .credit.shapley import (
    ShapleyValues as ShapleyValues,
    shapley_values as shapley_values,
)
from .credit.strong import (
    StrongCoalition as StrongCoalition,
    soft_membership as soft_membership,
    strong_coalition as strong_coalition,
)
from .deploy.archive import (
    load_archive as load_archive,
    load_subnetwork as load_subnetwork,
)
from .deploy.formats import export as export
from .deploy.sampling import sample_subnetworks as sample_subnetworks
from .deploy.served import check_shipped as check_shipped
from .deploy.ship import ship as ship
from .deploy.shrink import shrink as shrink
from .ensemble import Ensemble as Ensemble
from .initial import critical as critical, from_weights as from_weights
from .interop.arviz_bridge import to_arviz as to_arviz
from .interop.sklearn import (
    MeanFieldClassifier as MeanFieldClassifier,
    MeanFieldRegressor as MeanFieldRegressor,
)
from .interop.spike_and_slab import SpikeAndSlab as SpikeAndSlab
from .interop.spike_chains import (
    SpikeSlabReparam as SpikeSlabReparam,
    add_spikes as add_spikes,
    as_prior as as_prior,
    init_to_ensemble as init_to_ensemble,
)
from .interop.spike_elbo import SpikeSlabELBO as SpikeSlabELBO
from .interop.spike_guide import AutoSpikeSlab as AutoSpikeSlab
from .interop.spike_network import (
    ensemble_from_params as ensemble_from_params,
    random_spike_slab_module as random_spike_slab_module,
    spike_slab_module as spike_slab_module,
)
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
from .learning.logs import log_csv as log_csv, log_json as log_json
from .learning.optimizers import scale_steps as scale_steps
from .learning.parametrization import (
    Projected as Projected,
    Unconstrained as Unconstrained,
)
from .learning.placement import device_mesh as device_mesh
from .learning.priors import (
    SpikeSlabPrior as SpikeSlabPrior,
    posterior_as_prior as posterior_as_prior,
)
from .physics.complexity import measure_complexity as measure_complexity
from .physics.initialization import jaynes_initial as jaynes_initial
from .physics.microstructure import analyze_microstructure as analyze_microstructure
from .physics.renormalization import (
    analyze_renormalization as analyze_renormalization,
)
from .prediction.calibration import (
    ReliabilityCurve as ReliabilityCurve,
    SelectiveCurve as SelectiveCurve,
    reliability_curve as reliability_curve,
    selective_curve as selective_curve,
)
from .prediction.evaluate import (
    Metrics as Metrics,
    Prediction as Prediction,
    evaluate as evaluate,
    predict as predict,
)
from .prediction.ood import OODScores as OODScores, ood_scores as ood_scores
from .propagation import (
    Moments as Moments,
    UnsupportedPrimitiveError as UnsupportedPrimitiveError,
    mean_field as mean_field,
    register_rule as register_rule,
)
from .spikeslab import SpikeSlab as SpikeSlab
