"""Power meters: what this machine draws while something runs on it.

RAPL counts a processor's energy; the kernel shows its counters as power zones
(Documentation/power/powercap/powercap.rst), those of AMD under the names of Intel's.
An INA3221 on a Jetson module measures rails. Jetson Linux from 34.1 (JetPack 5) on shows it by the
kernel's own driver (Documentation/hwmon/ina3221.rst), earlier ones by NVIDIA's ``ina3221x``
(nvidia/drivers/staging/iio/meter/ina3221.c in their kernel, recalled, not re-read).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from string import ascii_lowercase
from threading import Event

from partc.errors import TargetError

# The rails that feed a whole module, by the labels in Jetson Linux's device trees as the energymon
# project collected them (github.com/energymon/energymon, jetson/JetsonPowerRails.md): TX1, TX2 and
# the Xavier and Orin of the small format; Nano; AGX Orin, where another rail is fed by the third of
# these. AGX Xavier has no such rail: all of its rails are fed side by side.
_MODULE_RAILS = (
    ("VDD_IN",),
    ("POM_5V_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
)
_NOT_CONNECTED = "NC"
_RAPL_PERIOD_S = 30.0  # a 32-bit counter of 15.3 uJ wraps no faster below 2 kW
_INA3221_PERIOD_S = 0.05


@dataclass
class Recording:
    """What a meter has counted so far, from the start of :meth:`Meter.record`."""

    joules: float = 0.0
    seconds: float = 0.0

    @property
    def watts(self) -> float:
        """The mean power.

        Raises:
            TargetError: Nothing was recorded.
        """
        if not self.seconds:
            raise TargetError("the meter has recorded nothing; read it after its block has ended")
        return self.joules / self.seconds


@dataclass(frozen=True)
class Reading:
    """What a meter showed, and when."""

    values: tuple[float, ...]
    at_s: float


@dataclass(frozen=True)
class Meter(ABC):
    """Something that measures what this machine draws.

    Args:
        name: Of the meter and of what it covers.
        period_s: How often it is read while it records.
    """

    name: str
    period_s: float = field(kw_only=True)

    @contextmanager
    def record(self) -> Generator[Recording]:
        """Measure what the body of a ``with`` draws, by readings in a thread beside it.

        A counter moves about every millisecond and a rail is read every few hundredths of a second,
        so the body should take a tenth of a second or more.

        Returns:
            A recording that is complete once the body has ended.

        Raises:
            TargetError: The meter cannot be read any more.
        """
        recording, ended, first = Recording(), Event(), self._take_reading()
        with ThreadPoolExecutor(1, "meter") as pool:
            readings = pool.submit(self._keep_reading, recording, first, ended)
            try:
                yield recording
            finally:
                ended.set()
        readings.result()

    def _keep_reading(self, recording: Recording, earlier: Reading, ended: Event) -> None:
        is_last = False
        while not is_last:
            is_last = ended.wait(self.period_s)
            later = self._take_reading()
            recording.joules += self.joules(earlier, later)
            recording.seconds += later.at_s - earlier.at_s
            earlier = later

    def _take_reading(self) -> Reading:
        return Reading(self.read(), time.perf_counter())

    @abstractmethod
    def read(self) -> tuple[float, ...]:
        """What the meter shows now.

        Raises:
            TargetError: It cannot be read.
        """

    @abstractmethod
    def joules(self, earlier: Reading, later: Reading) -> float:
        """The energy between two readings."""


@dataclass(frozen=True)
class EnergyZone:
    """A counter of microjoules that starts again from zero once it has reached ``range_uj``."""

    counter: Path
    range_uj: int

    def __post_init__(self) -> None:
        if self.range_uj <= 0:
            raise TargetError(f"the energy counter {self.counter} has no range: {self.range_uj} uJ")

    def joules(self, earlier_uj: float, later_uj: float) -> float:
        return ((later_uj - earlier_uj) % self.range_uj) / 1e6


@dataclass(frozen=True)
class RaplMeter(Meter):
    """The energy counters of the processor packages, without the rest of the machine."""

    zones: tuple[EnergyZone, ...]
    period_s: float = field(kw_only=True, default=_RAPL_PERIOD_S)

    def read(self) -> tuple[float, ...]:
        return tuple(float(_read_number(zone.counter)) for zone in self.zones)

    def joules(self, earlier: Reading, later: Reading) -> float:
        return sum(map(EnergyZone.joules, self.zones, earlier.values, later.values))


@dataclass(frozen=True)
class Rail:
    """A supply: the files whose product is its power in units of ``watts``."""

    label: str
    files: tuple[Path, ...]
    watts: float

    def read_watts(self) -> float:
        product = self.watts
        for file in self.files:
            product *= _read_number(file)
        return product


@dataclass(frozen=True)
class Ina3221Meter(Meter):
    """The power of a Jetson module's rails."""

    rails: tuple[Rail, ...]
    period_s: float = field(kw_only=True, default=_INA3221_PERIOD_S)

    def read(self) -> tuple[float, ...]:
        return tuple(rail.read_watts() for rail in self.rails)

    def joules(self, earlier: Reading, later: Reading) -> float:
        """By the trapezoidal rule."""
        mean_watts = (sum(earlier.values) + sum(later.values)) / 2
        return mean_watts * (later.at_s - earlier.at_s)


