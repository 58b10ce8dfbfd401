"""A network whose weights are distributions: the ensemble of its sub-networks."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PRNGKeyArray

from meanfield.checks import require
from meanfield.propagation import count_readings, mean_field
from meanfield.propagation.noise_kinds import Noise, drawn_leaves
from meanfield.spikeslab import SpikeSlab, is_spike_slab
from meanfield.trees import map_named, named_leaves

from .conversion import random_weights
from .frameworks import Call, open_model
from .frozen import Frozen, Where, frozen_names
from .initial import Initial
from .opened import OpenedModel, Training


class Ensemble(eqx.Module):
    """A network of the user's type with spike-and-slab weights.

    Make one with `Ensemble.from_model`. It is a frozen pytree: every operation returns
    a new ensemble.

    Attributes:
        params: the parameters; random leaves are `SpikeSlab`s, others point values.
        apply_fn: ``apply_fn(params, x)``, the outputs for a batch in inference mode.
        rebuild: function from point parameters to a model of the user's type.
        frozen: path names of the point values that are not learned.
        call: the argument `call` of `from_model`, or None.
        training: the network in training mode, if it differs, and the names of the
            state that training changes.
        drawn: path names of the weights that are drawn once per call, as in a
            sub-network; see `with_noise`.
        shared_readings: path names of the weights that one example uses more than once,
            if `from_model` got an `example`; see `readings`.
    """

    params: Any
    apply_fn: Callable[..., Any] = eqx.field(static=True)
    rebuild: Callable[[Any], Any] = eqx.field(static=True)
    frozen: tuple[str, ...] = eqx.field(static=True, default=())
    drawn: tuple[str, ...] = eqx.field(static=True, default=())
    shared_readings: tuple[str, ...] | None = eqx.field(static=True, default=None)
    call: Call | None = eqx.field(static=True, default=None)
    training: Training | None = eqx.field(static=True, default=None)

    @classmethod
    def from_model(
        cls,
        model: Any,
        *,
        key: PRNGKeyArray | None = None,
        initial: Initial | str | None = None,
        where: Where | None = None,
        spikes: str = "connection",
        example: Any = None,
        noise: Noise = "preactivations",
        call: Call | None = None,
        frozen: Frozen = (),
    ) -> "Ensemble":
        r"""Turn a network into an ensemble.

        Args:
            model: an Equinox module (acts on one example and is vmapped) or its pair
                ``(module, state)``, a Flax NNX module, the pair ``(module, variables)``
                of a Flax Linen module, or a pair ``(apply_fn, params)`` with
                ``apply_fn(params, x)`` acting on a batch. A module in training mode is
                trained in this mode, and evaluated, sampled and shipped in inference
                mode.
            key: with a key, new weights are drawn (`initial` is "critical"); without a
                key the model's own weights become the slab means ("model").
            initial: "critical", σ_w² = 2 in every layer, so that activations keep their
                scale at any depth (see `meanfield.ensemble.critical`); "model", for a
                network that is already trained; or a function of (path name, array,
                fan-in, key) that returns a `SpikeSlab`.
            where: ``where(path_name, array)``, whether a floating-point leaf becomes
                random. Default: those of two or more dimensions; biases and norm
                scales stay point values, and are learned too.
            spikes: "connection" for a spike of each connection; or "unit" for one spike
                of all connections from an input unit of a layer (group sparsity). Then
                whole units are present or absent, and a drawn sub-network can be
                shrunk. Look-ups and grouped convolutions keep a spike per connection.
            example: a batch of inputs, or its `jax.ShapeDtypeStruct`. With it, every
                fan-in is found from the program, and `shared_readings` is set. Without
                it, fan-ins are guessed from the layers' types, names and shapes;
                outside Equinox and NNX these do not distinguish layers stacked for a
                `scan` from a convolution.
            noise: "preactivations" (default), "weights", or a mapping or function from
                path names to either; see `with_noise`.
            call: ``call(module, x)``, how the module is called, if not as
                ``module(x)``: another method, or further arguments. Like the module
                itself it gets one example in Equinox, a batch in Flax. Pass the same
                function to `mf.deploy.shrink` and `mf.deploy.export`.
            frozen: parameters that stay as they are, neither random nor learned: path
                names or beginnings of them (``"layers/0"`` is all of that layer), or
                a function like `where`.

        Returns:
            The ensemble before training.

        Raises:
            ValueError: nothing in the model can be random, or it is float16;
                `initial`, `spikes` or `noise` is unknown; `initial` needs a key and
                `key` is None; or `frozen` has a name that matches nothing.
            TypeError: `model` is of no supported kind.

        Example:
            >>> import equinox as eqx, jax, meanfield as mf
            >>> net = eqx.nn.MLP(4, 3, 16, 2, key=jax.random.key(0))
            >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
            >>> sorted(ensemble.weights())[0]
            'layers/0/weight'
        """
        opened = open_model(model, call)
        frozen = frozen_names(opened.params, frozen)
        made = random_weights(
            model,
            opened,
            frozen,
            key=key,
            initial=initial,
            where=where,
            spikes=spikes,
            example=example,
            noise=noise,
        )
        opened = dataclasses.replace(opened, params=made)
        ensemble = cls._opened(opened, frozen, call).with_noise(noise)
        if example is None:
            return ensemble
        one = jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((1, *a.shape[1:]), a.dtype), example
        )
        several = tuple(n for n, times in ensemble.readings(one).items() if times > 1)
        return dataclasses.replace(ensemble, shared_readings=several)

    @classmethod
    def from_points(
        cls, model: Any, *, call: Call | None = None, frozen: Frozen = ()
    ) -> "Ensemble":
        """An ordinary network as an ensemble in which every weight is a point value.

        It can be used like any ensemble; `fit` trains it by ordinary back-propagation.

        Args:
            model: as for `from_model`.
            call: as for `from_model`.
            frozen: as for `from_model`.

        Raises:
            ValueError: `frozen` has a name that matches nothing.
            TypeError: `model` is of no supported kind.

        Example:
            >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
            >>> net = eqx.nn.MLP(4, 3, 16, 2, key=jax.random.key(0))
            >>> point, x = mf.Ensemble.from_points(net), jnp.ones((5, 4))
            >>> ordinary = eqx.filter_jit(lambda net, x: jax.vmap(net)(x))
            >>> bool((point(x, key=jax.random.key(1)) == ordinary(net, x)).all())
            True
        """
        opened = open_model(model, call)
        return cls._opened(opened, frozen_names(opened.params, frozen), call)

    @classmethod
    def _opened(
        cls, opened: OpenedModel, frozen: tuple[str, ...], call: Call | None
    ) -> "Ensemble":
        training = opened.training
        return cls(
            opened.params,
            opened.apply_fn,
            opened.rebuild,
            (*opened.frozen, *frozen),
            call=call,
            training=training and training.holding(frozen),
        )

    def __call__(self, x: Any, *, key: PRNGKeyArray, noise: Noise | None = None) -> Any:
        """Outputs for a batch, with one draw of the noise for each example.

        Args:
            x: a batch, first axis the examples.
            key: a `jax.random.key`.
            noise: as for `with_noise`; by default the ensemble's own. Noise in the
                weights is drawn once for the whole batch.
        """
        ensemble = self if noise is None else self.with_noise(noise)
        return _outputs(ensemble, x, key)

    def with_noise(self, noise: Noise) -> "Ensemble":
        r"""The ensemble with its noise in the pre-activations, or in the weights.

        Noise in the pre-activations is exact for a single product, fast, and of small
        variance. But if one example uses a weight several times (a convolution, a loop,
        attention, tied layers: see `readings`), each use has independent noise, and an
        exported network, in which all uses share the weight, may have worse scores than
        the ensemble. With noise in the weights, they are drawn once per call, as in a
        sub-network; see `meanfield.mean_field`. All functions of the ensemble then use
        this noise.

        Args:
            noise: "preactivations", "weights", or a mapping or function from path names
                to either.

        Raises:
            ValueError: an unknown kind of noise, or a name that the ensemble lacks.

        Example:
            >>> import equinox as eqx, jax, meanfield as mf
            >>> net = eqx.nn.GRUCell(4, 3, key=jax.random.key(0))
            >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
            >>> ensemble.with_noise({"weight_hh": "weights"}).drawn
            ('weight_hh',)
        """
        names = list(self.weights())
        drawn = drawn_leaves(names, noise)
        kept = tuple(name for name in names if name in drawn)
        return dataclasses.replace(self, drawn=kept)

    def noise(self, name: str) -> str:
        """The noise of a weight: "preactivations" or "weights"."""
        # If the parameters are a single array, its name is `params`.
        own = name in self.drawn or (name == "params" and "" in self.drawn)
        return "weights" if own else "preactivations"

    @property
    def network(self) -> Callable[..., Any]:
        """``network(params, x, key=key)``, the outputs of the ensemble for a batch."""
        return mean_field(self.apply_fn, noise=self.noise)

    def readings(self, x: Any) -> dict[str, int | float]:
        """The number of pre-activations that use each weight, by path name.

        Pass a batch of one example for the number per example: 1 in a dense layer, the
        number of positions in a convolution, of steps in a loop (infinite if unknown),
        of entries of a sequence in attention. A weight that is used more than once has
        independent noise in each use; see `with_noise`.

        Args:
            x: a batch, or its `jax.ShapeDtypeStruct`.

        Example:
            >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
            >>> net = eqx.nn.Conv1d(2, 3, kernel_size=3, key=jax.random.key(0))
            >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
            >>> ensemble.readings(jnp.ones((1, 2, 10)))["weight"]
            8
        """
        found = count_readings(self.apply_fn, self.params, x).times
        return {name: found.get(name or "params", 0) for name in self.weights()}

    def moments(self, x: Any) -> Any:
        """Mean and variance of the outputs for a batch, in one pass without sampling.

        Entries of a signal are treated as independent.
        """
        return _moments(self, x)

    def weights(self) -> dict[str, SpikeSlab]:
        """The random weights by path name, such as ``"layers/0/weight"``."""
        leaves = named_leaves(self.params, is_leaf=is_spike_slab)
        return {name: leaf for name, leaf in leaves.items() if is_spike_slab(leaf)}

    def state(self) -> dict[str, Array]:
        """State of the model that `fit` changes, such as batch statistics, by name."""
        if self.training is None:
            return {}
        leaves = named_leaves(self.params, is_leaf=is_spike_slab)
        return {name: leaves[name] for name in self.training.moving}

    def with_state(self, state: Mapping[str, Array]) -> "Ensemble":
        """The ensemble with another state; see `state`."""
        if not state:
            return self
        params = map_named(
            lambda name, leaf: state.get(name, leaf), self.params, is_spike_slab
        )
        return eqx.tree_at(lambda e: e.params, self, params)

    def with_weights(self, weights: Mapping[str, SpikeSlab | Array]) -> "Ensemble":
        """The ensemble with some random weights replaced, by path name.

        Raises:
            ValueError: a name is unknown, or a weight has another shape.
        """
        own = self.weights()
        for name, weight in weights.items():
            require(
                name in own and own[name].shape == weight.shape,
                "`weights` must have names and shapes of the ensemble's weights, "
                f"{ {name: own[name].shape for name in own} }; got {name!r} of shape "
                f"{weight.shape}.",
            )
        params = map_named(
            lambda name, leaf: weights.get(name, leaf), self.params, is_spike_slab
        )
        return eqx.tree_at(lambda e: e.params, self, params)

    def model(self, choose: Callable[[str, SpikeSlab], Array]) -> Any:
        """An ordinary model of the user's type, with an array for each random weight.

        Args:
            choose: ``choose(path_name, weight)``, the array for a weight.
        """
        return self.rebuild(self._points(choose))

    def sample(self, key: PRNGKeyArray) -> Any:
        """Draw a sub-network: an ordinary model with exact zeros.

        Every connection is absent with probability π, else drawn from its slab.
        """
        return self.rebuild(self.sample_params(key))

    def sample_params(self, key: PRNGKeyArray) -> Any:
        """Parameters of the sub-network that `sample` draws with the same key.

        Args:
            key: a `jax.random.key`.

        Returns:
            A tree like `params`, with an array instead of every `SpikeSlab`, to be
            passed to `apply_fn`.

        Example:
            >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
            >>> net = eqx.nn.MLP(4, 3, 16, 2, key=jax.random.key(0))
            >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
            >>> params = ensemble.sample_params(jax.random.key(2))
            >>> ensemble.apply_fn(params, jnp.ones((5, 4))).shape
            (5, 3)
        """
        names = list(self.weights())
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        return self._points(lambda name, weight: weight.sample(keys[name]))

    def mean_network(self) -> Any:
        """The network of posterior means μ = (1 − π) m."""
        return self.rebuild(self.mean_params())

    def mean_params(self) -> Any:
        """Parameters of the network of posterior means, to be passed to `apply_fn`.

        Example:
            >>> import equinox as eqx, jax, jax.numpy as jnp, meanfield as mf
            >>> net = eqx.nn.MLP(4, 3, 16, 2, key=jax.random.key(0))
            >>> ensemble = mf.Ensemble.from_model(net, key=jax.random.key(1))
            >>> ensemble.apply_fn(ensemble.mean_params(), jnp.ones((5, 4))).shape
            (5, 3)
        """
        return self._points(lambda name, weight: weight.mean)

    def _points(self, choose: Callable[[str, SpikeSlab], Array]) -> Any:
        return map_named(
            lambda name, leaf: choose(name, leaf) if is_spike_slab(leaf) else leaf,
            self.params,
            is_spike_slab,
        )

    @property
    def num_weights(self) -> int:
        """Number of random weights."""
        return sum(weight.size for weight in self.weights().values())


@eqx.filter_jit
def _outputs(ensemble: Ensemble, x: Any, key: PRNGKeyArray) -> Any:
    return ensemble.network(ensemble.params, x, key=key)


@eqx.filter_jit
def _moments(ensemble: Ensemble, x: Any) -> Any:
    return mean_field(ensemble.apply_fn, reading="moments")(ensemble.params, x)
