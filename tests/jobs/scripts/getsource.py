import inspect


def shown(a, *, b=1):
    """Shown."""
    return a


class Shown:
    value = 1


print(inspect.getsource(shown), inspect.signature(shown), inspect.getdoc(shown))
print(inspect.getsource(Shown))
