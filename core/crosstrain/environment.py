"""`crosstrain env`: versions, engines and devices, for bug reports."""

import platform

from rich.table import Table

from crosstrain import backends
from crosstrain._version import __version__
from crosstrain.accelerator import Accelerator
from crosstrain.terminal import plain_console


def facts() -> dict[str, dict[str, str]]:
    """Versions and machine under `crosstrain`, and for each declared engine what it says of itself."""
    found = {
        "crosstrain": {
            "version": __version__,
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        }
    }
    for engine in backends.known():
        if engine in backends.installed():
            found[engine] = Accelerator(engine).describe()
        else:
            found[engine] = {"installed": f"no; run: pip install 'crosstrain[{engine}]'"}
    return found


def env() -> int:
    """Prints versions, engines and devices."""
    table = Table(show_header=False)
    for section, values in facts().items():
        for index, (name, value) in enumerate(values.items()):
            table.add_row(section if index == 0 else "", name, value)
        table.add_section()
    plain_console().print(table)
    return 0
