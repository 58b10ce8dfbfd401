"""Label the connections of a run."""

import jax

from meanfield.credit.connections import write_connections
from meanfield.credit.labelling import label_connections
from meanfield.credit.labels import ConnectionLabels, mean_entropy
from meanfield.data import Dataset
from meanfield.keys import key_of_seed

from .folder import CONNECTIONS, Run
from .pictures import draw_labels

# Enough to see which inputs ever vary, without a long pass over a large data set.
EXAMPLES = 10_000


def label(run: Run, dataset: Dataset) -> ConnectionLabels:
    """Label every connection; writes ``connections.csv``, the metrics and the plots."""
    key = jax.random.fold_in(key_of_seed(run.config["training"]["seed"]), 3)
    x = dataset.x_train[:EXAMPLES]
    labels = label_connections(run.ensemble, data=x, key=key)
    write_connections(run.folder / CONNECTIONS, run.ensemble, labels)
    entropies = mean_entropy(run.ensemble)
    run.update_metrics(
        {
            "labels": labels.fractions,
            "label_rule": {"tolerance": labels.tolerance, "chosen": labels.chosen},
            "labels_learned": labels.learned_fractions,
            "never_learned": labels.never_learned_fractions,
            "entropy": entropies,
        }
    )
    run.seal_connections()
    draw_labels(run, labels, entropies)
    return labels
