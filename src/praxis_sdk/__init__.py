"""Praxis runs work that somebody else wrote: isolated, accounted for, ended for certain.

The public surface of tool execution is `praxis_sdk.execution.contracts` (contracts, engines' base
class, registry, errors) and `praxis_sdk.execution.engine` (the engines themselves).
"""

__version__ = "0.1.0"
