import argparse

parser = argparse.ArgumentParser(description="adds")
parser.add_argument("--count", type=int, default=2)
print(parser.parse_args([]).count)
parser.parse_args(["--count", "many"])
