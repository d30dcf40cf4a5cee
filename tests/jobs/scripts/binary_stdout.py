import sys

sys.stdout.buffer.write(bytes(range(256)))
sys.stdout.write("text\n")
sys.stdout.flush()
print(b"\xff".decode("utf-8", "surrogateescape"))
