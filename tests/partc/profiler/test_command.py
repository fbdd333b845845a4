from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from profiled import FakeBoard, compile_here, draw_small, small_network

from partc import cli
from partc.errors import PartcError
from partc.profiler import command, entry, session, stopwatch
from partc.profiler.drawn import DrawnNetwork, random_inputs
from partc.profiler.entry import ENTRY_NETWORKS
from partc.profiler.stopwatch import compile_timed
from partc.targets.features import describe
from partc.targets.load import LoadCurve
from partc.targets.meter import Recording
from partc.targets.predictor import predictor_for
from partc.targets.profile import Profile, Sample, load_profile
from partc.targets.target import Target, load_target

FITTED = ("achieved_fraction", "memory_bandwidth_gb_s", "launch_overhead_us")
Partc = Callable[..., str]


@pytest.fixture
def partc(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Partc:
    """Runs the program in this process, in a directory of its own; returns what it prints."""

    def run(*arguments: str, status: int = 0) -> str:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["partc", *arguments])
        with pytest.raises(SystemExit) as exited:
            cli.main()
        printed = capfd.readouterr()
        assert int(exited.value.code or 0) == status, printed.err
        return printed.err if status else printed.out

    monkeypatch.chdir(tmp_path)
    return run


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is drawn is small, so that it is compiled and run here in a moment."""
    compile_small(monkeypatch, compile_small_here)
    monkeypatch.setattr(session, "draw_graph", small_network)
    monkeypatch.setattr(command, "find_meter", lambda: None)
    monkeypatch.setattr(command, "measure_codec_slowdown", lambda _: 2.501)
    monkeypatch.setattr(stopwatch, "_PAUSE_S", 0)
    monkeypatch.setattr(entry, "PAUSE_S", 0.001)


def compile_small(monkeypatch: pytest.MonkeyPatch, compile_drawn: Any) -> None:
    compilers = partial(compile_here, compile_drawn=compile_drawn)
    for module in (session, command):
        monkeypatch.setattr(module, "compilers", compilers)
    monkeypatch.setattr(command, "compile_drawn", compile_drawn)


def compile_small_here(number: int, target: Target) -> DrawnNetwork:
    graph = small_network(number)
    workloads = describe(graph.layers)
    return DrawnNetwork(number, compile_timed(graph, target), random_inputs(graph), workloads)


@pytest.fixture
def fake(small: None, monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
    """A board that says at once what layers take."""
    board = FakeBoard()
    compile_small(monkeypatch, draw_small)
    monkeypatch.setattr(command, "connect", lambda *_: board)
    return board


class TestCalibrate:
    def test_a_target_that_plans(
        self, partc: Partc, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A network as large as those of a user, compiled and measured here."""
        monkeypatch.setattr(command, "_CALIBRATION_NETWORKS", 1)
        monkeypatch.setattr(command, "ENTRY_NETWORKS", ENTRY_NETWORKS[:1])
        monkeypatch.setattr(command, "find_meter", lambda: None)
        told = partc("profile", "--calibrate", "-o", "x.toml")
        assert re.match(r"\d+ layers: achieved_fraction [\d.e-]+, memory_bandwidth_gb_s ", told)
        assert told.endswith("\nwrote x.toml; next: partc plan MODEL --target x.toml\n")
        target, native = load_target("x.toml"), load_target("native")
        assert (target.name, target.aliases, target.profile) == ("x", (), None)
        for name in FITTED:
            assert getattr(target, name) != getattr(native, name)
            assert target.sources[name].startswith("fitted to ")
        assert target.tvm == native.tvm
        assert target.sources["memory_gb"] == native.sources["memory_gb"]
        assert " on x; " in partc(
            "plan", str(tiny_model), "--target", "x.toml", "--pin", "*=device"
        )

    @pytest.mark.usefixtures("fake")
    def test_figures_of_a_formula_are_found(self, partc: Partc) -> None:
        partc("profile", "--calibrate", "-o", "x.toml")
        target = load_target("x.toml")
        assert target.peak_gflops * target.achieved_fraction == pytest.approx(10, rel=0.1)
        assert target.launch_overhead_us == pytest.approx(1, rel=0.1)

    @pytest.mark.usefixtures("fake")
    def test_no_profile_is_written(self, partc: Partc, tmp_path: Path) -> None:
        partc("profile", "--calibrate", "-o", "x.toml")
        assert [path.name for path in tmp_path.iterdir()] == ["x.toml"]


