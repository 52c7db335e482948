"""Test clips, metrics and pass/fail reports of a verification. Nothing here runs a model."""
