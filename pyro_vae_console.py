"""The command `pyro-vae`: the programs of `scripts/` under one name.

It stands beside the package because importing `pyro_vae` imports torch: `--help` and `--version`
are quick, and a program starts as fast as its script.
"""

import ast
import importlib.util
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE / "pyro_vae"
# `scripts` and `analysis`: in the package where a wheel was installed, beside it in a checkout.
ROOT = root if (root := PACKAGE / "_programs").is_dir() else HERE
COMMANDS = {
    command: path
    for command, script in runpy.run_path(str(PACKAGE / "commands.py"))["COMMANDS"].items()
    if (path := ROOT / "scripts" / f"{script}.py").exists()
}


def main() -> None:
    """Run the command of the command line, and end the process."""
    command, *options = sys.argv[1:] or [""]
    if command in ("-h", "--help"):
        print(help_text())
        sys.exit()
    if command == "--version":
        version = runpy.run_path(str(PACKAGE / "version.py"))["__version__"]
        print(f"pyro-vae {version}")
        sys.exit()
    if command not in COMMANDS:
        print(f"pyro-vae: error: {unknown(command)}", file=sys.stderr)
        sys.exit(2)
    # The first in the path: `analysis` is a common name.
    sys.path.insert(0, str(ROOT))
    sys.argv = [f"pyro-vae {command}", *options]
    spec = importlib.util.spec_from_file_location(f"pyro_vae_{command}", COMMANDS[command])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.exit_process(module.main())


def help_text() -> str:
    """The commands, the first line of each script, and where the model files are."""
    lines = ["usage: pyro-vae COMMAND [options]", ""]
    for command, path in COMMANDS.items():
        doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines.append(f"  {command:<9} {doc.partition(chr(10))[0]}")
    return "\n".join(
        [
            *lines,
            "",
            "`pyro-vae COMMAND --help` lists the options of a command.",
            f"The model file of `train` is {PACKAGE / 'model.py'}; others to copy are in",
            f"{ROOT / 'scripts' / 'examples'}.",
        ]
    )


def unknown(command: str) -> str:
    """The message for a word that is no command."""
    allowed = ", ".join(COMMANDS)
    if not command:
        return f"missing COMMAND: one of {allowed}."
    from pyro_vae.checks import did_you_mean

    return f"unknown command {command!r}: {did_you_mean(command, COMMANDS)}allowed are {allowed}."


if __name__ == "__main__":
    main()
