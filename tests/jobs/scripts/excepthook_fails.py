import sys


def hook(kind, value, trace):
    1 / 0


sys.excepthook = hook
raise LookupError("here")
