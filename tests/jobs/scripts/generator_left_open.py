def steps():
    try:
        yield 1
    finally:
        print("cleaned up")


left = steps()
print(next(left))
