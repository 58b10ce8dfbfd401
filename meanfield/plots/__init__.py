"""Plots. Every function draws on a Matplotlib axis and returns it.

Without an axis it makes a new figure. No global state is used, so the functions work in
threads and without a display. Colours are those of Okabe & Ito, which readers with any
colour vision can distinguish; no information is shown by colour alone.

Example:
    >>> import meanfield as mf
    >>> axis = mf.plots.entropy_by_layer({"layers/0": -1.0, "layers/1": 0.5})
    >>> axis.get_ylabel()
    'entropy (nats per weight)'
"""

from .bits import complexity as complexity
from .credit_network import credit_paths as credit_paths
from .learning import (
    interval_coverage as interval_coverage,
    predictions as predictions,
    reliability_diagram as reliability_diagram,
    training_history as training_history,
)
from .microstructure import (
    log_magnitude_quantiles as log_magnitude_quantiles,
    log_magnitudes as log_magnitudes,
    microstructure_verdicts as microstructure_verdicts,
    utilities as utilities,
)
from .neurons import (
    coalition_network as coalition_network,
    payoff_curves as payoff_curves,
    shapley_values as shapley_values,
)
from .phases import (
    critical_slabs as critical_slabs,
    decimation_flow as decimation_flow,
    measured_flow as measured_flow,
    phase_diagram as phase_diagram,
)
from .style import new_axis as new_axis, save as save
from .sum_bars import credit_scales as credit_scales
from .valuations import (
    credit_maps as credit_maps,
    payoff_by_density as payoff_by_density,
    value_against_magnitude as value_against_magnitude,
)
from .weights import (
    entropy_by_layer as entropy_by_layer,
    label_fractions as label_fractions,
    landscape as landscape,
    perturbation_curves as perturbation_curves,
)
