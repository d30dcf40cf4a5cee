import importlib.resources
import pkgutil

print(
    importlib.resources.files("json").joinpath("__init__.py").is_file(),
    pkgutil.get_data("json", "decoder.py")[:3],
)
