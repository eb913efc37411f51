"""The command line: `coze-gateway serve | simulate | check-config | delete | migrate | move | make-key`.

Heavy modules are imported only when they are needed.
"""

import argparse
import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from gateway import __version__
from gateway.errors import Code, GatewayError
from gateway.telemetry import logs


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status: 0; 1 if the work failed; 2 if a setting or an argument is wrong."""
    # Until a command has a handler of its own, Ctrl-C just ends the process, without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _fill_closed_streams()
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run
    return run(options)


def _fill_closed_streams() -> None:
    """Opens /dev/null for a closed stdin, stdout or stderr: otherwise a database would get its number."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="coze-gateway", description="Streams Coze bots' answers to frontends.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    file = argparse.ArgumentParser(add_help=False)
    file.add_argument(
        "--config", metavar="FILE.toml", help="a file with settings; flags and the environment take precedence"
    )
    settings = argparse.ArgumentParser(add_help=False, parents=[file])
    settings.add_argument(
        "--host",
        metavar="H",
        help="where to listen; separate several hosts by commas (GATEWAY_HOST, default 127.0.0.1)",
    )
    settings.add_argument("--port", metavar="P", help="the port; 0 picks a free one (GATEWAY_PORT, default 3000)")

    serve = commands.add_parser("serve", parents=[settings], help="run the gateway")
    serve.set_defaults(run=_serve)
    check = commands.add_parser("check-config", parents=[settings], help="print the effective configuration")
    check.add_argument("--sample", action="store_true", help="print a commented file with every setting instead")
    check.set_defaults(run=_check_config)

    delete = commands.add_parser(
        "delete", parents=[file], help="delete conversations for good; SQLite's while the gateway is stopped"
    )
    which = delete.add_mutually_exclusive_group(required=True)
    which.add_argument("--conversation", metavar="ID", type=_name, help="this conversation")
    which.add_argument("--user", metavar="ID", type=_name, help="all conversations of this user")
    delete.add_argument("--shop", metavar="ID", help="with --user: only those of this shop")
    delete.set_defaults(run=_upkeep, work="delete")
    migrate = commands.add_parser("migrate", parents=[file], help="bring the database's tables up to date")
    migrate.set_defaults(run=_upkeep, work="migrate", shop=None)
    move = commands.add_parser(
        "move", parents=[file], help="move the data folder's SQLite into PostgreSQL, while the gateway is stopped"
    )
    move.set_defaults(run=_upkeep, work="move", shop=None)

    make_key = commands.add_parser("make-key", help="make an API key, and its line for GATEWAY_API_KEYS_FILE")
    make_key.add_argument("name", metavar="NAME", help="the key's name, for logs")
    make_key.add_argument("--shops", metavar="SHOPS", default="*", help="shops, separated by commas (default *: all)")
    make_key.set_defaults(run=_make_key)

    simulate = commands.add_parser("simulate", help="run the simulated Coze by itself")
    simulate.add_argument("--host", metavar="H", default="127.0.0.1", help="where to listen (default 127.0.0.1)")
    simulate.add_argument("--port", metavar="P", type=_port, default=0, help="the port (default: a free one)")
    simulate.add_argument(
        "--replay", metavar="FILE.sse", type=_recording, help="answer each chat with this recorded stream"
    )
    simulate.add_argument(
        "--pace",
        metavar="original|RATE",
        type=_pace,
        default="original",
        help="original (as recorded), or pieces per second",
    )
    simulate.set_defaults(run=_simulate)
    return parser


def _serve(options: argparse.Namespace) -> int:
    from gateway.config.loading import ConfigError

    try:
        with _uncollected():
            configuration = _load(options)
    except ConfigError as error:
        return _say_mistakes(error)
    settings = configuration.settings
    os.umask(0o077)  # nobody else on the machine may read what people wrote
    logs.configure(settings.log_format, settings.log_level, secrets=settings.secrets)
    for event, sentence in configuration.remarks:
        logs.get_logger().warning(event, why=sentence)
    with _uncollected():
        from adapters.serving import serve

    return _run(serve(settings))


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Pauses the garbage collector: its repeated scans of imported modules would take a third of the start."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _check_config(options: argparse.Namespace) -> int:
    from gateway.config.loading import ConfigError, describe

    if options.sample:
        from gateway.config.sample import sample

        sys.stdout.buffer.write(sample().encode())
        sys.stdout.flush()
        return 0
    try:
        configuration = _load(options)
    except ConfigError as error:
        return _say_mistakes(error)
    # A path may contain characters that the terminal's encoding can't write, or bytes that are no text at all.
    sys.stdout.buffer.write(describe(configuration).encode("utf-8", "backslashreplace"))
    sys.stdout.flush()
    sys.stderr.writelines(f"{sentence}\n" for _, sentence in configuration.remarks)
    return 0


