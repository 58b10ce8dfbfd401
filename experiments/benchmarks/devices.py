"""Examples per second on 1, 2 and 4 virtual devices of one CPU.

Virtual devices share the cores, so more devices cannot be faster: the result is the
cost of splitting a batch and of reducing the gradients. Each number of devices has its
own process; rounds alternate, and medians are reported.

    python experiments/benchmarks/devices.py
"""

import argparse
import json
import os
import subprocess
import sys

import numpy as np

DEVICES = (1, 2, 4)
EXAMPLES, BATCH, WIDTHS = 16_384, 512, (784, 400, 400, 10)
ROUNDS, EPOCHS = 3, 4
SEED = 0


def measure(devices: int) -> None:
    """Print seconds per epoch, in a process with this number of devices."""
    import jax

    import meanfield as mf
    from meanfield.ensemble.networks import mlp

    key = jax.random.key(SEED)
    x = jax.random.uniform(key, (EXAMPLES, WIDTHS[0]))
    y = jax.random.randint(key, (EXAMPLES,), 0, WIDTHS[-1])
    result = mf.fit(
        mf.Ensemble.from_model(mlp(WIDTHS, key=key), key=key),
        (x, y),
        key=key,
        epochs=EPOCHS,
        batch_size=BATCH,
        mesh=None if devices == 1 else mf.learning.device_mesh(devices),
        progress=False,
        prior=None,
    )
    # The first epoch compiles.
    seconds = min(result.history["seconds"][1:])
    print(json.dumps({"seconds": seconds, "nll": result.history["nll"][-1]}))


def main(devices_tried: tuple[int, ...], rounds: int) -> None:
    """Measure in turn and print a table."""
    found = {devices: [] for devices in devices_tried}
    for _ in range(rounds):
        for devices in devices_tried:
            flag = f"--xla_force_host_platform_device_count={devices}"
            done = subprocess.run(
                [sys.executable, __file__, "--devices", str(devices)],
                env=os.environ | {"XLA_FLAGS": flag, "JAX_PLATFORMS": "cpu"},
                capture_output=True,
                text=True,
                check=True,
            )
            found[devices].append(json.loads(done.stdout.splitlines()[-1]))
    print("devices  examples/s  against one  NLL after the last epoch")
    base = np.median([row["seconds"] for row in found[1]])
    for devices, rows in found.items():
        seconds = np.median([row["seconds"] for row in rows])
        print(
            f"{devices:7d}  {EXAMPLES / seconds:10,.0f}  {base / seconds:11.2f}  "
            f"{rows[0]['nll']:.6f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    given = parser.parse_args()
    if given.devices:
        measure(given.devices)
    else:
        main(DEVICES[:2] if given.quick else DEVICES, 1 if given.quick else ROUNDS)
