"""Clips and media files to answers."""
