"""The documents that rooms hand each other: validated, versioned, with digests. No other code of ours is imported."""
