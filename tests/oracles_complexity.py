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


def ising_bits(length: int, temperature: float, examples: int, seed: int = 0):
    """Spins of a periodic square lattice below its transition, up or down at random.

    Half of the lattice is drawn given the other half, in turn; each example is a chain
    of its own, started ordered.
    """
    rng = np.random.default_rng(seed)
    spins = np.ones((examples, length, length), np.int8)
    even = np.add.outer(np.arange(length), np.arange(length)) % 2 == 0
    for _ in range(60):
        for half in (even, ~even):
            field = sum(np.roll(spins, d, a) for d in (1, -1) for a in (1, 2))
            up = 1 / (1 + np.exp(-2 / temperature * np.arange(-4, 5)))
            drawn = rng.random(spins.shape, np.float32) < up[field + 4]
            spins = np.where(half, 2 * drawn.astype(np.int8) - 1, spins)
    spins *= rng.choice(np.array([-1, 1], np.int8), size=(examples, 1, 1))
    return spins.reshape(examples, -1) > 0


def ising_entropy(length: int, temperature: float) -> float:
    """Entropy in bits of the same lattice, ln Z + U/T (Kaufman 1949, Phys. Rev. 76)."""
    step, coupling = 1e-5, 1 / temperature
    energy = ising_log_z(length, coupling - step) - ising_log_z(length, coupling + step)
    energy /= 2 * step
    return (ising_log_z(length, coupling) + coupling * energy) / np.log(2)


def ising_log_z(length: int, coupling: float) -> float:
    """ln Z of the periodic length × length lattice at K = 1/T."""
    angle = np.pi * np.arange(1, 2 * length) / length
    ratio = np.cosh(2 * coupling) / np.tanh(2 * coupling)
    first = 2 * coupling + np.log(np.tanh(coupling))
    gamma = np.r_[first, np.arccosh(ratio - np.cos(angle))] * length / 2
    size = np.abs(gamma)
    cosh = size + np.log1p(np.exp(-2 * size))  # ln of twice the function
    sinh = size + np.log(-np.expm1(-2 * size))
    parts = [cosh[1::2].sum(), sinh[1::2].sum(), cosh[::2].sum(), sinh[::2].sum()]
    signs = np.array([1, 1, 1, np.sign(first)])
    total = max(parts) + np.log(signs @ np.exp(np.array(parts) - max(parts)))
    return length**2 / 2 * np.log(2 * np.sinh(2 * coupling)) - np.log(2) + total
