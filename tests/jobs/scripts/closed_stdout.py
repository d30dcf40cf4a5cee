import sys

print("all done")
sys.stdout.close()
