import os
import sqlite3

connection = sqlite3.connect("data.db")
connection.execute("create table t (n)")
connection.commit()
connection.execute("insert into t values (1)")
print(sorted(name for name in os.listdir(".") if name.startswith("data")))
