"""The data set's page: what went in, what stayed, what it looks like, in one file that needs nothing else."""
