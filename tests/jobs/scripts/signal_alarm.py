import signal


def ring(number, frame):
    raise TimeoutError(signal.Signals(number).name)


signal.signal(signal.SIGALRM, ring)
signal.setitimer(signal.ITIMER_REAL, 0.01)
try:
    signal.pause()
except TimeoutError as error:
    print(error)
print(signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT).__name__)
