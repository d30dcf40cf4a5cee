import logging.handlers

handler = logging.FileHandler("run.log", delay=True)
memory = logging.handlers.MemoryHandler(1000, target=handler)
logging.getLogger().addHandler(memory)
logging.warning("kept until the end")
