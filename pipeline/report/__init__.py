"""Findings to text and back: the companion transformer, its vocabulary, its checks."""
