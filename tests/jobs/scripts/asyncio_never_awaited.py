async def late():
    pass


waiting = late()
print("done")
