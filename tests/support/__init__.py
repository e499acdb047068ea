"""Helpers shared by tests: models, collections, processes, and fake servers and packages."""
