"""Programs that are no MCP servers, or answer as none does: `python tests/mcp_nonsense.py MODE`.

exits, silent, garbage, many-pages, wrong-listing, bad-schema, wrong-answers.
"""

import json
import sys
import time


def _answer_wrongly(mode: str) -> None:
    """Answer each request with something that it didn't ask for."""
    for line in sys.stdin:
        request = json.loads(line)
        match request["method"], mode:
            case "initialize", _:
                result: object = {
                    "protocolVersion": "2025-06-18",
                    "capabilities": {"tools": {}},
                    "serverInfo": {"name": "wrong", "version": "1"},
                }
            case "tools/list", "many-pages":
                result = {"tools": [], "nextCursor": "more"}
            case "tools/list", "wrong-listing":
                result = {"tools": "none"}
            case "tools/list", "bad-schema":
                deep: dict[str, object] = {}
                for _ in range(150):
                    deep = {"not": deep}
                schemas = {"odd": {"a": {"type": "no such"}}, "deep": {"a": deep}, "good": {"a": {"type": "string"}}}
                result = {
                    "tools": [
                        {"name": name, "inputSchema": {"type": "object", "properties": of}}
                        for name, of in schemas.items()
                    ]
                }
            case "tools/list", _:
                result = {"tools": [{"name": "odd", "inputSchema": {"type": "object"}}]}
            case "tools/call", _:
                result = {"content": "this is no list"}
            case _:
                if "id" in request:
                    error = {"code": -32601, "message": "Method not found"}
                    _say({"jsonrpc": "2.0", "id": request["id"], "error": error})
                continue
        _say({"jsonrpc": "2.0", "id": request["id"], "result": result})


def _say(*lines: object) -> None:
    for line in lines:
        sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def main(mode: str) -> None:
    """Be the program."""
    match mode:
        case "exits":
            sys.exit("no license for sesame-12345")
        case "garbage":
            _say("Welcome to the server!", {})
            time.sleep(60)
        case "silent":
            time.sleep(60)
        case _:
            _answer_wrongly(mode)


if __name__ == "__main__":
    main(*sys.argv[1:])
