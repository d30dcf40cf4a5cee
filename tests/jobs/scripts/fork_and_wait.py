import os

pid = os.fork()
if pid == 0:
    print("child")
    raise SystemExit(3)
print("parent", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
