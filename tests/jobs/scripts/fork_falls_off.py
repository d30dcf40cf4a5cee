import atexit
import os

atexit.register(print, "ended", flush=True)
pid = os.fork()
if pid:
    os.waitpid(pid, 0)
