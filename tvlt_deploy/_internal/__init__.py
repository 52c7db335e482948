"""Helpers without knowledge of TVLT: files, caches, the hub and the machine."""
