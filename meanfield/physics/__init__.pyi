from .complexity.dimension import (
    EffectiveDimension as EffectiveDimension,
    effective_dimension as effective_dimension,
)
from .complexity.joint_entropy import (
    JointEntropy as JointEntropy,
    joint_entropy as joint_entropy,
)
from .complexity.layer_complexity import (
    LayerComplexity as LayerComplexity,
    NetworkComplexity as NetworkComplexity,
)
from .complexity.measure import measure_complexity as measure_complexity
from .complexity.recording import layer_activations as layer_activations
from .complexity.scaling import ScalingFit as ScalingFit, fit_scaling as fit_scaling
from .complexity.spread import (
    ComplexitySpread as ComplexitySpread,
    LayerSpread as LayerSpread,
    Spread as Spread,
    sampled_complexity as sampled_complexity,
)
from .complexity.trace import ComplexityTrace as ComplexityTrace
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
    spin_states as spin_states,
)
from .microstructure.lognormal_fit import (
    Microstructure as Microstructure,
    analyze_microstructure as analyze_microstructure,
    fit_microstructure as fit_microstructure,
)
from .microstructure.utility import (
    effective_utility as effective_utility,
    equilibrium_distribution as equilibrium_distribution,
    potential as potential,
    utility_coefficients as utility_coefficients,
)
from .renormalization.activations import Activation as Activation
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
)
from .renormalization.fixed_points import (
    FixedPoint as FixedPoint,
    critical_weight_var as critical_weight_var,
    fixed_point as fixed_point,
)
from .renormalization.hamiltonian import (
    forward_states as forward_states,
    layer_energies as layer_energies,
    layered_hamiltonian as layered_hamiltonian,
)
from .renormalization.layer_phase import LayerPoint as LayerPoint
from .renormalization.meanfield_map import trajectory as trajectory
from .renormalization.network_phase import (
    Renormalization as Renormalization,
    analyze_renormalization as analyze_renormalization,
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
