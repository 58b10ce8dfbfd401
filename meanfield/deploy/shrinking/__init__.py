"""Removing what a masked network does not use."""
