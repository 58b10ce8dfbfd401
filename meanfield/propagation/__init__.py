"""The transformation: an ordinary network function evaluated on random weights."""
