"""Checkpoints of the TVLT authors' code."""
