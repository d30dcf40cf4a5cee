import json
import pathlib

pathlib.Path("out").mkdir()
pathlib.Path("out/data.json").write_text(json.dumps({"b": [1, 2.5, None], "a": "ü"}, sort_keys=True))
print(sorted(str(path) for path in pathlib.Path("out").iterdir()))
