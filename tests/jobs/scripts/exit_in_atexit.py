import atexit
import os

atexit.register(os._exit, 7)
print("body", flush=True)
