"""Scores everything of a source into one Parquet table: resumable, here or on many machines."""
