"""Label the connections of a run, with a certificate on its test data."""

import math
from typing import Any

import jax

from meanfield.credit.connections import write_connections
from meanfield.credit.labelling import label_connections
from meanfield.credit.labels import ConnectionLabels, mean_entropy
from meanfield.data import Dataset
from meanfield.keys import key_of_seed

from .folder import CONNECTIONS, Run
from .pictures import draw_labels

# Largest number of test examples: enough for a tight bound, and fast.
EXAMPLES = 10_000
# Fewest examples for a certificate: one half chooses, the other certifies.
LEAST = 4


def find_labels(run: Run, dataset: Dataset) -> ConnectionLabels:
    """The certified labels of a run, on examples that it has not learned from.

    With fewer than four test examples the posterior rule is used.
    """
    key = jax.random.fold_in(key_of_seed(run.config["training"]["seed"]), 3)
    x, y = dataset.x_test[:EXAMPLES], dataset.y_test[:EXAMPLES]
    if len(x) < LEAST:
        return label_connections(
            run.ensemble, data=dataset.x_train[:EXAMPLES], key=key, rule="posterior"
        )
    likelihood = run.standardization.likelihood(run.likelihood)
    return label_connections(run.ensemble, data=(x, y), key=key, likelihood=likelihood)


def label(run: Run, dataset: Dataset) -> ConnectionLabels:
    """Label every connection; writes ``connections.csv``, metrics and plots."""
    labels = find_labels(run, dataset)
    write_connections(run.folder / CONNECTIONS, run.ensemble, labels)
    entropies = mean_entropy(run.ensemble)
    run.update_metrics(
        {
            "labels": labels.fractions,
            "label_rule": {"chosen": labels.chosen, **_grounds(labels)},
            "labels_learned": labels.learned_fractions,
            "never_learned": labels.never_learned_fractions,
            "entropy": entropies,
        }
    )
    run.seal_connections()
    draw_labels(run, labels, entropies)
    return labels


def _grounds(labels: ConnectionLabels) -> dict[str, Any]:
    """The guarantees of certified labels, or the tolerance of other labels."""
    certificate = labels.certificate
    if certificate is None:
        return {"tolerance": labels.tolerance}
    bounds = {
        "loss_bound": certificate.loss_bound,
        "cost_bound": certificate.cost_bound,
    }
    return {
        "verdict": certificate.verdict,
        "payoff": certificate.payoff,
        "full": certificate.full,
        "empty": certificate.empty,
        "without": dict(certificate.without),
        "epsilon": certificate.epsilon,
        "level": certificate.level,
        "num_examples": certificate.num_examples,
        **{n: None if math.isnan(bound) else bound for n, bound in bounds.items()},
    }
