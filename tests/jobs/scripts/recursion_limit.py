import sys

sys.setrecursionlimit(5000)


def down(n):
    return n and down(n - 1)


print(down(3000))
