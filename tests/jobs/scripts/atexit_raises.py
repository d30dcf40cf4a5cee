import atexit

atexit.register(print, "still called")
atexit.register(lambda: 1 / 0)
