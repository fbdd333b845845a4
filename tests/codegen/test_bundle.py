from __future__ import annotations

from pathlib import Path

import pytest

from partc.bundle import Bundle, open_bundle
from partc.codegen.bundle import check_output, staged
from partc.errors import BundleError
from partc.manifest import hash_files


class RefusedError(Exception):
    """What a step of a compilation may raise."""


def interrupt(place: Path, error: BaseException | type[BaseException]) -> None:
    """Begin to write a bundle, and fail."""
    with staged(place) as staging:
        (staging / "file").touch()
        raise error


def is_empty(directory: Path) -> bool:
    return not any(directory.iterdir())


@pytest.fixture
def old(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy of a bundle that may be replaced."""
    place = tmp_path / "out"
    with staged(place) as staging:
        for name in (*tiny_bundle.manifest.files, "manifest.json"):
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).write_bytes((tiny_bundle.path / name).read_bytes())
    return place


class TestCheckOutput:
    @pytest.mark.parametrize("name", ["new", "./new", "empty", "link"])
    def test_accepts_a_free_place(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "link").symlink_to("elsewhere")
        check_output(tmp_path / name)

    def test_accepts_a_bundle_that_has_been_used(self, old: Path) -> None:
        for directory in (old / "device", old / "device" / "runtime"):
            (directory / "__pycache__").mkdir()
            (directory / "__pycache__" / "client.cpython-311.pyc").touch()
        check_output(old)

    def test_accepts_a_bundle_of_another_version(self, old: Path) -> None:
        manifest = old / "manifest.json"
        text = manifest.read_text().replace('"schema_version": 1', '"schema_version": 9')
        manifest.write_text(text)
        check_output(old)

    def test_refuses_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(BundleError, match="file is a file, so it is left alone"):
            check_output(tmp_path / "file")

    @pytest.mark.parametrize("name", ["thesis.tex", "manifest.json", "deep/inside"])
    def test_refuses_a_directory_that_is_no_bundle(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "work" / name).parent.mkdir(parents=True)
        (tmp_path / "work" / name).write_text('{"name": "a web app", "start_url": "."}')
        with pytest.raises(BundleError, match="work exists and is no bundle, so it is left alone"):
            check_output(tmp_path / "work")

    def test_refuses_a_bundle_that_somebody_keeps_something_in(self, old: Path) -> None:
        (old / "results").mkdir()
        (old / "results" / "class.npy").touch()
        with pytest.raises(BundleError, match=r"holds 'results/class\.npy', which is no part"):
            check_output(old)

    def test_refuses_a_place_without_a_parent(self, tmp_path: Path) -> None:
        with pytest.raises(BundleError, match=r"there is no directory .*/missing to write out in"):
            check_output(tmp_path / "missing" / "out")

    @pytest.mark.parametrize("name", [".", "..", "/", "inner/.."])
    def test_refuses_to_replace_the_current_directory(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        (tmp_path / "inner").mkdir()
        monkeypatch.chdir(tmp_path)
        with pytest.raises(BundleError, match="is the current directory, one above it or"):
            check_output(Path(name))

    def test_refuses_a_parent_that_is_not_writable(self) -> None:
        with pytest.raises(BundleError, match=r"/proc cannot be written to .*; give another dir"):
            check_output(Path("/proc/out"))  # where even root may write nothing


class TestStaged:
    @pytest.mark.parametrize("before", [None, "empty"])
    def test_what_is_written_takes_its_place(self, tmp_path: Path, before: str | None) -> None:
        place = tmp_path / "out"
        if before:
            place.mkdir()
        with staged(place) as staging:
            assert staging.parent.parent == tmp_path, "a rename cannot leave the file system"
            (staging / "file").write_text("new")
        assert (place / "file").read_text() == "new"
        assert list(tmp_path.iterdir()) == [place]

    def test_the_mode_is_that_of_any_new_directory(self, tmp_path: Path) -> None:
        with staged(tmp_path / "out"):
            pass
        (tmp_path / "ordinary").mkdir()
        modes = {(tmp_path / name).stat().st_mode for name in ("out", "ordinary")}
        assert len(modes) == 1

    def test_nothing_of_an_old_bundle_stays(self, old: Path) -> None:
        with staged(old) as staging:
            (staging / "file").touch()
        assert [path.name for path in old.iterdir()] == ["file"]

    def test_a_link_keeps_pointing_there(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("real")
        with staged(tmp_path / "link") as staging:
            (staging / "file").touch()
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "real" / "file").exists()

    @pytest.mark.parametrize("error", [RefusedError, KeyboardInterrupt])
    def test_a_failure_leaves_nothing(self, tmp_path: Path, error: type[BaseException]) -> None:
        with pytest.raises(error):
            interrupt(tmp_path / "out", error)
        assert is_empty(tmp_path)

    @pytest.mark.parametrize("error", [RefusedError, KeyboardInterrupt])
    def test_a_failure_leaves_the_old_bundle(self, old: Path, error: type[BaseException]) -> None:
        before = hash_files(old)
        with pytest.raises(error):
            interrupt(old, error)
        assert hash_files(old) == before
        open_bundle(old)
        assert list(old.parent.iterdir()) == [old]

    @pytest.mark.parametrize("error", [OSError(16, "busy"), KeyboardInterrupt()])
    def test_a_failure_to_replace_brings_the_old_bundle_back(
        self, old: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
    ) -> None:
        rename = Path.rename

        def fail_for_the_new(self: Path, target: Path) -> Path:
            if self.name == "new":
                raise error
            return rename(self, target)

        monkeypatch.setattr(Path, "rename", fail_for_the_new)
        before = hash_files(old)
        with pytest.raises((BundleError, KeyboardInterrupt)), staged(old):
            pass
        assert hash_files(old) == before
        assert list(old.parent.iterdir()) == [old]

    def test_a_full_disk_is_one_sentence(self, tmp_path: Path) -> None:
        full = OSError(28, "No space left on device")
        with pytest.raises(BundleError, match=r"out cannot be written: .*No space left on device"):
            interrupt(tmp_path / "out", full)
        assert is_empty(tmp_path)
