"""The leak doctor: what in a data set lets a model look better than it is, or contradicts its labels."""
