print("never printed")
def f():
    return yield 1
