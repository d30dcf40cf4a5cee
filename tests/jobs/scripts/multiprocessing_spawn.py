import multiprocessing


def square(n, out):
    out.put(n * n)


if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=square, args=(7, queue))
    process.start()
    print(queue.get())
    process.join()
    print(process.exitcode)