def _make_key(options: argparse.Namespace) -> int:
    from adapters.edge.api_keys import make_key

    try:
        key, line = make_key(options.name, options.shops)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(
        f"The key, for the backend that calls the gateway; it is shown only now, and never belongs in a page:\n\n"
        f"  {key}\n\nAdd this line to the file that GATEWAY_API_KEYS_FILE names:\n\n  {line}\n"
    )
    return 0


def _upkeep(options: argparse.Namespace) -> int:
    """Runs a command that works on what is stored."""
    from gateway.config.loading import ConfigError

    if options.shop is not None and options.user is None:
        sys.stderr.write("--shop can only be used with --user\n")
        return 2
    try:
        settings = _load(options).settings
    except ConfigError as error:
        return _say_mistakes(error)
    os.umask(0o077)
    logs.configure(settings.log_format, "warning", secrets=settings.secrets)
    from adapters import upkeep

    work: Callable[..., Coroutine[Any, Any, int]] = getattr(upkeep, options.work)
    return asyncio.run(work(settings, options))


def _simulate(options: argparse.Namespace) -> int:
    logs.configure()
    return _run(_simulated(options))


async def _simulated(options: argparse.Namespace) -> None:
    from gateway.simulator import start_simulator

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    rate = 40.0 if options.pace == "original" else options.pace
    try:
        simulator = await start_simulator(
            host=options.host, port=options.port, rate=rate, replay=options.replay, pace=options.pace
        )
    except ValueError as error:
        raise GatewayError(Code.INVALID_REQUEST, f"{options.replay} can't be replayed: {error}") from None
    logs.announce("simulator.ready", url=simulator.url)
    try:
        await stop.wait()
    finally:
        await simulator.close()


def _load(options: argparse.Namespace) -> Any:
    from gateway.config.loading import ConfigError, WrongSetting, load

    flags = {field: value for field in ("host", "port") if (value := getattr(options, field, None)) is not None}
    configuration = load(flags, options.config)
    if configuration.settings.auth:
        from adapters.edge.auth import Authenticator, doubts

        try:
            Authenticator.from_settings(configuration.settings)
        except ValueError as error:  # its text names the setting, and never a key
            setting, _, wrong = str(error).partition(": ")
            raise ConfigError([WrongSetting(setting, "", wrong)]) from None
        configuration = configuration._replace(remarks=(*configuration.remarks, *doubts(configuration.settings)))
    return configuration


def _run(work: Coroutine[Any, Any, None]) -> int:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().set_exception_handler(logs.log_loop_problem)
        try:
            runner.run(work)
        except (OSError, GatewayError) as error:  # a taken port, a folder that another gateway holds, a full disk
            logs.get_logger().critical("gateway.failed", why=str(error))
            return 1
        except Exception:  # a bug; the interpreter would print its text, which may hold somebody's words
            logs.get_logger().critical("gateway.failed", exc_info=True)
            return 1
    return 0


def _say_mistakes(error: Exception) -> int:
    sys.stderr.write(f"{error}\n")
    return 2


def _port(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: allowed is 0 to 65535")
    return int(text)


def _name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("it must not be empty")
    return text


def _recording(text: str) -> Path:
    if not (path := Path(text)).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is not a file")
    return path


def _pace(text: str) -> float | str:
    if text == "original":
        return text
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 1_000_000:
        message = (
            f"{text!r} is not a pace: allowed is original, or 0 to 1000000 pieces per second (0: as fast as possible)"
        )
        raise argparse.ArgumentTypeError(message)
    return rate


if __name__ == "__main__":
    sys.exit(main())
