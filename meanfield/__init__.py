"""Mean-field ensemble learning: every weight a spike-and-slab distribution.

Public names are listed in ``__init__.pyi`` and loaded when first used, so that
``import meanfield`` stays cheap.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
