"""Scores to statistics, figures and operating points. numpy and scipy; no torch."""
