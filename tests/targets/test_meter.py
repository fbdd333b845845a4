from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partc.errors import TargetError
from partc.targets.meter import (
    EnergyZone,
    Ina3221Meter,
    Meter,
    Rail,
    Reading,
    Recording,
    find_meter,
)

RANGE_UJ = 262_143_328_850
PACKAGE = "class/powercap/intel-rapl:0"
INTEL = {
    "class/powercap/intel-rapl/enabled": "1",
    f"{PACKAGE}/name": "package-0",
    f"{PACKAGE}/energy_uj": "1000000",
    f"{PACKAGE}/max_energy_range_uj": str(RANGE_UJ),
    f"{PACKAGE}:0/name": "core",
    f"{PACKAGE}:0/energy_uj": "700000",
    f"{PACKAGE}:0/max_energy_range_uj": str(RANGE_UJ),
}
SECOND_PACKAGE = {
    "class/powercap/intel-rapl:1/name": "package-1",
    "class/powercap/intel-rapl:1/energy_uj": "0",
    "class/powercap/intel-rapl:1/max_energy_range_uj": str(RANGE_UJ),
}
PSYS_AND_MMIO = {
    "class/powercap/intel-rapl:1/name": "psys",
    "class/powercap/intel-rapl:1/energy_uj": "5",
    "class/powercap/intel-rapl:1/max_energy_range_uj": str(RANGE_UJ),
    "class/powercap/intel-rapl-mmio:0/name": "package-0",
    "class/powercap/intel-rapl-mmio:0/energy_uj": "1000000",
    "class/powercap/intel-rapl-mmio:0/max_energy_range_uj": str(RANGE_UJ),
}


def hwmon(device: str, *rails: tuple[str, int, int]) -> dict[str, str]:
    """An INA3221 as the kernel's driver shows it; rails with their millivolts and milliamperes."""
    folder = f"bus/i2c/drivers/ina3221/{device}/hwmon/hwmon3"
    files = {f"{folder}/in7_label": "sum of shunt voltages", f"{folder}/in7_input": "9"}
    for channel, (label, mv, ma) in enumerate(rails, 1):
        files[f"{folder}/in{channel}_label"] = label
        files[f"{folder}/in{channel}_input"] = str(mv)
        files[f"{folder}/curr{channel}_input"] = str(ma)
    return files


def iio(device: str, *rails: tuple[str, int]) -> dict[str, str]:
    """An INA3221 as NVIDIA's driver shows it; rails with their milliwatts."""
    folder = f"bus/i2c/drivers/ina3221x/{device}/iio:device0"
    files: dict[str, str] = {}
    for channel, (label, mw) in enumerate(rails):
        files[f"{folder}/rail_name_{channel}"] = label
        files[f"{folder}/in_power{channel}_input"] = str(mw)
    return files


