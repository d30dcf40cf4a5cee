from concurrent.futures import ProcessPoolExecutor


def double(n):
    return 2 * n


if __name__ == "__main__":
    pool = ProcessPoolExecutor(2)
    print(list(pool.map(double, range(3))))
