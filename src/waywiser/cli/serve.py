"""`waywiser serve`: the proxy."""

from __future__ import annotations

import argparse
import ipaddress

from waywiser.errors import ConfigError
from waywiser.runtime import DEFAULT_STORE


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "serve",
        help="serve the proxy: OpenAI's and Anthropic's endpoints, routed",
        description="Serves /v1/chat/completions, /v1/responses, /v1/messages and /v1/models under the policies given. "
        "A client's `model` is `auto`, `tier:NAME`, `policy:NAME` or a model.",
    )
    parser.add_argument(
        "--policy", required=True, action="append", help="a policy file; may be repeated, the first is the default"
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8787, help="the port (default: 8787; 0 picks a free one)")
    parser.add_argument(
        "--store", default=DEFAULT_STORE, help=f"the session store, a file or a redis:// URL (default: {DEFAULT_STORE})"
    )
    parser.add_argument("--keys", default="", help="the file of virtual keys; needed beyond loopback (`waywiser keys`)")
    parser.add_argument(
        "--own-keys",
        action="store_true",
        help="let clients bring provider keys in x-waywiser-key-PROVIDER headers",
    )
    parser.add_argument("--workers", type=int, default=1, help="how many processes share the port (default: 1)")
    parser.add_argument(
        "--budget-status", type=int, choices=(402, 429), default=402, help="the status of an exhausted budget"
    )
    parser.add_argument("--max-body-mb", type=float, default=20.0, help="the longest request (default: 20)")
    parser.add_argument(
        "--grace", type=float, default=120.0, help="seconds that streams may take to finish at shutdown (default: 120)"
    )
    parser.set_defaults(perform=perform)


def perform(args: argparse.Namespace) -> int:
    """Serve until interrupted."""
    try:
        from waywiser.proxy.server import listen, serve  # noqa: PLC0415 - needs an extra
    except ImportError as error:
        raise ConfigError(f"{error.name} is missing: `waywiser serve` needs the extra `waywiser[proxy]`") from None
    from waywiser.proxy.service import Options, open_service  # noqa: PLC0415 - as above

    if args.workers < 1 or args.max_body_mb <= 0 or args.grace < 0:
        raise ConfigError("--workers, --max-body-mb, --grace: must be positive")
    if not args.keys and not _is_loopback(args.host):
        raise ConfigError(f"--keys: needed to listen on {args.host}; without keys only loopback is served")
    if args.workers > 1 and args.store == ":memory:":
        raise ConfigError("--store: several workers need a store they share, `:memory:` is not one")
    options = Options(
        tuple(args.policy),
        args.store,
        args.keys,
        args.own_keys,
        args.workers,
        args.budget_status,
        int(args.max_body_mb * (1 << 20)),
        grace_s=args.grace,
    )
    checked = open_service(options)  # whatever is wrong is told here, and once
    names = ", ".join(checked.engines)
    for engine in checked.engines.values():
        engine.close()
    sock = listen(args.host, args.port)
    host, port = sock.getsockname()[:2]
    print(f"waywiser: serving {names} on http://{f'[{host}]' if ':' in host else host}:{port}/v1", flush=True)
    if not args.keys:
        print("waywiser: no keys: whoever is on this machine may call", flush=True)
    serve(options, sock)
    return 0


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
