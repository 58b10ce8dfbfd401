"""Choose the weights that are drawn; the others have noise in pre-activations."""

from collections.abc import Callable, Mapping, Sequence

from meanfield.checks import require

Noise = str | Mapping[str, str] | Callable[[str], str]
KINDS = ("preactivations", "weights")


def drawn_leaves(names: Sequence[str], noise: Noise) -> frozenset[str]:
    """The random leaves that are drawn as weights.

    Args:
        names: path names of all random leaves.
        noise: as for `mean_field`.

    Raises:
        ValueError: an unknown kind of noise, or a name that no random leaf has.
    """
    if isinstance(noise, Mapping):
        unknown = sorted(set(noise) - set(names))
        require(
            not unknown,
            f"`noise` must name random parameters, which are {list(names)}; got "
            f"{unknown}.",
        )
        kinds = {name: noise.get(name, "preactivations") for name in names}
    elif isinstance(noise, str):
        kinds = dict.fromkeys(names, noise)
    else:
        kinds = {name: noise(name) for name in names}
    for name, kind in kinds.items():
        require(
            kind in KINDS,
            f"`noise` must be 'preactivations' or 'weights'; got {kind!r} for "
            f"{name!r}.",
        )
    return frozenset(name for name, kind in kinds.items() if kind == "weights")
