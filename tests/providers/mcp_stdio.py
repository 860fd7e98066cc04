"""An MCP server of 2025-06-18 over stdio, without a package: it says what it was told, and changes its tools.

`hangs` never answers; `steps` tells of its progress; `unlock` offers one tool more; `heard` returns what was cancelled.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

TOOLS = ["hangs", "steps", "unlock", "heard", "pid"]
CANCELLED: list[object] = []
_writing = threading.Lock()


def send(**message: object) -> None:
    """Write one message."""
    with _writing:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def result_of(method: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """Return what a request is answered with, None where there is no such method."""
    if method == "initialize":
        capabilities = {"tools": {"listChanged": True}}
        information = {"name": "stdio", "version": "1"}
        return {"protocolVersion": "2025-06-18", "capabilities": capabilities, "serverInfo": information}
    if method == "tools/list":
        return {"tools": [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]}
    return called(params) if method == "tools/call" else None


def called(params: dict[str, Any]) -> dict[str, Any]:
    """Run a tool."""
    name, text = params["name"], "done"
    if name == "hangs":
        time.sleep(60)
    elif name == "steps":
        for step in range(1, 6):
            time.sleep(0.3)
            token = params["_meta"]["progressToken"]
            send(method="notifications/progress", params={"progressToken": token, "progress": step, "total": 5})
    elif name == "unlock":
        TOOLS.append("secret")
        send(method="notifications/tools/list_changed")
    elif name == "heard":
        text = json.dumps(CANCELLED)
    elif name == "pid":
        text = str(os.getpid())
    return {"content": [{"type": "text", "text": text}]}


def answer(asked: dict[str, Any]) -> None:
    """Answer one request."""
    result = result_of(asked["method"], asked.get("params") or {})
    error = {"code": -32601, "message": "no such method"}
    send(id=asked["id"], **({"error": error} if result is None else {"result": result}))


if __name__ == "__main__":
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            threading.Thread(target=answer, args=(message,), daemon=True).start()
        elif message["method"] == "notifications/cancelled":
            CANCELLED.append(message["params"]["requestId"])
