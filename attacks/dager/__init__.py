"""DAGER: exact reading of a batch off the gradients of the first attention layers.

``attack.py`` is the paper's algorithm from top to bottom.
"""

from attacks.dager.attack import Dager

__all__ = ["Dager"]
