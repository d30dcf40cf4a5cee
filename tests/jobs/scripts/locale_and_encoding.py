import locale
import sys

print(locale.getpreferredencoding(), sys.getfilesystemencoding(), sys.stdout.encoding, sys.stdout.errors)
print(sys.stderr.errors, sys.stdin.errors, sys.stdout.name, sys.stdout.mode, sys.stdout.isatty())
open("ü.txt", "w").write("ü")
