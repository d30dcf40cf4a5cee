"""The built-in engines, one module each; all pass the same conformance suite."""
