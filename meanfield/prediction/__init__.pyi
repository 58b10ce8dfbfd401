from .calibration import (
    ReliabilityCurve as ReliabilityCurve,
    SelectiveCurve as SelectiveCurve,
    reliability_curve as reliability_curve,
    selective_curve as selective_curve,
)
from .evaluate import (
    Metrics as Metrics,
    Prediction as Prediction,
    predict as predict,
)
from .ood import OODScores as OODScores, ood_scores as ood_scores
from .uncertainty import (
    Decomposition as Decomposition,
    credible_interval as credible_interval,
    decompose_targets as decompose_targets,
)
from .variance_scales import fit_scales as fit_scales
