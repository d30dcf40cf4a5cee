import copy
import dataclasses
import pickle


@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: int = 0


again = pickle.loads(pickle.dumps(Point(1, 2)))
print(again, again == Point(1, 2), copy.deepcopy(again), dataclasses.asdict(again), Point.__module__)
