"""Error rates of the lognormal verdict, over draws of null and true distributions.

    python experiments/benchmarks/microstructure_power.py --draws 1000 --sizes 2000

For every distribution and size it prints the fraction of each verdict. The aim is at
most 1 % "lognormal" for every null, and at least 95 % for true lognormals.
"""

import argparse
import collections
import time

import jax
import numpy as np

from meanfield.keys import numpy_generator
from meanfield.physics.microstructure.lognormal_fit import fit_microstructure

MIN_CUT = 0.25


def _gaussian_without_small(rng: np.random.Generator, size: int) -> np.ndarray:
    """Gaussian weights whose |w| < 0.25 rms were dropped; they look lognormal."""
    draws = rng.normal(size=2 * size)
    return draws[np.abs(draws) >= MIN_CUT][:size]


def _birnbaum_saunders(rng: np.random.Generator, shape: float, size: int) -> np.ndarray:
    return np.exp(2 * np.arcsinh(shape * rng.normal(size=size) / 2))


DISTRIBUTIONS = {
    "gaussian": lambda rng, size: rng.normal(size=size),
    "laplace": lambda rng, size: rng.laplace(size=size),
    "student-3": lambda rng, size: rng.standard_t(3, size=size),
    "uniform": lambda rng, size: rng.uniform(-1, 1, size=size),
    "pruned-gaussian": _gaussian_without_small,
    # Spreads of ln w of about 0.3 and 0.65: nearly lognormal.
    "inverse-gaussian-0.3": lambda rng, size: rng.wald(1.0, 1 / 0.09, size=size),
    "inverse-gaussian-0.65": lambda rng, size: rng.wald(1.0, 1 / 0.45, size=size),
    "birnbaum-saunders-0.3": lambda rng, size: _birnbaum_saunders(rng, 0.3, size),
    "birnbaum-saunders-0.65": lambda rng, size: _birnbaum_saunders(rng, 0.67, size),
    "lognormal-0.30": lambda rng, size: rng.lognormal(-3.0, 0.30, size=size),
    "lognormal-0.65": lambda rng, size: rng.lognormal(-3.2225, 0.65, size=size),
    "lognormal-1.50": lambda rng, size: rng.lognormal(-3.0, 1.50, size=size),
}
NULLS = tuple(name for name in DISTRIBUTIONS if not name.startswith("lognormal"))


def measure_distribution(
    name: str, size: int, draws: int, seed: int
) -> dict[str, float]:
    """Fraction of each verdict over independent draws of one distribution."""
    verdicts = collections.Counter()
    for key in jax.random.split(jax.random.key(seed), draws):
        verdicts[
            fit_microstructure(
                DISTRIBUTIONS[name](numpy_generator(key, spawn_key=(1,)), size)
            ).verdict
        ] += 1
    return {verdict: count / draws for verdict, count in verdicts.items()}


def main() -> None:
    """Print one row for every distribution and size."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--draws", type=int, default=200, help="draws of every distribution"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 200_000])
    parser.add_argument(
        "--distributions",
        nargs="+",
        default=list(DISTRIBUTIONS),
        choices=list(DISTRIBUTIONS),
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="small, a minute or two")
    settings = parser.parse_args()
    if settings.quick:
        settings.draws, settings.sizes = 10, [2_000]
    for size in settings.sizes:
        for name in settings.distributions:
            start = time.perf_counter()
            shares = measure_distribution(name, size, settings.draws, settings.seed)
            wrong = (
                shares.get("lognormal", 0.0)
                if name in NULLS
                else 1 - shares.get("lognormal", 0.0)
            )
            rest = ", ".join(f"{v} {s:.1%}" for v, s in sorted(shares.items()))
            print(
                f"{name:22s} n = {size:7d}  wrong {wrong:6.2%}  ({rest})  "
                f"{settings.draws} draws, {time.perf_counter() - start:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
