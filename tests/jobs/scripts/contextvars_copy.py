import contextvars

colour = contextvars.ContextVar("colour", default="red")
copy = contextvars.copy_context()
copy.run(colour.set, "blue")
print(colour.get(), copy[colour])
