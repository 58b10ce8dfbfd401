"""Draws the picture of the README: `python docs/overview.py`.

Left: three weights, to explain the labels. Then an ensemble learns the embedded digits.
Middle: where on the image its important connections begin. Right: the error on test
images while connections are removed.
"""

from pathlib import Path

import equinox as eqx
import jax
import matplotlib.pyplot as plt
import numpy as np

import meanfield as mf
from meanfield import data

SEED = 0
EPOCHS = 20
# π, m and √Ξ of the weights that explain the labels; they are made up.
WEIGHTS = {
    "important": (0.0, 0.8, 0.1),
    "variable": (0.5, 0.3, 0.15),
    "absent": (1.0, 0.0, 0.1),
}
COLOURS = ("#0072B2", "#E69F00", "#999999")
TO = Path(__file__).parent / "images" / "overview.png"


def train(digits):
    """An ensemble of a small network, trained on the digits."""
    keys = jax.random.split(jax.random.key(SEED), 3)
    network = eqx.nn.MLP(64, 10, 100, 2, key=keys[0])
    ensemble = mf.Ensemble.from_model(network, key=keys[1])
    pair = digits.x_train, digits.y_train
    options = {"epochs": EPOCHS, "batch_size": 32, "progress": False}
    return mf.fit(ensemble, pair, key=keys[2], **options).ensemble


def draw_weights(axis) -> None:
    """Three weights: the bar at zero is the spike, the curve the slab."""
    w = np.linspace(-0.6, 1.3, 400)
    for number, (name, (spike, mean, std)) in enumerate(WEIGHTS.items()):
        density = (1 - spike) * np.exp(-(((w - mean) / std) ** 2) / 2) / std
        style = {"color": COLOURS[number], "lw": 2}
        axis.plot(w, density, label=f"{name}: π = {spike}", **style)
        axis.vlines(0.03 * (number - 1), 0, 10 * spike, lw=4, color=style["color"])
    axis.set(
        title="a weight is a spike and a slab", xlabel="w", yticks=[], ylim=(0, 15)
    )
    axis.legend(frameon=False, fontsize="small")


def main() -> None:
    """Draw and save it."""
    digits = data.load("digits")
    ensemble = train(digits)
    key = jax.random.key(SEED)
    labels = mf.label_connections(ensemble, data=digits.x_train, key=key)
    figure, axes = plt.subplots(1, 3, figsize=(10, 3), width_ratios=[1.2, 1, 1.4])
    draw_weights(axes[0])
    codes = np.asarray(labels.labels["layers/0/weight"])
    learned = ~np.asarray(labels.never_learned["layers/0/weight"])
    share = ((codes == mf.Label.IMPORTANT) & learned).mean(0).reshape(8, 8)
    image = axes[1].imshow(100 * share, cmap="cividis")
    axes[1].set(title="important, % by pixel", xticks=[], yticks=[])
    figure.colorbar(image, ax=axes[1], fraction=0.046)
    pair = digits.x_test, digits.y_test
    damage = mf.credit.perturb_connections(ensemble, labels, pair, key=key)
    curves = mf.plots.perturbation_curves(damage, axes[2])
    curves.set(title="removing connections", ylim=(0, 1.4), yticks=[0, 0.5, 1])
    figure.tight_layout()
    TO.parent.mkdir(exist_ok=True)
    figure.savefig(TO, dpi=100)
    print(f"wrote {TO.relative_to(Path.cwd())} ({TO.stat().st_size // 1000} kB)")


if __name__ == "__main__":
    main()
