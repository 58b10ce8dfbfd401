"""The steps of the command line, each a function on run folders."""

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from meanfield import plots
from meanfield.checks import require
from meanfield.credit.connections import write_connections
from meanfield.credit.labelling import label_connections
from meanfield.credit.labels import mean_entropy
from meanfield.data import Dataset, load
from meanfield.deploy.formats.archive import load_archive
from meanfield.deploy.formats.formats import Exported
from meanfield.deploy.shipping.card import shown_score
from meanfield.deploy.shipping.served import Checked, check_shipped, convert, load_card
from meanfield.deploy.shipping.ship import ship
from meanfield.deploy.shipping.subnetworks import sample_subnetworks
from meanfield.ensemble.ensemble import Ensemble
from meanfield.learning.checkpoint import Checkpoint
from meanfield.learning.fit import fit
from meanfield.learning.optimizers import cosine_adam
from meanfield.learning.priors import SpikeSlabPrior
from meanfield.learning.results import NonFiniteLossError
from meanfield.learning.sharding import device_mesh
from meanfield.neurons.label_game import label_game
from meanfield.neurons.links import link_test, neuron_links
from meanfield.neurons.sequence import play_layers
from meanfield.prediction.calibration import reliability_curve
from meanfield.prediction.evaluate import Metrics, evaluate
from meanfield.prediction.predictive import average

from .run import (
    CONFIG,
    FORMAT,
    Run,
    build_model,
    load_run,
    read_config,
    save_run,
    versions,
    write_json,
)
from .targets import (
    Units,
    build_likelihood,
    describe,
    likelihood_of,
    target_names,
    task_of,
)

NUM_SAMPLES = 32
# Below so many examples: smaller batches and more epochs, unless told otherwise.
SMALL = 10_000
# Enough to see which inputs ever vary, without a long pass over a large data set.
LABEL_EXAMPLES = 10_000
VALIDATION_EXAMPLES = 2_000
GAME_EXAMPLES = 400
# Pictures of the predictions of so many targets; more are no longer looked at.
PICTURES = 6


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """Settings of a training run; see ``meanfield train --help``."""

    data: str
    out: Path
    data_dir: str | None = None
    target: str | None = None
    task: str | None = None
    likelihood: str | None = None
    test_fraction: float = 0.2
    hidden: tuple[int, ...] = (100, 100)
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float = 2e-3
    inclusion_prob: float | None = None
    slab_scale: float = 0.1
    temperature: float = 1.0
    spikes: str = "connection"
    precision: str | None = None
    accumulate: int = 1
    seed: int = 0
    devices: tuple[int, int] | None = None
    resume: bool = False
    overwrite: bool = False
    progress: bool = True


