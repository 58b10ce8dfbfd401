"""Binary states whose entropy is known."""

import numpy as np


def fair_bits(examples: int, units: int, seed: int = 0) -> np.ndarray:
    """Independent fair units: H = n."""
    return np.random.default_rng(seed).random((examples, units)) < 0.5


def markov_bits(examples: int, units: int, flip: float, seed: int = 0) -> np.ndarray:
    """Each unit copies the one before it, but for a flip: H = 1 + (n − 1) h(flip)."""
    rng = np.random.default_rng(seed)
    flips = rng.random((examples, units)) < flip
    flips[:, 0] = rng.random(examples) < 0.5
    return np.cumsum(flips, axis=1) % 2 == 1
