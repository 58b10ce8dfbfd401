"""Cooperative games of any kind, without networks: values, intervals, coalitions."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
