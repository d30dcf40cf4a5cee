def fail(n):
    raise ValueError(n)


problems = []
for n in range(2):
    try:
        fail(n)
    except ValueError as error:
        problems.append(error)
raise ExceptionGroup("two", problems)
