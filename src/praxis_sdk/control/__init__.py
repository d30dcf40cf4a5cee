"""The control plane: one durable life cycle for every execution (spec 4)."""
