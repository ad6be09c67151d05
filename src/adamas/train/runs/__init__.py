"""Runs: configuration, training, the folder that is left, and what is done with it later."""
