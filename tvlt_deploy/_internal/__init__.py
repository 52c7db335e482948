"""Helpers that know nothing of TVLT: files, caches, the hub, the machine and progress."""
