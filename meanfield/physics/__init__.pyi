from .complexity.chain import ChainGain as ChainGain, chain_gain as chain_gain
from .complexity.dimension import (
    EffectiveDimension as EffectiveDimension,
    effective_dimension as effective_dimension,
    isotropic_dimension as isotropic_dimension,
    isotropic_participation as isotropic_participation,
    spectrum_dimensions as spectrum_dimensions,
)
from .complexity.entropy import (
    binary_entropy as binary_entropy,
    count_entropy as count_entropy,
    count_entropy_error as count_entropy_error,
    count_states as count_states,
    unit_entropies as unit_entropies,
)
from .complexity.joint_entropy import (
    JointEntropy as JointEntropy,
    joint_entropy as joint_entropy,
)
from .complexity.measure import (
    LayerComplexity as LayerComplexity,
    NetworkComplexity as NetworkComplexity,
    measure_complexity as measure_complexity,
)
from .complexity.recording import layer_activations as layer_activations
from .complexity.subnetworks import (
    ComplexitySpread as ComplexitySpread,
    ComplexityTrace as ComplexityTrace,
    LayerSpread as LayerSpread,
    Spread as Spread,
    complexity_spread as complexity_spread,
    sampled_complexity as sampled_complexity,
)
from .microstructure.arbitrage import (
    Arbitrage as Arbitrage,
    LayerArbitrage as LayerArbitrage,
    arbitrage_between_layers as arbitrage_between_layers,
    measure_arbitrage as measure_arbitrage,
)
from .microstructure.boltzmann import (
    boltzmann_utility as boltzmann_utility,
    equilibrium_shares as equilibrium_shares,
    hebbian_weights as hebbian_weights,
    quadratic_utility as quadratic_utility,
    spin_states as spin_states,
)
from .microstructure.lognormality import Measures as Measures
from .microstructure.rivals import FittedLaw as FittedLaw, fit_rivals as fit_rivals
from .microstructure.utility import (
    effective_utility as effective_utility,
    equilibrium_law as equilibrium_law,
    potential as potential,
    utility_coefficients as utility_coefficients,
)
from .microstructure.verdicts import (
    Microstructure as Microstructure,
    analyze_microstructure as analyze_microstructure,
    fit_microstructure as fit_microstructure,
)
from .named_weights import (
    Tensor as Tensor,
    named_tensors as named_tensors,
    read_tensors as read_tensors,
)
from .renormalization.activations import (
    Activation as Activation,
    find_activation as find_activation,
    gaussian_mean as gaussian_mean,
)
from .renormalization.decimation import (
    LinearLayer as LinearLayer,
    binary_depth_scale as binary_depth_scale,
    binary_layer_fixed_point as binary_layer_fixed_point,
    decimate_binary_chain as decimate_binary_chain,
    decimate_chain as decimate_chain,
    decimate_linear as decimate_linear,
)
from .renormalization.ensemble_map import (
    WeightVariances as WeightVariances,
    critical_slab_mean_var as critical_slab_mean_var,
    ensemble_fixed_point as ensemble_fixed_point,
    slab_variances as slab_variances,
    weight_variances as weight_variances,
)
from .renormalization.fitted_decimation import (
    EffectiveLayer as EffectiveLayer,
    decimate_network as decimate_network,
    fit_effective_layer as fit_effective_layer,
    redrawn_network as redrawn_network,
)
from .renormalization.fixed_points import (
    FixedPoint as FixedPoint,
    critical_weight_var as critical_weight_var,
    depth_scale as depth_scale,
    fixed_correlation as fixed_correlation,
    fixed_length as fixed_length,
    fixed_point as fixed_point,
)
from .renormalization.hamiltonian import (
    forward_states as forward_states,
    layer_energies as layer_energies,
    layered_hamiltonian as layered_hamiltonian,
)
from .renormalization.meanfield_map import (
    correlation_map as correlation_map,
    length_map as length_map,
    trajectory as trajectory,
)
from .renormalization.phase import LayerPoint as LayerPoint
from .renormalization.position import (
    Renormalization as Renormalization,
    analyze_renormalization as analyze_renormalization,
)
from .renormalization.scaling import (
    ScalingFit as ScalingFit,
    fit_scaling as fit_scaling,
)
from .renormalization.symmetry import (
    Symmetry as Symmetry,
    translational_symmetry as translational_symmetry,
)
from .renormalization.wide_flow import (
    WideLayer as WideLayer,
    critical_exponent as critical_exponent,
    decimate_wide_layer as decimate_wide_layer,
    relevant_eigenvalue as relevant_eigenvalue,
    wide_flow as wide_flow,
    wide_layer as wide_layer,
)
