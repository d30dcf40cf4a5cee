import sys

sys.excepthook = lambda kind, value, trace: print("caught", kind.__name__, value, trace.tb_lineno)
raise LookupError("here")
