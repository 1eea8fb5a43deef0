"""pytest fixtures for networks of namespaces (docs/testing.md)."""
