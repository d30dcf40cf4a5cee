error = ValueError("bad")
error.add_note("line 1\nline 2")
raise error
