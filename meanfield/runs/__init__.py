"""A run: its folder, its settings, and each step of the command line as a function."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
