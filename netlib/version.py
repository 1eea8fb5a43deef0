"""The version, alone in a file: the build reads it here and no folder needs to import the umbrella package."""

__version__ = "0.1.0"
