import ctypes

libc = ctypes.CDLL(None)
libc.printf(b"%d from C\n", 3)
libc.puts(b"never flushed by hand")