ORIN_NANO = hwmon(
    "1-0040", ("VDD_IN", 5000, 1200), ("VDD_CPU_GPU_CV", 5000, 400), ("VDD_SOC", 5000, 200)
)
AGX_ORIN = {
    **hwmon(
        "1-0040",
        ("VDD_GPU_SOC", 20_000, 300),
        ("VDD_CPU_CV", 20_000, 100),
        ("VIN_SYS_5V0", 5000, 400),
    ),
    **hwmon("1-0041", ("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 100), ("NC", 0, 0)),
}
NANO = iio("6-0040", ("POM_5V_IN", 2500), ("POM_5V_GPU", 300), ("POM_5V_CPU", 700))
AGX_XAVIER = {
    **iio("1-0040", ("GPU", 1000), ("CPU", 2000), ("SOC", 3000)),
    **iio("1-0041", ("CV", 100), ("VDDRQ", 200), ("SYS5V", 700)),
}
TX2 = {
    **iio("0-0040", ("VDD_SYS_GPU", 150), ("VDD_SYS_SOC", 450), ("VDD_4V0_WIFI", 20)),
    **iio("0-0041", ("VDD_IN", 3300), ("VDD_SYS_CPU", 300), ("VDD_SYS_DDR", 400)),
}


def sysfs(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


def found(root: Path, files: Mapping[str, str]) -> Meter:
    meter = find_meter(sysfs(root, files))
    assert meter is not None
    return meter


def test_a_machine_without_a_meter(tmp_path: Path):
    assert find_meter(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (INTEL, "RAPL package-0"),
        ({**INTEL, **PSYS_AND_MMIO}, "RAPL package-0"),
        ({**INTEL, **SECOND_PACKAGE}, "RAPL package-0 + package-1"),
    ],
)
def test_only_packages_count(tmp_path: Path, files: Mapping[str, str], name: str):
    assert found(tmp_path, files).name == name


@pytest.mark.parametrize(
    ("files", "name", "watts"),
    [
        (ORIN_NANO, "INA3221 VDD_IN", 6.0),
        (AGX_ORIN, "INA3221 VDD_GPU_SOC + VDD_CPU_CV + VIN_SYS_5V0", 10.0),
        (NANO, "INA3221 POM_5V_IN", 2.5),
        (TX2, "INA3221 VDD_IN", 3.3),
        (AGX_XAVIER, "INA3221 GPU + CPU + SOC + CV + VDDRQ + SYS5V", 7.0),
        (hwmon("1-0040", ("A", 1000, 500), ("NC", 9, 9), ("B", 1000, -100)), "INA3221 A + B", 0.4),
    ],
)
def test_the_rails_of_the_whole_module_count_once(
    tmp_path: Path, files: Mapping[str, str], name: str, watts: float
):
    meter = found(tmp_path, files)
    assert meter.name == name
    assert sum(meter.read()) == pytest.approx(watts)
    with meter.record() as recording:
        pass
    assert recording.watts == pytest.approx(watts)
    assert recording.joules == pytest.approx(watts * recording.seconds)


def test_a_module_counts_more_than_its_processor(tmp_path: Path):
    assert found(tmp_path, {**INTEL, **NANO}).name == "INA3221 POM_5V_IN"


@pytest.mark.parametrize(
    ("earlier_uj", "later_uj", "joules"),
    [(1_000_000, 6_000_000, 5), (RANGE_UJ - 2_000_000, 3_000_000, 5), (1_000_000, 1_000_000, 0)],
)
def test_counters_count_by_difference(
    tmp_path: Path, earlier_uj: int, later_uj: int, joules: float
):
    meter = found(tmp_path, {**INTEL, **SECOND_PACKAGE, f"{PACKAGE}/energy_uj": str(earlier_uj)})
    with meter.record() as recording:
        sysfs(tmp_path, {f"{PACKAGE}/energy_uj": str(later_uj)})
        sysfs(tmp_path, {"class/powercap/intel-rapl:1/energy_uj": "500000"})
    assert recording.joules == pytest.approx(joules + 0.5)
    assert recording.watts == pytest.approx((joules + 0.5) / recording.seconds)


@given(st.integers(1, 10**12), st.data())
def test_a_counter_never_runs_backwards(range_uj: int, data: st.DataObject):
    below_range = st.integers(0, range_uj - 1)
    earlier, counted = data.draw(below_range), data.draw(below_range)
    zone = EnergyZone(Path("energy_uj"), range_uj)
    assert zone.joules(earlier, (earlier + counted) % range_uj) == counted / 1e6


def test_a_counter_is_read_before_it_can_wrap_twice(tmp_path: Path):
    """What wraps between two readings of a long recording is not lost."""
    files = {**INTEL, f"{PACKAGE}/max_energy_range_uj": "1000000", f"{PACKAGE}/energy_uj": "0"}
    meter = replace(found(tmp_path, files), period_s=0.01)
    counter = tmp_path / PACKAGE / "energy_uj"
    with meter.record() as recording:
        for energy_uj, joules in ((600_000, 0.6), (200_000, 1.2), (800_000, 1.8)):
            swap(counter, f"{energy_uj}")
            wait_until(lambda joules=joules: recording.joules == pytest.approx(joules))
    assert recording.joules == pytest.approx(1.8)


def test_power_is_averaged_over_time(tmp_path: Path):
    meter = found(tmp_path, {**NANO, **iio("6-0040", ("POM_5V_IN", 2000))})
    power = next(tmp_path.rglob("in_power0_input"))
    with meter.record() as recording:
        started_s = time.perf_counter()
        time.sleep(0.1)
        swap(power, "6000")
        changed_s = time.perf_counter()
        time.sleep(0.9)
    low_share = (changed_s - started_s) / recording.seconds
    assert recording.watts == pytest.approx(2 * low_share + 6 * (1 - low_share), abs=0.5)


def test_between_two_readings_power_changes_evenly():
    meter = Ina3221Meter("INA3221 A + B", (Rail("A", (), 1), Rail("B", (), 1)))
    earlier, later = Reading((1, 2), at_s=10), Reading((3, 6), at_s=10.5)
    assert meter.joules(earlier, later) == pytest.approx((3 + 9) / 2 * 0.5)


@pytest.mark.parametrize(
    "files",
    [
        {**INTEL, f"{PACKAGE}/energy_uj": "many"},
        {**INTEL, f"{PACKAGE}/max_energy_range_uj": "0"},
        {**INTEL, **SECOND_PACKAGE, "class/powercap/intel-rapl:1/energy_uj": ""},
        {**ORIN_NANO, "bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/curr1_input": "1.2 A"},
        {f"{PACKAGE}/name": "package-0"},
        {"bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0": "VDD_IN"},
    ],
)
def test_a_meter_that_makes_no_sense_is_none(tmp_path: Path, files: Mapping[str, str]):
    assert find_meter(sysfs(tmp_path, files)) is None


def test_a_processor_stands_in_for_a_module_that_cannot_be_read(tmp_path: Path):
    broken = {"bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input": "-"}
    assert found(tmp_path, {**INTEL, **NANO, **broken}).name == "RAPL package-0"


def test_a_counter_for_root_alone_is_no_meter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = sysfs(tmp_path, INTEL)
    read_text = Path.read_text

    def refuse_counters(file: Path, encoding: str | None = None) -> str:
        if file.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(file))
        return read_text(file, encoding=encoding)

    monkeypatch.setattr(Path, "read_text", refuse_counters)
    assert find_meter(root) is None


def test_a_meter_that_goes_away_is_an_error(tmp_path: Path):
    meter = found(tmp_path, INTEL)
    counter = tmp_path / PACKAGE / "energy_uj"
    with pytest.raises(TargetError, match=r"energy_uj cannot be read: .*No such file"):  # noqa: SIM117
        with meter.record():
            counter.unlink()
    with pytest.raises(TargetError, match="cannot be read"), meter.record():
        pytest.fail("nothing can be recorded")


def test_what_fails_while_it_is_measured_fails_as_it_would(tmp_path: Path):
    meter = found(tmp_path, INTEL)
    with pytest.raises(ZeroDivisionError), meter.record():
        raise ZeroDivisionError


def test_a_recording_that_has_not_ended_has_no_power():
    with pytest.raises(TargetError, match="the meter has recorded nothing"):
        _ = Recording().watts


def wait_until(holds: Callable[[], bool]) -> None:
    give_up_s = time.perf_counter() + 10
    while not holds():
        assert time.perf_counter() < give_up_s
        time.sleep(0.001)


def swap(file: Path, text: str) -> None:
    """Change a file at once, as sysfs does: no reader sees it empty."""
    new = file.with_name("new")
    new.write_text(text)
    new.replace(file)
