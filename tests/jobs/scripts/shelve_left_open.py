import dbm.dumb
import shelve

store = shelve.Shelf(dbm.dumb.open("kept"), writeback=True)
store["key"] = [1, 2]
store["key"].append(3)