class TestProfile:
    @pytest.mark.usefixtures("small")
    def test_plans_are_made_from_it(self, partc: Partc, tiny_model: Path, tmp_path: Path) -> None:
        """Small networks, compiled and measured here for six seconds."""
        told = partc("profile", "--budget", "0.1", "-o", "x.toml")
        assert re.match(
            r"\d+ layers in \d+ networks? on .*; between runs a layer differed by", told
        )
        assert {path.name for path in tmp_path.iterdir()} == {"x.toml", "x.profile.json"}
        target = load_target("x.toml")
        assert target.profile == "x.profile.json"
        profile = load_profile(Path("x.profile.json"))
        assert (profile.target, profile.threads) == ("native", 1)
        assert len(profile.samples) >= 3

        def plan_ms() -> float:
            options = ["--target", "x.toml", "--pin", "*=device", "--json"]
            layers = json.loads(partc("plan", str(tiny_model), *options))["layers"]
            return sum(layer["device_ms"] for layer in layers)

        before_ms = plan_ms()
        slower = [replace(each, latency_ms=100 * each.latency_ms) for each in profile.samples]
        session.write_profile(
            replace(profile, samples=tuple(slower), fits={}), Path("x.profile.json")
        )
        assert plan_ms() > 20 * before_ms

    @pytest.mark.parametrize(
        ("references_ms", "told"),
        [
            ((), "differed by 0.5%"),
            ((3.0,), "differed by 0.5%"),
            ((3.0, 3.3, 3.0), "differed by 0.5%, and a whole network between rounds by 10.0%"),
        ],
    )
    def test_how_good_the_machine_was(self, references_ms: tuple[float, ...], told: str) -> None:
        """One round tells nothing of what changes between rounds."""
        workloads = describe(small_network(1).layers)
        samples = tuple(Sample(1, workload, 2.0, 0.005) for workload in workloads)
        profile = Profile("native", {}, 1, "an abacus", samples, {}, references_ms)
        assert command.describe_profile(profile) == (
            f"3 layers in 1 network on an abacus; between runs a layer {told}"
        )

    def test_a_board_that_is_slower_makes_slower_plans(
        self, partc: Partc, fake: FakeBoard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def predicted_ms(slower: float, name: str) -> float:
            fake.slower = slower
            partc("profile", "--budget", "0.1", "-o", name)
            layers = small_network(500).layers
            predictions = predictor_for(load_target(name)).predict(layers)
            return sum(each.latency_ms for each in predictions if each)

        budget_of_twelve(monkeypatch, fake)
        assert predicted_ms(3, "slow.toml") == pytest.approx(
            3 * predicted_ms(1, "fast.toml"), rel=0.1
        )

    def test_a_second_run_goes_on(
        self, partc: Partc, fake: FakeBoard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        budget_of_twelve(monkeypatch, fake)
        counts: list[int] = []
        for _ in range(2):
            partc("profile", "--budget", "0.1", "-o", "x.toml")
            counts.append(len(load_profile(Path("x.profile.json")).samples))
        assert counts[1] > counts[0] > 0

    def test_a_profile_of_another_target_is_refused(
        self, partc: Partc, fake: FakeBoard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        budget_of_twelve(monkeypatch, fake)
        partc("profile", "--budget", "0.1", "-o", "x.toml")
        error = partc("profile", "--target", "x86-64", "-o", "x.toml", status=2)
        assert "is a profile of something else: tvm is {'kind': 'llvm', 'mcpu': 'native'}" in error
        error = partc("profile", "--threads", "2", "-o", "x.toml", status=2)
        assert "threads is 1 there and 2 now" in error

    def test_progress_is_a_line_for_each_network(
        self,
        fake: FakeBoard,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        budget_of_twelve(monkeypatch, fake)
        output = str(tmp_path / "x.toml")
        monkeypatch.setattr(sys, "argv", ["partc", "profile", "--budget", "0.1", "-o", output])
        with pytest.raises(SystemExit):
            cli.main()
        lines = capfd.readouterr().err.splitlines()
        assert lines[:2] == ["1 network, 3 layers, 0 of 6 s", "2 networks, 6 layers, 0 of 6 s"]
        others = [line for line in lines if not re.match(r"\d+ networks?, \d+ layers, ", line)]
        assert others == [
            *["Measuring"] * others.count("Measuring"),
            "Fitting",
            "Measuring what a request costs after a pause",
            "Measuring what encoding tensors takes",
        ]

    def test_progress_is_a_bar_on_a_terminal(
        self,
        fake: FakeBoard,
        tmp_path: Path,
        capfd: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        budget_of_twelve(monkeypatch, fake)
        monkeypatch.setenv("FORCE_COLOR", "1")
        output = str(tmp_path / "x.toml")
        monkeypatch.setattr(sys, "argv", ["partc", "profile", "--budget", "0.1", "-o", output])
        with pytest.raises(SystemExit):
            cli.main()
        # A bar is drawn ten times a second; only what it says last is sure to be seen.
        assert "Measuring what encoding tensors takes" in capfd.readouterr().err

    def test_the_file_that_was_written_is_gone_on_with(
        self, partc: Partc, fake: FakeBoard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its target has another name than the one that the profile began with."""
        budget_of_twelve(monkeypatch, fake)
        partc("profile", "--budget", "0.1", "-o", "x.toml")
        before = load_profile(Path("x.profile.json"))
        partc("profile", "--target", "x.toml", "--budget", "0.1", "-o", "x.toml")
        after = load_profile(Path("x.profile.json"))
        assert after.networks > before.networks
        assert load_target("x.toml").profile == "x.profile.json"

    def test_a_calibrated_target_keeps_its_profile(
        self, partc: Partc, fake: FakeBoard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """Unless it is another with other threads."""
        budget_of_twelve(monkeypatch, fake)
        partc("profile", "--budget", "0.1", "-o", "x.toml")
        again = ("profile", "--calibrate", "--target", "x.toml", "-o")
        (tmp_path / "other").mkdir()
        for output in ("y.toml", "other/y.toml", "x.toml"):
            partc(*again, output)
            assert Path(load_target(output).profile or "").resolve() == tmp_path / "x.profile.json"
        partc(*again, "z.toml", "--threads", "2")
        assert load_target("z.toml").profile is None

    def test_threads_are_those_asked_for(
        self, partc: Partc, fake: FakeBoard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        budget_of_twelve(monkeypatch, fake)
        partc("profile", "--budget", "0.1", "--threads", "2", "-o", "x.toml")
        target, native = load_target("x.toml"), load_target("native")
        assert target.threads == load_profile(Path("x.profile.json")).threads == 2
        assert target.peak_gflops == 2 * native.peak_gflops
        assert target.sources["peak_gflops"] == "2 / 1 of native's"


def budget_of_twelve(monkeypatch: pytest.MonkeyPatch, board: FakeBoard) -> None:
    """Half a second passes with each network, so that six seconds are enough for a dozen."""
    clock = SimpleNamespace(monotonic=lambda: len(board.measured) / 2)
    monkeypatch.setattr(session, "time", clock)


@pytest.mark.parametrize("options", [["--calibrate"], ["--budget", "0.1"]])
def test_a_request_that_comes_after_a_pause(
    partc: Partc, fake: FakeBoard, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    budget_of_twelve(monkeypatch, fake)
    first_line, _, _ = partc("profile", *options, "-o", "x.toml").partition("\n")
    told = r"; after a pause a request takes 0\.50 ms and 2\d\.\d% more than its layers; "
    assert re.search(told, first_line)
    target = load_target("x.toml")
    assert target.entry_ms == pytest.approx(0.5, rel=0.05)
    assert target.cold_share == pytest.approx(0.25, rel=0.05)
    source = "fitted to 6 networks that ran after waiting for 50 ms on an abacus"
    assert target.sources["entry_ms"] == target.sources["cold_share"] == source


class TestCodec:
    @pytest.mark.parametrize("options", [["--calibrate"], ["--budget", "0.1"]])
    def test_is_measured(
        self, partc: Partc, fake: FakeBoard, monkeypatch: pytest.MonkeyPatch, options: list[str]
    ) -> None:
        budget_of_twelve(monkeypatch, fake)
        first_line, _, _ = partc("profile", *options, "-o", "x.toml").partition("\n")
        told = "; encoding tensors takes 2.50 times as long as partc's figures say"
        assert first_line.endswith(told)
        target = load_target("x.toml")
        assert target.codec_slowdown == 2.5
        assert target.sources["codec_slowdown"] == "measured on one core of an abacus"

    @pytest.mark.usefixtures("fake")
    def test_of_a_board_is_not_what_it_is_here(
        self, partc: Partc, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(command, "measure_codec_slowdown", pytest.fail)
        told = partc("profile", "--calibrate", "--rpc", "board:9090", "-o", "x.toml")
        assert "encoding" not in told
        target, native = load_target("x.toml"), load_target("native")
        assert target.codec_slowdown == native.codec_slowdown
        assert target.sources["codec_slowdown"] == native.sources["codec_slowdown"]


class FakeMeter:
    """Shows more watts while the board computes."""

    name = "a meter"
    joules = 5.0, 15.0
    """In two seconds, waiting and computing."""

    def __init__(self, board: FakeBoard) -> None:
        self._board = board

    @contextmanager
    def record(self) -> Generator[Recording]:
        recording, before = Recording(), self._board.runs
        yield recording
        recording.seconds = 2.0
        recording.joules = self.joules[self._board.runs > before]


class TestPower:
    @pytest.fixture
    def metered(self, fake: FakeBoard, monkeypatch: pytest.MonkeyPatch) -> FakeBoard:
        monkeypatch.setattr(command, "find_meter", lambda: FakeMeter(fake))
        monkeypatch.setattr(command, "_POWER_S", 0.02)
        return fake

    @pytest.mark.parametrize("options", [["--calibrate"], ["--budget", "0.1"]])
    def test_watts_are_the_meters(
        self,
        partc: Partc,
        metered: FakeBoard,
        monkeypatch: pytest.MonkeyPatch,
        options: list[str],
    ) -> None:
        budget_of_twelve(monkeypatch, metered)
        partc("profile", *options, "-o", "x.toml")
        target = load_target("x.toml")
        assert (target.idle_watts, target.busy_watts) == (2.5, 7.5)
        assert watts_source(target) == {"measured by a meter"}

    @pytest.mark.usefixtures("metered")
    def test_a_meter_that_shows_nothing(
        self, partc: Partc, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As one of a virtual machine may."""
        monkeypatch.setattr(FakeMeter, "joules", (0.0, 0.0))
        told = partc("profile", "--calibrate", "-o", "x.toml")
        assert "\na meter shows no power; watts are native's\n" in told
        target, native = load_target("x.toml"), load_target("native")
        assert (target.idle_watts, target.busy_watts) == (native.idle_watts, native.busy_watts)
        assert watts_source(target) == watts_source(native)

    def test_a_meter_that_fails_takes_nothing_away(
        self, partc: Partc, metered: FakeBoard, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(self: FakeMeter) -> None:
            raise PartcError("the meter is broken")

        budget_of_twelve(monkeypatch, metered)
        monkeypatch.setattr(FakeMeter, "record", fail)
        error = partc("profile", "--budget", "0.1", "-o", "x.toml", status=2)
        assert error.endswith("error: the meter is broken\n")
        assert load_target("x.toml").profile == "x.profile.json"

    @pytest.mark.usefixtures("metered")
    def test_a_meter_here_says_nothing_of_a_board(self, partc: Partc) -> None:
        partc("profile", "--calibrate", "--rpc", "board:9090", "-o", "x.toml")
        assert watts_source(load_target("x.toml")) == watts_source(load_target("native"))


@pytest.mark.usefixtures("fake")
class TestLoad:
    CURVE = LoadCurve((0, 1, 2), (1, 1.25, 2.5))

    @pytest.fixture
    def loaded(self, monkeypatch: pytest.MonkeyPatch) -> list[Target]:
        """What was measured under load."""
        measured: list[Target] = []

        def measure_load(target: Target) -> LoadCurve:
            measured.append(target)
            return self.CURVE

        monkeypatch.setattr(command, "measure_load", measure_load)
        return measured

    def test_is_written_and_told(self, partc: Partc, loaded: list[Target]) -> None:
        told = partc("profile", "--calibrate", "--load", "-o", "x.toml")
        assert "are computed: 1.25 times beside 1, 2.50 times beside 2\n" in told
        target = load_target("x.toml")
        assert target.load == self.CURVE
        assert target.sources["load"].startswith("measured on an abacus ")
        assert [each.threads for each in loaded] == [1]

    def test_is_measured_where_it_is_asked_for(self, partc: Partc, loaded: list[Target]) -> None:
        partc("profile", "--calibrate", "-o", "x.toml")
        assert load_target("x.toml").load is None
        assert loaded == []

    @pytest.mark.usefixtures("loaded")
    def test_of_before_stays_unless_requests_have_other_threads(self, partc: Partc) -> None:
        partc("profile", "--calibrate", "--load", "-o", "x.toml")
        again = ("profile", "--calibrate", "--target", "x.toml", "-o")
        partc(*again, "y.toml")
        partc(*again, "z.toml", "--threads", "2")
        assert load_target("y.toml").load == self.CURVE
        assert load_target("z.toml").load is None
        assert "load" not in load_target("z.toml").sources

    @pytest.mark.usefixtures("loaded")
    def test_of_a_board_is_not_measured(self, partc: Partc, tmp_path: Path) -> None:
        error = partc("profile", "--load", "--rpc", "board:9090", "-o", "x.toml", status=2)
        assert "which --rpc cannot start" in error
        assert list(tmp_path.iterdir()) == []


def watts_source(target: Target) -> set[str]:
    return {target.sources["idle_watts"], target.sources["busy_watts"]}


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["-o", "x.json"], r"--output names a \.toml file to write, not 'x\.json'"),
            (["-o", "no/x.toml"], r"no/x\.toml cannot be written: its directory does not exist"),
            (["--target", "nowhere"], "no target is called 'nowhere'"),
            (
                ["--target", "raspberry-pi-4"],
                "code for raspberry-pi-4 does not run here; start `python -m tvm.exec.rpc_server` "
                "on a board and give its address with --rpc HOST:PORT",
            ),
            (["--rpc", "nowhere"], "no TVM RPC server answers at 'nowhere'; give HOST:PORT"),
            (["--rpc", "127.0.0.1:9"], "no TVM RPC server answers at '127.0.0.1:9'"),
        ],
    )
    @pytest.mark.parametrize("calibrate", [[], ["--calibrate"]])
    def test_one_sentence(
        self, partc: Partc, tmp_path: Path, options: list[str], message: str, calibrate: list[str]
    ) -> None:
        error = partc("profile", *options, *calibrate, status=2)
        assert re.match(f"error: {message}", error), error
        assert len(error.splitlines()) == 1
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("options", [["--budget", "0"], ["--threads", "0"]])
    def test_out_of_range(self, partc: Partc, options: list[str]) -> None:
        assert "Invalid value for" in partc("profile", *options, status=2)
