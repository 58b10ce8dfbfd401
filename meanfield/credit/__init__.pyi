from .certificates import Certificate as Certificate
from .connection_shapley import (
    ConnectionValues as ConnectionValues,
    connection_values as connection_values,
)
from .energy import gibbs_probs as gibbs_probs
from .inclusion import (
    inclusion_gradients as inclusion_gradients,
    probabilistic_values as probabilistic_values,
)
from .input_selection import (
    InputSelection as InputSelection,
    select_inputs as select_inputs,
)
from .labelling import label_connections as label_connections
from .labels import ConnectionLabels as ConnectionLabels, Label as Label
from .perturbation import (
    Perturbation as Perturbation,
    perturb_connections as perturb_connections,
)
