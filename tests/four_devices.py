"""Training on one device, four devices, and two processes; run by test_devices.py.

python four_devices.py                    one process, four virtual devices
python four_devices.py PORT NUMBER        one of two processes with two devices each
"""

import json
import os
import sys

PROCESSES = 2 if len(sys.argv) > 1 else 1
# Beside the flags with which the tests compile quickly.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        f"--xla_force_host_platform_device_count={4 // PROCESSES}",
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402

if PROCESSES > 1:
    jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", PROCESSES, int(sys.argv[2]))

import equinox as eqx  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.sharding import NamedSharding, PartitionSpec  # noqa: E402

import meanfield as mf  # noqa: E402

KEY = jax.random.key(0)
BATCH = 32
# One step an epoch: the history is the loss of every step.
X = np.random.default_rng(0).normal(size=(2 * BATCH - 1, 6)).astype(np.float32)
Y = (X[:, 0] * X[:, 1] > 0).astype(np.int32)


def learn(width, data=(X, Y), epochs=100, batch_size=BATCH, **settings):
    network = eqx.nn.MLP(6, 2, width, 1, key=KEY)
    return mf.fit(
        mf.Ensemble.from_model(network, key=KEY),
        data,
        key=KEY,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optax.adam(1e-3),
        progress=False,
        **{"prior": None, **settings},
    )


def batches(steps, spread=None):
    """Batches of 8, each process holding them whole or, spread, its own part."""
    for start in range(0, 8 * steps, 8):
        rows = slice(start, start + 8)
        if spread is None:
            yield X[rows], Y[rows]
            continue
        own = np.array_split(np.arange(8) + start, PROCESSES)[jax.process_index()]
        yield tuple(
            jax.make_array_from_process_local_data(spread, array[own])
            for array in (X, Y)
        )


def losses():
    """Loss of every step, by the way it was trained."""
    split = mf.learning.device_mesh(4)
    if PROCESSES > 1:
        rows = NamedSharding(split, PartitionSpec("data"))
        return {
            "arrays": learn(32, mesh=split),
            "batches": learn(32, lambda: batches(3, rows), 5, mesh=split),
        }
    return {
        "arrays": [learn(32), learn(32, mesh=split)],
        "batches": [
            learn(32, lambda: batches(3), 5),
            learn(32, lambda: batches(3), 5, mesh=split),
        ],
        "accumulated": [
            learn(32, epochs=5, accumulate=4),
            learn(32, epochs=5, accumulate=4, mesh=split),
        ],
        "wide": [
            learn(1024, epochs=5),
            learn(1024, epochs=5, mesh=mf.learning.device_mesh(2, 2)),
        ],
    }


def predictions():
    """The mean prediction for 60 inputs, alone and spread over four devices."""
    ensemble = mf.Ensemble.from_model(eqx.nn.MLP(6, 2, 32, 1, key=KEY), key=KEY)
    return [
        mf.predict(ensemble, X[:60], key=KEY, mesh=mesh).mean.tolist()
        for mesh in (None, mf.learning.device_mesh(4))
    ]


def shapley_values():
    """Values of eight neurons, alone and with the examples spread over four devices."""
    ensemble = mf.Ensemble.from_model(eqx.nn.MLP(6, 2, 8, 1, key=KEY), key=KEY)
    data, layer = (X[:60], Y[:60]), "layers/0"
    games = [
        mf.NeuronGame(ensemble, layer, data, mesh=mesh, num_samples=2, key=KEY)
        for mesh in (None, mf.learning.device_mesh(4))
    ]
    return [
        mf.shapley_values(game, 8, budget=180, key=KEY).values.tolist()
        for game in games
    ]


def refusals():
    """What a batch that four devices cannot share is answered."""
    messages = []
    for data in ((X[:30], Y[:30]), [(X[:30], Y[:30])]):
        try:
            learn(8, data, 1, mesh=mf.learning.device_mesh(4), batch_size=30)
        except ValueError as error:
            messages.append(str(error))
    return messages


if __name__ == "__main__":
    found = losses()
    found = jax.tree.map(lambda result: result.history["loss"], found)
    if PROCESSES == 1:
        found["predictions"] = predictions()
        found["shapley_values"] = shapley_values()
        found["refusals"] = refusals()
    if jax.process_index() == 0:
        print(json.dumps(found))
