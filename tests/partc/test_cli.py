from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from command_line import Run, assert_refused
from tiny import INPUT, OUTPUT, PLANS, run_reference, tiny_inputs

import partc
from partc.bundle import Bundle, open_bundle
from partc.manifest import Manifest
from partc.report.html import report_html

COMMANDS = tuple("compile plan inspect serve run emulate-link profile targets links".split())
PARTC = [sys.executable, "-m", "partc"]


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself(self, run: Run, command: str) -> None:
        result = run(command, "--help")
        assert result.status == 0
        assert result.out.startswith(f"Usage: partc {command} ")

    @pytest.mark.parametrize("command", ["", "compile", "plan", "inspect", "serve", "run"])
    def test_without_arguments_there_is_help(self, run: Run, command: str) -> None:
        result = run(*command.split())
        assert f"Usage: partc {command}".rstrip() in result.out + result.err
        assert "--help" in result.out + result.err

    def test_names_every_command(self, run: Run) -> None:
        listing = run("--help").out
        assert all(f"  {command} " in listing for command in COMMANDS)

    def test_version(self, run: Run) -> None:
        assert re.fullmatch(r"partc \d+\.\d+\.\d+\n", run("--version").out)

    @pytest.mark.parametrize("command", ["serve", "run"])
    def test_short_help_is_help_too(self, run: Run, command: str) -> None:
        assert run(command, "-h") == run(command, "--help")

    @pytest.mark.parametrize("help_option", ["-h", "--help"])
    @pytest.mark.parametrize(("command", "option"), [("serve", "--port"), ("run", "--input")])
    def test_a_half_lists_its_own_options(
        self, run: Run, tiny_bundle: Bundle, command: str, option: str, help_option: str
    ) -> None:
        result = run(command, tiny_bundle.path, help_option)
        assert (result.status, option in result.out) == (0, True)
        assert result.out.startswith(f"usage: partc {command} DIR [-h]")


class TestListings:
    @pytest.mark.parametrize("command", ["targets", "links"])
    def test_are_as_reviewed(
        self, run: Run, golden: Callable[[str, str], None], command: str
    ) -> None:
        result = run(command)
        assert (result.status, result.err) == (0, "")
        golden(f"cli.{command}.txt", result.out)


