"""An MCP server with one tool: the text analysis of `tools/simple_python_tool`, offered over HTTP.

    python examples/mcp_text_analyzer.py --root DIRECTORY [--port 0]

Its first line on stdout is its URL, for `engineSpec.address` of a contract with `engine: remote-mcp`.
It listens on this machine alone, and reads files below the root only.
"""

import argparse
import asyncio
import os
import pathlib
import runpy
import socket
import stat
from typing import Any

import uvicorn
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError

MAX_FILE_BYTES = 16 << 20
TOOL = pathlib.Path(__file__).parent / "tools" / "simple_python_tool" / "main.py"

analyze = runpy.run_path(str(TOOL))["analyze"]


def read_below(root: pathlib.Path, name: str) -> str:
    """Read a text file below a directory; whatever leads out of it, even by a link, is refused."""
    try:
        path = (root / name).resolve(strict=True)
        if not path.is_relative_to(root):
            raise ToolError(f"'{name}' is not below the directory of this server")
        # What is opened is looked at, not what the path named a moment ago; and a pipe must not block.
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_FILE_BYTES:
                raise ToolError(f"'{name}' is not a file of at most {MAX_FILE_BYTES >> 20} MiB")
            return file.read(MAX_FILE_BYTES).decode("utf-8")
    except OSError as error:
        raise ToolError(f"cannot read '{name}': {os.strerror(error.errno or 0)}") from error
    except ValueError as error:  # a NUL in the name, or bytes that are not UTF-8
        raise ToolError(f"'{name}' is not a text in UTF-8") from error


def make_server(root: pathlib.Path) -> MCPServer:
    """Make the server for the files below a directory."""
    server = MCPServer("text-analyzer", log_level="WARNING")

    @server.tool()
    def text_analyzer(input_file: str) -> dict[str, Any]:
        """Count lines, words and characters of a text file, and find its most frequent words."""
        text = read_below(root, input_file)
        return {"input": pathlib.PurePath(input_file).name, **analyze(text)}

    return server


async def serve(root: pathlib.Path, port: int) -> None:
    """Serve until a signal says to stop."""
    # The protocol is named, because asyncio turns off Nagle's algorithm only where it reads TCP there;
    # without that, every answer is 40 ms late.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    app = make_server(root).streamable_http_app()
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/mcp", flush=True)
    await uvicorn.Server(uvicorn.Config(app, log_level="warning")).serve(sockets=[listener])


def main() -> int:
    """Run the server."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, required=True, help="directory whose files may be read")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 for any that is free")
    arguments = parser.parse_args()
    if not arguments.root.is_dir():
        parser.error(f"--root: '{arguments.root}' is not a directory")
    asyncio.run(serve(arguments.root.resolve(), arguments.port))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
