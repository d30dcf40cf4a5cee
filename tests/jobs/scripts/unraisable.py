import sys


class Broken:
    def __del__(self):
        raise ValueError("in del")


sys.unraisablehook = lambda args: print("unraisable", args.exc_value)
Broken()
