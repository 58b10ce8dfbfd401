from .inclusion import (
    inclusion_gradients as inclusion_gradients,
    probabilistic_values as probabilistic_values,
)
from .labels import (
    ConnectionLabels as ConnectionLabels,
    Label as Label,
    label_connections as label_connections,
)
from .perturbation import perturb_connections as perturb_connections
