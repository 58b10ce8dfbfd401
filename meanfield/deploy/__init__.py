"""Sub-networks that ship: draw, shrink, save, export, verify."""
