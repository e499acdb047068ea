"""Loops that numba compiles, one file for each algorithm."""
