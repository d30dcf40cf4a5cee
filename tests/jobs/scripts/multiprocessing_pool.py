import multiprocessing


def square(n):
    return n * n


if __name__ == "__main__":
    pool = multiprocessing.get_context("fork").Pool(2)
    print(pool.map(square, range(4)))
