"""Training in which every layer is a game and only strong coalitions propagate."""
