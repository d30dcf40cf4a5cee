import atexit


@atexit.register
def last():
    print("last")


atexit.register(print, "first")
print("body")
