from concurrent.futures import ThreadPoolExecutor

pool = ThreadPoolExecutor(max_workers=2)
print("total", sum(pool.map(len, ["a", "bb", "ccc"])))
