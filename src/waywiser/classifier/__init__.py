"""The shared classifier: what a request is, said locally in well under a millisecond. Needs NumPy and nothing else."""
