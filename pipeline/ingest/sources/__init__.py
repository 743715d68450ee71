"""Where images come from: one module for each kind of source, and ``open.py``, which tells them apart."""
