import enum
import typing


class Colour(enum.Enum):
    RED = 1


def paint(colour: Colour, times: int = 1) -> "Colour":
    return colour


print(typing.get_type_hints(paint), paint.__annotations__, Colour.RED)