class TestInspect:
    @pytest.mark.parametrize(
        ("view", "name"),
        [
            ("--text", "cli.tiny.graph"),
            ("--json", "cli.tiny.graph.json"),
            ("--dot", "cli.tiny.dot"),
            ("--target=jetson-tx2", "cli.tiny.layers.txt"),
        ],
    )
    def test_views_are_as_reviewed(
        self,
        run: Run,
        tiny_model: Path,
        golden: Callable[[str, str], None],
        view: str,
        name: str,
    ) -> None:
        result = run("inspect", tiny_model, view)
        assert (result.status, result.err) == (0, "Importing the model\n")
        golden(name, result.out)

    def test_a_page_is_written(self, run: Run, tiny_model: Path, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        result = run("inspect", tiny_model, "--target", "jetson", "--html", page)
        assert (result.status, result.out) == (0, f"wrote {page}\n")
        assert page.read_text("utf-8") == report_html(partc.plan(tiny_model, target="jetson"))

    def test_a_bundle_is_a_table(
        self, run: Run, tiny_bundle: Bundle, golden: Callable[[str, str], None]
    ) -> None:
        result = run("inspect", tiny_bundle.path)
        assert (result.status, result.err) == (0, "")
        golden("cli.tiny.bundle.txt", result.out)

    def test_a_bundle_is_its_manifest(self, run: Run, tiny_bundle: Bundle) -> None:
        text = run("inspect", tiny_bundle.path, "--json").out
        assert text == (tiny_bundle.path / "manifest.json").read_text("utf-8")
        assert msgspec.json.decode(text, type=Manifest) == tiny_bundle.manifest


class TestCompile:
    def test_writes_a_bundle_and_says_what_is_next(
        self, run: Run, tiny_model: Path, tmp_path: Path
    ) -> None:
        place = tmp_path / "a [red]b"
        result = run("compile", tiny_model, "--target", "native", "--server", "native", "-o", place)
        assert result.status == 0
        assert result.err.splitlines()[0] == "Importing the model"
        assert result.out.endswith(f"wrote {place}; next: partc serve '{place}'\n")
        assert open_bundle(place).manifest.model == "tiny"

    def test_progress_is_on_standard_error_only(
        self, run: Run, tiny_model: Path, tmp_path: Path
    ) -> None:
        result = run(
            "compile", tiny_model, "--target=native", "--server=native", "-o", tmp_path / "o"
        )
        assert "Verifying" in result.err
        assert "Verifying" not in result.out

    def test_an_interruption_ends_quietly_and_leaves_nothing(
        self, tiny_model: Path, tmp_path: Path
    ) -> None:
        command = [*PARTC, "compile", str(tiny_model), "--target=native", "--server=native"]
        with subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stderr is not None
            while not process.stderr.readline().startswith("Compiling"):
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            out, err = process.communicate()
        assert process.returncode == 130
        assert out == ""
        assert "Traceback" not in err
        assert list(tmp_path.iterdir()) == []


class TestMistakes:
    @pytest.fixture(autouse=True)
    def nothing_is_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        (tmp_path / "text.onnx").write_text("this is no protobuf")
        (tmp_path / "notes.txt").write_text("neither is this")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "file").touch()
        (tmp_path / "bad.toml").write_text("name = 7")
        monkeypatch.chdir(tmp_path)
        before = sorted(tmp_path.rglob("*"))
        yield
        assert sorted(tmp_path.rglob("*")) == before

    @pytest.mark.parametrize("command", ["compile", "plan"])
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("--target abacus", "no target is called 'abacus'.*`partc targets` lists them"),
            ("--target jetsn", "did you mean 'jetson'"),
            ("--target none.toml", "there is no target file 'none.toml'"),
            ("--target bad.toml", "'bad.toml' does not describe a target"),
            ("--target native --server abacus", "no target is called 'abacus'"),
            ("--target native --link string", "no link is called 'string'"),
            ("--target native --pin stem", "expected --pin PATTERN=device or .*, got 'stem'"),
            ("--target native --pin =device", "expected --pin PATTERN=device or"),
            ("--target native --pin stem=moon", "pin 'stem' says 'moon'"),
            ("--target native --pin none*=device", r"none\*"),
            ("--target native --pin stem=server --pin head=device", "'head' is pinned to the dev"),
            ("--target native --pin *=server --pin ?*=device", "cannot run on both sides"),
            ("--target native --pin *=server --pin *=device", "--pin was given twice for '*'"),
            ("--target native --shape x:0=1 --shape x:0=2", "--shape was given twice for 'x:0'"),
            ("--target native --shape 1,3,8,8", "expected --shape NAME=1,3,224,224, got '1,3,8"),
            ("--target native --shape x:0=1,a", "expected --shape NAME=1,3,224,224"),
            ("--target native --shape x:0=-1,3", "expected --shape NAME=1,3,224,224"),
            ("--target native --max-upload 3", "--max-upload is a size such as 150kB, .*, not '3'"),
            ("--target native --uplink fast", "--uplink is a number or a range such as 0.5..50"),
            (
                "--target native --uplink 9..3",
                "--uplink is above zero and goes from less to more, not 9..3",
            ),
            ("--target native --deadline -1", "--deadline is a number of ms, 0 or more, not -1"),
            ("--target native --objective weighted", "--ms-per-mj, how many ms a mJ is worth"),
            ("--target native --ms-per-mj 2", "--objective weighted and --ms-per-mj"),
            ("--target native --private-until ste", "--private-until 'ste' matches no layer"),
            ("--target native --forbid stem", "expected --forbid PATTERN=device or PATTERN=server"),
            ("--target native --shape y=1", "y"),
            ("--target native --shape x:0=1,3", "x:0"),
            ("--target native --preprocess unit", "expected --preprocess NAME=imagenet, for examp"),
            ("--target native --preprocess x:0=vgg", "INPUT=imagenet|unit|signed"),
            ("--target native --preprocess y=unit", "'y', which is no input; the inputs are x:0"),
            ("--target native --input-nbytes 3kB", "expected --input-nbytes NAME=SIZE such as"),
            ("--target native --input-nbytes x:0=3", "--input-nbytes x:0 is a size such as"),
            ("--target native --input-nbytes y=3kB", "about 'y', which is no input"),
            ("--target native --input-nbytes x:0=3kB", "let it take images with --preprocess x:0="),
            ("--target native --max-error 1", "from 0, lossless, to below 1, not 1"),
            (
                "--target native --max-error 0.1 --calibration none.npz",
                "the calibration file none.npz cannot be read",
            ),
        ],
    )
    def test_in_options(
        self, run: Run, tiny_model: Path, command: str, options: str, message: str
    ) -> None:
        assert_refused(run(command, tiny_model, *options.split()), message)

    @pytest.mark.parametrize("command", ["compile", "plan", "inspect"])
    @pytest.mark.parametrize(
        ("model", "message"),
        [
            ("missing.onnx", "there is no model file missing.onnx; a model is an .onnx file"),
            ("notes.txt", "notes.txt is no model that partc knows"),
            ("text.onnx", "text.onnx is no ONNX model"),
            ("no.such:thing", "no.such"),
        ],
    )
    def test_in_the_model(self, run: Run, command: str, model: str, message: str) -> None:
        assert_refused(run(command, model, "--target", "native"), message)

    @pytest.mark.parametrize("command", ["compile", "plan"])
    def test_a_directory_for_a_model(self, run: Run, command: str) -> None:
        assert_refused(run(command, "folder", "--target", "native"), "folder is a directory; a mod")

    @pytest.mark.parametrize(
        ("command", "message"),
        [
            ("compile", "Error: Missing option '--target'.\n"),
            ("plan", "either --target NAME, the device, or --tiers NAME,NAME,…; neither came\n"),
        ],
    )
    def test_a_missing_target(self, run: Run, tiny_model: Path, command: str, message: str) -> None:
        result = run(command, tiny_model)
        assert (result.status, result.out) == (2, "")
        assert result.err.endswith(message)

    def test_an_unknown_objective(self, run: Run, tiny_model: Path) -> None:
        result = run("plan", tiny_model, "--target", "native", "--objective", "beauty")
        assert (result.status, result.out) == (2, "")
        assert "'beauty' is not one of 'latency', 'energy'" in result.err

    def test_an_unknown_command(self, run: Run) -> None:
        result = run("complie")
        assert (result.status, result.out) == (2, "")
        assert "Did you mean 'compile'?" in result.err

    def test_a_target_that_cannot_be_compiled_for(self, run: Run, tiny_model: Path) -> None:
        assert_refused(
            run("compile", tiny_model, "--target", "jetson-tk1"), "cannot compile for jetson-tk1"
        )

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            ("folder", "folder exists and is no bundle, so it is left alone"),
            ("notes.txt", "notes.txt is a file, so it is left alone"),
            ("no/where", "there is no directory .*/no to write where in"),
            (".", "is the current directory"),
        ],
    )
    def test_in_the_output(self, run: Run, tiny_model: Path, output: str, message: str) -> None:
        result = run("compile", tiny_model, "--target=native", "--server=native", "-o", output)
        assert_refused(result, message)

    def test_json_of_two_links(self, run: Run, tiny_model: Path) -> None:
        options = "--target native --json --link lte --link wifi".split()
        assert_refused(
            run("plan", tiny_model, *options),
            "--json and --plot are for one answer, but 2 links were",
        )

    def test_two_views(self, run: Run, tiny_model: Path) -> None:
        assert_refused(run("inspect", tiny_model, "--dot", "--json"), "give one of --json, --text")

    def test_a_page_without_a_target(self, run: Run, tiny_model: Path) -> None:
        result = run("inspect", tiny_model, "--html", "page.html")
        assert_refused(result, "--html shows times, so it needs --target")

    def test_a_page_that_cannot_be_written(self, run: Run, tiny_model: Path) -> None:
        result = run("inspect", tiny_model, "--target", "native", "--html", "no/page.html")
        assert_refused(result, "no/page.html cannot be written: No such file or directory")

    def test_a_view_that_bundles_do_not_have(self, run: Run, tiny_bundle: Bundle) -> None:
        result = run("inspect", tiny_bundle.path, "--dot")
        assert_refused(result, "is a bundle, which is shown as a table or with --json")

    @pytest.mark.parametrize("command", ["inspect", "serve", "run"])
    def test_no_bundle(self, run: Run, command: str) -> None:
        assert_refused(run(command, "folder"), "folder is no bundle: it has no manifest.json")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("--listen nowhere --to localhost:1", "expected HOST:PORT such as .*, got 'nowhere'"),
            ("--listen localhost:0 --to localhost", "expected HOST:PORT"),
            ("--listen localhost:0 --to localhost:99999", "expected a port"),
            ("--listen localhost:0 --to localhost:1 --outage 3", "expected --outage START:SECONDS"),
        ],
    )
    def test_in_addresses(self, run: Run, options: str, message: str) -> None:
        assert_refused(run("emulate-link", "--link", "wifi", *options.split()), message)

    def test_a_missing_model_is_found_before_the_compiler_is_loaded(self) -> None:
        code = (
            "import sys; from partc.cli import main\n"
            "sys.argv = ['partc', 'compile', 'missing.onnx', '--target', 'native']\n"
            "try: main()\n"
            "except SystemExit as done: print(done.code, 'tvm' in sys.modules)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout == "2 False\n"


class TestTamperedBundles:
    @pytest.mark.parametrize(
        ("command", "program"), [("serve", "server/server.py"), ("run", "device/client.py")]
    )
    def test_are_refused_before_anything_of_them_runs(
        self, run: Run, tiny_bundle: Bundle, tmp_path: Path, command: str, program: str
    ) -> None:
        copy = shutil.copytree(tiny_bundle.path, tmp_path / "copy")
        (copy / program).write_text("print('running')")
        assert_refused(run(command, copy), f"{program} has changed since the bundle was written")


@pytest.fixture(scope="module")
def server(tiny_bundle: Bundle) -> Iterator[str]:
    """``partc serve`` as a process; its address."""
    command = [*PARTC, "serve", str(tiny_bundle.path), "--host", "127.0.0.1", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("serving tiny on 127.0.0.1:")
        yield line.split()[-1]
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0, "an interrupted server ends well"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    np.save(tmp_path / "image.npy", tiny_inputs()[INPUT])
    return tmp_path / "image.npy"


class TestRun:
    @pytest.mark.parametrize("plan", PLANS)
    def test_every_plan_answers_as_the_source_does(
        self,
        run: Run,
        tiny_bundle: Bundle,
        tiny_model: Path,
        server: str,
        image: Path,
        tmp_path: Path,
        plan: str,
    ) -> None:
        options = ["--server", server, "--plan", plan, "--input", f"{INPUT}={image}"]
        result = run("run", tiny_bundle.path, *options, "--output", tmp_path / "made")
        assert result.status == 0
        assert result.err.startswith(f"plan {plan}: device ")
        assert result.out.startswith("class: float32[1, 2, 1, 1] = ")
        np.testing.assert_allclose(
            np.load(tmp_path / "made" / f"{OUTPUT}.npy"),
            run_reference(tiny_model, tiny_inputs()),
            rtol=1e-4,
            atol=1e-5,
        )

    def test_the_device_alone_needs_no_server(
        self, run: Run, tiny_bundle: Bundle, image: Path
    ) -> None:
        options = ["--plan", "device-only", "--input", f"{INPUT}={image}"]
        assert run("run", tiny_bundle.path, *options).status == 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ("--input x:0=missing.npy", "input 'x:0': there is no file missing.npy"),
            ("--input x:0", "an input is NAME=FILE"),
            ("--plan device-only", "give every input once, .* --input x:0=x:0.npy, not none"),
            ("--plan device-only --input y={image}", "--input x:0=x:0.npy, not 'y'"),
            ("--input x:0={image} --input x:0={image}", "not 'x:0', 'x:0'"),
            ("--plan device-only --input x:0={small}", r"input 'x:0' is float32\[2\], expected"),
            ("--plan none --input x:0={image}", "unknown plan 'none'; known are server-only"),
            ("--input x:0={image}", "plan 'cut-1' needs the server"),
            ("--server here --input x:0={image}", "a server's address is HOST:PORT"),
        ],
    )
    def test_mistakes(
        self,
        run: Run,
        tiny_bundle: Bundle,
        image: Path,
        tmp_path: Path,
        options: str,
        message: str,
    ) -> None:
        np.save(tmp_path / "small.npy", np.zeros(2, "float32"))
        filled = options.format(image=image, small=tmp_path / "small.npy")
        assert_refused(run("run", tiny_bundle.path, *filled.split()), message)


def test_a_port_in_use_is_one_sentence(run: Run, tiny_bundle: Bundle) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("serve", tiny_bundle.path, "--host", "127.0.0.1", "--port", port)
    assert result.status == 2
    assert f"error: cannot listen on 127.0.0.1:{port}" in result.err
    assert "Traceback" not in result.err


def test_a_reader_that_leaves_early_is_no_error(tiny_bundle: Bundle) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*PARTC, "inspect", str(tiny_bundle.path), "--json"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert done.stderr == ""
