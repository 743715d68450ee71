"""Bytes to prepared arrays: the one pixel road of training, batch scoring, service and node. No torch."""
