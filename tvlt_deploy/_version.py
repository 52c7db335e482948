"""The version: read by packaging, by CMake and by everything that records what wrote a file."""

__version__ = "0.2.0"
