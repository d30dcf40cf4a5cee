from __future__ import annotations


def f(x: Unknown) -> Missing: ...


print(f.__annotations__)
