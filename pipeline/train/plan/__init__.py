"""From a data set to its plan: measure, decide by rules, estimate, write with reasons."""
