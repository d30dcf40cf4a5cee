import threading

go = threading.Event()


def late():
    go.wait()
    print("late")


threading.Thread(target=late).start()
threading.Timer(0.01, go.set).start()
print("end of file")
