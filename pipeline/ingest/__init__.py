"""Sources to a data set: files, labels, split, store, refusals. No torch."""
