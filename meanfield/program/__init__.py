"""The program of a network: its steps, its units and their readers, its primitives."""
