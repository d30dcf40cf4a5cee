import os
import tempfile

folder = tempfile.TemporaryDirectory()
with open(os.path.join(folder.name, "x"), "w") as file:
    file.write("x")
print(os.listdir(folder.name))