def train(
    settings: TrainSettings, callbacks: Sequence[Callable[[Any], Any]] = ()
) -> Run:
    """Train an ensemble, score it, label its connections, write the run folder.

    Args:
        settings: what to train on, and how.
        callbacks: as in `fit`.

    Raises:
        ValueError: settings or data cannot be used.
        FileExistsError: `out` holds a run already, and neither `resume` nor
            `overwrite` is set.
        NonFiniteLossError: training broke down; the last good state was written.
    """
    out = settings.out
    if (out / CONFIG).is_file() and not (settings.resume or settings.overwrite):
        raise FileExistsError(
            f"{out} holds a run already. Go on with it by --resume {out}, replace it "
            "with --overwrite, or choose another --out."
        )
    prior = _checked_prior(settings)
    dataset = load(
        settings.data,
        data_dir=settings.data_dir,
        target=settings.target,
        task=task_of(settings.likelihood, settings.task),
        test_fraction=settings.test_fraction,
        seed=settings.seed,
    )
    config = _config(settings, dataset)
    units = Units.learn(dataset)
    config["data"] |= {"target_shift": units.shift, "target_scale": units.scale}
    x, y = dataset.x_train, units.standardise(dataset.y_train)
    if settings.resume and (out / CONFIG).is_file():
        config["model"]["targets"] = read_config(out)["model"]["targets"]
        _refuse_other_settings(out, config)
    write_json(out / CONFIG, config)
    architecture = config["model"]
    likelihood = build_likelihood(architecture["likelihood"], architecture["targets"])
    model = build_model(architecture, settings.seed)
    if dataset.task == "counts":
        model = _at_mean_rate(model, y)
    key = jax.random.key(settings.seed)
    ensemble = Ensemble.from_model(
        model, key=jax.random.fold_in(key, 0), spikes=settings.spikes
    )
    checkpoints = out / "checkpoints"
    if settings.overwrite and not settings.resume:
        for old in checkpoints.glob("*.safetensors"):
            old.unlink()
    small = len(x) < SMALL
    batch_size = min(settings.batch_size or (32 if small else 128), len(x))
    epochs = settings.epochs or (60 if small else 30)
    steps = epochs * (len(x) // batch_size)
    started = time.perf_counter()
    failure = None
    try:
        result = fit(
            ensemble,
            (x, y),
            likelihood=likelihood,
            key=jax.random.fold_in(key, 1),
            epochs=epochs,
            batch_size=batch_size,
            optimizer=cosine_adam(settings.learning_rate, steps),
            prior=prior,
            temperature=settings.temperature,
            checkpoint=Checkpoint(checkpoints),
            callbacks=callbacks,
            mesh=settings.devices and device_mesh(*settings.devices),
            accumulate=settings.accumulate,
            compute_dtype=settings.precision,
            progress=settings.progress,
        )
    except NonFiniteLossError as error:
        failure, result = error, error.result
    seconds = time.perf_counter() - started
    save_run(out, config, result)
    run = Run(out, config, result.ensemble, result.likelihood)
    run.update_metrics(
        {
            "train_seconds": seconds,
            "epochs": len(result.history.get("epoch", ())),
            "stopped": result.stopped,
            "num_weights": result.ensemble.num_weights,
            "versions": versions(),
        }
    )
    if failure is not None:
        raise failure
    score(run, dataset, seed=settings.seed)
    label(run, dataset)
    plots.save(plots.training_history(result.history), out / "plots" / "history.png")
    return run


def resumed(
    folder: Path,
    *,
    devices: tuple[int, int] | None = None,
    progress: bool = True,
) -> TrainSettings:
    """The settings of a run, to go on with it; on other devices, if wanted.

    Raises:
        FileNotFoundError: `folder` holds no run.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder} holds no run to resume: it has no {CONFIG}. Start one with "
            f"`meanfield train --out {folder}`."
        )
    config = read_config(folder)
    data = config["data"]
    training = {**config["training"], "resume": True, "progress": progress}
    training["devices"] = devices
    return TrainSettings(
        data=data["source"],
        out=folder,
        data_dir=data["data_dir"],
        target=data["target"],
        task=data["task"] if Path(data["source"]).suffix else None,
        likelihood=config["model"]["likelihood"],
        test_fraction=data["test_fraction"],
        hidden=tuple(config["model"]["hidden"]),
        **training,
    )


def _checked_prior(settings: TrainSettings) -> SpikeSlabPrior | None:
    """The prior that the settings ask for; refuses numbers out of range.

    It does so before anything is read or written.
    """
    rate, temperature = settings.learning_rate, settings.temperature
    require(
        math.isfinite(rate) and rate > 0,
        f"`learning_rate` must be a positive number; got {rate}. Try 0.002.",
    )
    require(
        math.isfinite(temperature) and temperature >= 0,
        f"`temperature` must be a finite number ≥ 0; got {temperature}. 0 leaves the "
        "prior out, 1 is the evidence bound.",
    )
    if settings.inclusion_prob is None:
        return None
    return SpikeSlabPrior(settings.inclusion_prob, settings.slab_scale)


def _refuse_other_settings(folder: Path, config: Mapping[str, Any]) -> None:
    old = read_config(folder)
    # An earlier version did not write down what it could not do otherwise.
    defaults = {
        field.name: field.default for field in dataclasses.fields(TrainSettings)
    }
    for part in ("data", "model", "training"):
        for name, value in config[part].items():
            before = old[part].get(name, defaults.get(name))
            require(
                json.dumps(before, sort_keys=True) == json.dumps(value, sort_keys=True),
                f"{folder} was trained with {name} = {before!r}; it cannot go on with "
                f"{value!r}. Use `meanfield train --resume {folder}` alone.",
            )


def score(
    run: Run, dataset: Dataset, *, num_samples: int = NUM_SAMPLES, seed: int = 0
) -> Metrics:
    """Score a run on its test set, in the units of the data; updates its metrics.

    Draws how calibrated it is and, for numbers, what it predicts.
    """
    key = jax.random.fold_in(jax.random.key(seed), 2)
    likelihood = run.units.likelihood(run.likelihood)
    x, y = jnp.asarray(dataset.x_test), jnp.asarray(dataset.y_test)
    settings = {"num_samples": num_samples, "key": key}
    metrics = evaluate(run.ensemble, (x, y), likelihood=likelihood, **settings)
    found = metrics.to_dict() | {"ece": metrics.ece}
    if metrics.by_output is not None:
        each = zip(target_names(dataset), metrics.by_output, strict=True)
        found["by_target"] = [{"target": name, **scores} for name, scores in each]
        found.pop("by_output")
    run.update_metrics(found)
    # The same call as in `evaluate`, whose compiled program serves again.
    means = average(run.ensemble, likelihood, x, y, **settings)
    if dataset.task in ("classification", "binary"):
        _draw_reliability(run, means["mean"], dataset)
    else:
        _draw_predictions(run, means, dataset)
    return metrics


def _draw_reliability(run: Run, probs: np.ndarray, dataset: Dataset) -> None:
    labels = dataset.y_test
    if dataset.task == "binary":
        labels, p = labels.reshape(-1).astype(int), probs.reshape(-1)
        probs = np.stack([1 - p, p], 1)
    curve = reliability_curve(probs, labels)
    axis = plots.reliability_diagram(curve.confidence, curve.accuracy, curve.counts)
    plots.save(axis, run.folder / "plots" / "reliability.png")


def _draw_predictions(
    run: Run, means: Mapping[str, np.ndarray], dataset: Dataset
) -> None:
    """Predicted against true numbers, target by target, and calibrated intervals."""
    folder, names = run.folder / "plots", target_names(dataset)
    y = dataset.y_test.reshape(len(dataset.y_test), -1)
    mean = means["mean"].reshape(y.shape)
    std = np.sqrt(means["aleatoric"] + means["epistemic"]).reshape(y.shape)
    for old in folder.glob("predictions-*.png"):
        old.unlink()
    for number, name in enumerate(names[:PICTURES]):
        title = name if dataset.target_names else ("target " + name) * (len(names) > 1)
        axis = plots.predictions(
            y[:, number], mean[:, number], std[:, number], name=title
        )
        plots.save(axis, folder / f"predictions-{number}.png")
    if "level" in means:
        levels = dict(zip(names, means["level"].reshape(y.shape).T, strict=True))
        plots.save(plots.interval_coverage(levels), folder / "coverage.png")


def label(run: Run, dataset: Dataset) -> Any:
    """Label every connection; writes ``connections.csv``, the metrics and two plots."""
    key = jax.random.fold_in(jax.random.key(run.config["training"]["seed"]), 3)
    x = dataset.x_train[:LABEL_EXAMPLES]
    labels = label_connections(run.ensemble, data=x, key=key)
    write_connections(run.folder / "connections.csv", run.ensemble, labels)
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
    folder = run.folder / "plots"
    for name, weight in run.ensemble.weights().items():
        file = f"landscape-{name.replace('/', '-')}.png"
        plots.save(plots.landscape(weight), folder / file)
    plots.save(plots.label_fractions(labels.fractions), folder / "labels.png")
    plots.save(plots.entropy_by_layer(entropies), folder / "entropy.png")
    return labels


def open_run(folder: str | Path, data_dir: str | None = None) -> tuple[Run, Dataset]:
    """A run and the data it was trained on."""
    run = load_run(folder)
    return run, run.load_data(data_dir)


def summary(metrics: Mapping[str, Any]) -> str:
    """The table that a person sees at the end."""
    names = {
        "accuracy": "test accuracy",
        "rmse": "test RMSE",
        "nll": "test NLL (nats)",
        "ece": "calibration error (ECE)",
        "coverage": "coverage of 95 % intervals",
        "epochs": "epochs",
        "train_seconds": "training seconds",
        "num_weights": "weights",
    }
    lines = [
        f"  {text:<28}{_number(metrics[name])}"
        for name, text in names.items()
        if metrics.get(name) is not None
    ]
    for scores in metrics.get("by_target", ()):
        parts = [
            f"{text.removeprefix('test ')} {_number(scores[name])}"
            for name, text in names.items()
            if name in scores
        ]
        lines.append(f"  {'  ' + scores['target']:<28}" + ", ".join(parts))
    if metrics.get("labels"):
        heads = ("important", "absent", "variable", "never learned")
        lines += ["", f"  {'layer':<24}" + "".join(f"{head:>15}" for head in heads)]
    for layer, fractions in metrics.get("labels", {}).items():
        never = metrics.get("never_learned", {}).get(layer)
        parts = [fractions[name] for name in ("important", "absent", "variable")]
        cells = "".join(f"{100 * part:>13.2f} %" for part in parts)
        cells += "" if never is None else f"{100 * never:>13.2f} %"
        lines.append(f"  {layer:<24}{cells}")
    return "\n".join(lines)


def _number(value: int | float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _config(settings: TrainSettings, dataset: Dataset) -> dict[str, Any]:
    likelihood = settings.likelihood or likelihood_of(dataset.task)
    targets = dataset.num_targets
    outputs = dataset.num_classes
    if outputs is None:
        kind = build_likelihood(likelihood, targets)
        outputs = kind.num_outputs(dataset.y_train)
    training = dataclasses.asdict(settings)
    for name in ("data", "data_dir", "target", "task", "test_fraction"):
        training.pop(name)
    for name in (
        "likelihood",
        "hidden",
        "out",
        "devices",
        "resume",
        "overwrite",
        "progress",
    ):
        training.pop(name)
    return {
        "format": FORMAT,
        "data": {
            "source": settings.data,
            "data_dir": settings.data_dir,
            "target": settings.target,
            "task": dataset.task,
            "test_fraction": settings.test_fraction,
            "seed": settings.seed,
            "sha256": dataset.sha256,
            "class_names": dataset.class_names,
            "target_names": dataset.target_names,
            "image_shape": dataset.image_shape,
            "schema": None if dataset.schema is None else dataset.schema.to_dict(),
        },
        "model": {
            "kind": "mlp",
            "inputs": dataset.num_features,
            "hidden": list(settings.hidden),
            "outputs": outputs,
            "likelihood": likelihood,
            "targets": targets,
        },
        "training": training,
        "versions": versions(),
    }


def _at_mean_rate(model: Any, counts: np.ndarray) -> Any:
    """A network of log-rates that starts at the mean count, not at a rate of 1."""
    mean = np.maximum(counts.reshape(len(counts), -1).mean(0), 1 / len(counts))
    bias = jnp.asarray(np.log(mean), jnp.float32)
    return eqx.tree_at(lambda network: network.layers[-1].bias, model, bias)


def sample(
    run: Run,
    dataset: Dataset,
    *,
    num_networks: int,
    out: Path,
    format: str = "safetensors",
    rule: str = "draw",
    together: bool = False,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw sub-networks, shrink them, write them with a card; see `deploy.ship`.

    The best of several is chosen on part of the training data; the card's scores are
    those of the test data.
    """
    labels = label_connections(run.ensemble)
    coalition = None
    if rule == "coalition":
        coalition = strong_masks(run.folder)
    networks = sample_subnetworks(
        run.ensemble,
        num_networks,
        key=jax.random.fold_in(jax.random.key(seed), 4),
        rule=rule,
        labels=labels,
        coalition=coalition,
    )
    x, y = dataset.x_train, dataset.y_train
    held = slice(-min(VALIDATION_EXAMPLES, len(x) // 5) or None, None)
    return ship(
        networks,
        out,
        data=(dataset.x_test, dataset.y_test),
        format=format,
        likelihood=run.units.likelihood(run.likelihood),
        validation=(x[held], y[held]),
        labels=labels,
        together=together,
        source={
            "run": str(run.folder),
            "data": run.config["data"]["source"],
            "data_sha256": run.config["data"]["sha256"],
            "model": run.config["model"],
            "targets": describe(run.config),
            "rule": rule,
            "seed": seed,
        },
    )


def export(archive: Path, *, format: str, out: Path) -> Exported:
    """Write an archive that `sample` made in another format, verified."""
    require(
        archive.is_file(),
        f"{archive} is no file. Give a .safetensors archive that `meanfield sample` "
        "made.",
    )
    model = load_archive(archive).about.get("source", {}).get("model")
    require(
        model is not None,
        f"{archive} does not say what kind of network it holds: it was not made by "
        "`meanfield sample`. Use meanfield.deploy.load_subnetwork and "
        "meanfield.deploy.export.",
    )
    return convert(archive, out, format=format, like=build_model(model, seed=0))


def serve_check(folder: Path) -> list[Checked]:
    """Load every file of a folder that `sample` made, and compare its outputs."""
    model = load_card(folder)["source"].get("model")
    like = None if model is None else build_model(model, seed=0)
    return check_shipped(folder, like=like)


def card_summary(card: Mapping[str, Any]) -> str:
    """The table that a person sees after `sample`."""
    scores = [shown_score(entry) for entry in card["subnetworks"]]
    metric, width = scores[0][0], max(10, *(len(text) + 2 for _, text in scores))
    head = f"  {'file':<26}{metric:>{width}}{'nll':>9}{'bytes':>12}{'weights':>10}"
    lines = [head + f"{'µs, batch 1':>13}{'batch 256':>11}"]
    for entry, (_, score) in zip(card["subnetworks"], scores, strict=True):
        latency = entry.get("latency") or {}
        lines.append(
            f"  {entry['file']:<26}{score:>{width}}{entry['nll']:>9.4f}"
            f"{entry['bytes']:>12,}{entry['num_nonzero']:>10,}"
            f"{latency.get('batch_1_us', float('nan')):>13.1f}"
            f"{latency.get('batch_256_us', float('nan')):>11.1f}"
        )
    return "\n".join(lines)


def coalitions(
    run: Run,
    dataset: Dataset,
    *,
    budget: int = 8_000,
    epsilon: float = 0.02,
    seed: int = 0,
) -> dict[str, Any]:
    """Strong coalitions of every hidden layer, earlier ones holding for later ones.

    Values are estimated on one part of the training data and certified on another.
    Writes ``coalitions.json``, two plots for each layer and one of the network.
    """
    x, y = dataset.x_train, run.units.standardise(dataset.y_train)
    half = min(GAME_EXAMPLES, len(x) // 2)
    first, second = (x[:half], y[:half]), (x[half : 2 * half], y[half : 2 * half])
    key = jax.random.key(seed)
    labels = label_connections(
        run.ensemble, data=x[:LABEL_EXAMPLES], key=jax.random.fold_in(key, 9)
    )
    played = play_layers(
        run.ensemble,
        first,
        second,
        key=jax.random.fold_in(key, 10),
        budget=budget,
        epsilon=epsilon,
        likelihood=run.likelihood,
    )
    folder = run.folder / "plots"
    found: dict[str, Any] = {}
    for number, (layer, turn) in enumerate(played.items()):
        values, strong = turn.values, turn.strong
        game = label_game(run.ensemble, layer, labels, first, likelihood=run.likelihood)
        shuffle_key = jax.random.fold_in(key, 20 + number)
        found[layer] = {
            "values": values.values.tolist(),
            "standard_errors": _finite(values.standard_errors),
            "intervals": _finite(values.intervals),
            "num_evaluations": int(values.num_evaluations),
            "null_players": turn.null_players.tolist(),
            "mask": strong.mask.tolist(),
            "memberships": strong.memberships.tolist(),
            "size": strong.size,
            "certified": strong.certified,
            "payoffs": strong.payoffs.tolist(),
            "label_game": game.values,
            "label_counts": game.counts,
            "links": _links(run.ensemble, labels, layer, first[0], strong, shuffle_key),
        }
        name = layer.replace("/", "-")
        axis = plots.shapley_values(values.values, values.intervals, mask=strong.mask)
        plots.save(axis, folder / f"coalition-values-{name}.png")
        curve = plots.payoff_curves({"by Shapley value": strong.payoffs})
        plots.save(curve, folder / f"coalition-payoff-{name}.png")
    masks = {layer: turn.strong.mask for layer, turn in played.items()}
    plots.save(
        plots.coalition_network(masks, _between(run.ensemble, list(masks))),
        folder / "coalition-network.png",
    )
    content = {
        "payoff": next(iter(played.values())).payoff,
        "epsilon": epsilon,
        "examples": half,
        "seed": seed,
        "layers": found,
    }
    write_json(run.folder / "coalitions.json", content)
    return content


def _links(ensemble, labels, layer, x, strong, key) -> dict[str, Any]:
    """Connections of every neuron, and whether strong ones hold more important ones."""
    links = neuron_links(ensemble, labels, layer, x[:1])
    test = None
    if 0 < strong.size < len(strong.mask):
        found = link_test(strong.mask, links.total("important"), key=key)
        test = dataclasses.asdict(found)
    return {
        "incoming": {label: n.tolist() for label, n in links.incoming.items()},
        "outgoing": {label: n.tolist() for label, n in links.outgoing.items()},
        "expected_in": links.expected_in.tolist(),
        "expected_out": links.expected_out.tolist(),
        "important_in_strong": test,
    }


def _between(ensemble: Ensemble, layers: list[str]) -> list[np.ndarray]:
    """Mean weights from each hidden layer to the next, (units, next units)."""
    weights = {n.rpartition("/")[0]: w for n, w in ensemble.weights().items()}
    return [np.asarray(weights[layer].mean).T for layer in layers[1:]]


def _finite(values: np.ndarray) -> list[Any]:
    """Nested lists; null where a number is not finite, which JSON cannot say."""
    return [
        _finite(value)
        if np.ndim(value)
        else float(value)
        if np.isfinite(value)
        else None
        for value in values
    ]


def coalitions_summary(found: Mapping[str, Any]) -> str:
    """The tables that a person sees after `coalitions`."""
    head = f"  {'layer':<20}{'neurons':>9}{'strong':>8}{'payoff':>9}{'of':>9}"
    lines = [head + "   label game (important, absent, variable)"]
    for layer, entry in found["layers"].items():
        shares = ", ".join(
            f"{entry['label_game'][name]:+.3f}"
            for name in ("important", "absent", "variable")
        )
        lines.append(
            f"  {layer:<20}{len(entry['mask']):>9}{entry['size']:>8}"
            f"{entry['payoffs'][entry['size']]:>9.4f}{entry['payoffs'][-1]:>9.4f}"
            f"   {shares}"
        )
    lines += ["", "  important connections of a neuron, in and out"]
    lines.append(f"  {'layer':<20}{'strong':>9}{'others':>8}{'effect':>9}{'p':>9}")
    for layer, entry in found["layers"].items():
        test = entry["links"]["important_in_strong"]
        if test is None:
            lines.append(f"  {layer:<20}   all neurons are on one side: no comparison")
            continue
        lines.append(
            f"  {layer:<20}{test['inside']:>9.2f}{test['outside']:>8.2f}"
            f"{test['effect']:>9.2f}{test['p_value']:>9.4f}"
        )
    return "\n".join(lines)


def strong_masks(folder: Path) -> dict[str, np.ndarray]:
    """Masks of the strong coalitions that ``coalitions.json`` holds, by layer."""
    path = folder / "coalitions.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no coalitions.json yet; make it with `meanfield coalitions "
            f"{folder}`."
        )
    layers = json.loads(path.read_text())["layers"]
    return {name: np.asarray(entry["mask"], bool) for name, entry in layers.items()}
