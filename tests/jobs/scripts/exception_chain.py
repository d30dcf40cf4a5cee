try:
    {}["missing"]
except KeyError as error:
    raise RuntimeError("cannot go on") from error
