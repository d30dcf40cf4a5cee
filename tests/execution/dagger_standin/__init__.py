"""A stand-in for a Dagger engine, for machines that have none.

It speaks the part of Dagger's GraphQL API that Praxis uses, to the official SDK, and runs the chains in
real Docker. What it imitates is what Praxis depends on: ids and `node`, execs that are answered from a
cache when their chain is equal, execs that end with the last request that waits for them, host
directories that a session reads once unless told otherwise, exit codes that are errors, and how all of
those are worded. It is no Dagger: what passes here is contract-tested against a stand-in.

    schema     the API, a subset of the real one
    chain      what a request builds up, and its id
    tree       immutable directory trees
    containers the execs, in Docker
    evaluator  chains turned into values
    server     HTTP, authentication, a thread of its own
    command    the `dagger` command
"""

from tests.execution.dagger_standin.server import VERSION, DaggerStandIn

__all__ = ["VERSION", "DaggerStandIn"]
