import asyncio


async def run():
    print(await asyncio.get_running_loop().run_in_executor(None, sum, [1, 2, 3]))


asyncio.run(run())