def find_meter(root: Path = Path("/sys")) -> Meter | None:
    """The meter of this machine, if it has one that this process may read.

    Args:
        root: Where sysfs is mounted.
    """
    return _readable(_find_ina3221, root) or _readable(_find_rapl, root)


def _readable(find: Callable[[Path], Meter | None], root: Path) -> Meter | None:
    """What is found, unless a part of it cannot be read: half a sum is no answer.

    Energy counters are for root alone since Linux 5.10, because they tell on what is computed.
    """
    try:
        meter = find(root)
        if meter:
            meter.read()
    except TargetError:
        return None
    return meter


def _find_rapl(root: Path) -> RaplMeter | None:
    """The packages; a package's own zones, and ``psys``, count parts of the same energy again."""
    packages = {
        name: EnergyZone(zone / "energy_uj", _read_number(zone / "max_energy_range_uj"))
        for zone in sorted(root.glob("class/powercap/intel-rapl:*"))
        if (name := _read_text(zone / "name")).startswith("package-")
    }
    return RaplMeter(_name("RAPL", packages), tuple(packages.values())) if packages else None


def _find_ina3221(root: Path) -> Ina3221Meter | None:
    rails = {rail.label: rail for rail in _hwmon_rails(root) or _iio_rails(root)}
    whole = next((labels for labels in _MODULE_RAILS if rails.keys() >= set(labels)), tuple(rails))
    if not whole:
        return None
    return Ina3221Meter(_name("INA3221", whole), tuple(rails[label] for label in whole))


def _hwmon_rails(root: Path) -> list[Rail]:
    """Channels 1 to 3: millivolts and milliamperes. Channel 7 sums up shunts, not rails."""
    labels = root.glob("bus/i2c/drivers/ina3221/*/hwmon/hwmon*/in[123]_label")
    return [
        Rail(label, tuple(folder / f"{kind}{channel}_input" for kind in ("in", "curr")), watts=1e-6)
        for label, folder, channel in _connected(labels)
    ]


def _iio_rails(root: Path) -> list[Rail]:
    """Channels 0 to 2: milliwatts."""
    labels = root.glob("bus/i2c/drivers/ina3221x/*/iio:device*/rail_name_[012]")
    return [
        Rail(label, (folder / f"in_power{channel}_input",), watts=1e-3)
        for label, folder, channel in _connected(labels)
    ]


def _connected(labels: Iterable[Path]) -> Iterator[tuple[str, Path, str]]:
    """What each channel's label says, where it is, and the only digit in its name."""
    for file in sorted(labels):
        label = _read_text(file)
        if label != _NOT_CONNECTED:
            yield label, file.parent, file.name.strip(ascii_lowercase + "_")


def _name(kind: str, parts: Iterable[str]) -> str:
    return f"{kind} {' + '.join(parts)}"


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TargetError(f"the power meter's file {file} cannot be read: {error}") from error


def _read_number(file: Path) -> int:
    text = _read_text(file)
    try:
        return int(text)
    except ValueError as error:
        raise TargetError(
            f"the power meter's file {file} should hold a whole number, not {text!r}"
        ) from error
