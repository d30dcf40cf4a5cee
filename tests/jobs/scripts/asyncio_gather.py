import asyncio


async def step(n):
    await asyncio.sleep(0)
    return n * n


async def run():
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(step(n)) for n in range(4)]
    print([task.result() for task in tasks])
    print(await asyncio.gather(*(step(n) for n in range(3))))


asyncio.run(run())
