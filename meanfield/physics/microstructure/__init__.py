"""The distribution of weights: lognormal microstructure, arbitrage equilibrium."""
