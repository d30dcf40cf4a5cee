import gc


class Loud:
    def __del__(self):
        print("gone")


one = Loud()
one.me = one
del one
gc.collect()
kept = Loud()
