import weakref


class Thing:
    pass


thing = Thing()
weakref.finalize(thing, print, "finalized")
reference = weakref.ref(thing, lambda _: print("called back"))
