"""Neurons as players: the neuron game, strong coalitions, links, the label game."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
