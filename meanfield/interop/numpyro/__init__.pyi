from .spike_and_slab import SpikeAndSlab as SpikeAndSlab
from .spike_chains import (
    SpikeSlabReparam as SpikeSlabReparam,
    add_spikes as add_spikes,
    as_prior as as_prior,
    init_to_ensemble as init_to_ensemble,
)
from .spike_elbo import SpikeSlabELBO as SpikeSlabELBO
from .spike_guide import AutoSpikeSlab as AutoSpikeSlab
from .spike_network import (
    ensemble_from_params as ensemble_from_params,
    random_spike_slab_module as random_spike_slab_module,
    spike_slab_module as spike_slab_module,
)
