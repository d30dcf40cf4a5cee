try:
    input("name? ")
except EOFError as error:
    print(type(error).__name__, error)
import sys

print(repr(sys.stdin.read()), sys.stdin.fileno(), sys.stdin.encoding)
