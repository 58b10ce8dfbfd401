"""An opened network: its steps, its units and who reads them, names of primitives."""
