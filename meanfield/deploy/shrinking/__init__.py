"""Remove the units and inputs that a masked network does not use."""
