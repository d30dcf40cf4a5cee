import os
import sys

print(
    __name__,
    os.path.basename(__file__),
    os.path.isabs(__file__),
    __doc__,
    __spec__,
    __package__,
    __annotations__,
)
print(sys.modules["__main__"].__dict__ is globals(), os.path.basename(sys.argv[0]), len(sys.argv))
print(sys.path[0] == os.path.dirname(__file__), type(__loader__).__name__, __builtins__.__name__)
