"""Experiments: what to run, in which order, and the statistics of it. Knows no ctypes and no printing."""
