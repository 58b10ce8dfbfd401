"""Kill a training run at random moments, and compare its result bit by bit.

`meanfield train` on the embedded digits is killed by SIGKILL repeatedly, each time at a
random moment: while it imports, compiles, learns or writes a checkpoint. Each time it
is continued with `--resume`. In the end, its ensemble must equal that of an undisturbed
run byte by byte.

    python experiments/benchmarks/resume.py
"""

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SEED = 0
EPOCHS = 1500
COMMAND = [sys.executable, "-m", "meanfield", "train", "--quiet"]
SETTINGS = ["--hidden", "8", "--epochs", str(EPOCHS), "--batch-size", "128"]
SETTINGS += ["--rule", "published"]


def last_epoch(run: Path) -> int:
    """The epoch of the newest checkpoint."""
    files = (run / "checkpoints").glob("epoch-*.safetensors")
    return max((int(file.stem.removeprefix("epoch-")) for file in files), default=0)


def main() -> None:
    """Kill, continue, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    given = parser.parse_args()
    kills = 1 if given.quick else given.kills
    rng = np.random.default_rng(SEED)
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        started = time.perf_counter()
        subprocess.run([*COMMAND, *SETTINGS, "--out", str(whole)], check=True)
        whole_seconds = time.perf_counter() - started
        print(f"undisturbed: {EPOCHS} epochs in {whole_seconds:.1f} s")
        start_seconds = 0.0
        done = 0
        while done < kills:
            fresh = not (broken / "config.json").is_file()
            words = [*SETTINGS, "--out"] if fresh else ["--resume"]
            before = last_epoch(broken)
            process = subprocess.Popen([*COMMAND, *words, str(broken)])
            started = time.perf_counter()
            # Half of the moments are during the start, half during learning.
            if rng.random() < 0.5 and start_seconds:
                time.sleep(rng.uniform(0, start_seconds))
            else:
                while last_epoch(broken) == before and process.poll() is None:
                    time.sleep(0.01)
                start_seconds = time.perf_counter() - started
                time.sleep(rng.uniform(0, 0.4 * whole_seconds / kills))
            if process.poll() is not None:
                sys.exit(f"the run ended by itself after {done} kills; more EPOCHS")
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
            print(f"kill {done:2d}: epoch {before} → {last_epoch(broken)}", flush=True)
        subprocess.run([*COMMAND, "--resume", str(broken)], check=True)
        one, two = (
            (run / "ensemble.safetensors").read_bytes() for run in (whole, broken)
        )
        print(f"{done} kills: {'equal' if one == two else 'DIFFERENT'} to the last bit")
        sys.exit(0 if one == two else 1)


if __name__ == "__main__":
    main()
