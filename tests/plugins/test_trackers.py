"""Trackers: one run over a kill, a signal and two resumes, read back with each client's own reader."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tomllib
import zlib
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import frozen
from packaging.requirements import Requirement
from packaging.version import Version
from swanlab.proto.swanlab.record.v1.record_pb2 import Record
from swanlab.proto.swanlab.run.v1.run_pb2 import RunState
from swanlab.sdk.internal.core_python.store import DataStoreReader

from llmx import PluginError
from llmx_loggers.tracker import require
from llmx_loggers.wandb import WandbLogger

TRACKERS = ("tensorboard", "wandb", "swanlab", "trackio")
ON_DISK = ("logger.wandb.mode=offline", "logger.swanlab.mode=offline")
COMPARED = ("train/loss", "lr", "grad_norm", "tokens", "val/loss")
"""Metrics that are equal when a step is computed again; speeds are not."""

HOOKS = '''
"""Kills the run at step 37, stops it at step 45, and looks at what the trackers did to the process."""
import os, signal, sys
from llmx import hookimpl

@hookimpl(trylast=True)
def llmx_before_run(run):
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM).__module__ == "llmx.cli"
    assert sys.excepthook is sys.__excepthook__

@hookimpl(trylast=True)
def llmx_after_step(run):
    for step, number in ((37, signal.SIGKILL), (45, signal.SIGTERM)):
        mark = run.folder / f"signal-{step}"
        if run.state.step == step and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), number)
'''

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Series = dict[str, list[tuple[int, float]]]


@frozen
class Tracked:
    """A run that was killed, stopped and finished, what its processes wrote, and what a reader needs."""

    folder: Path
    home: Path
    processes: list[subprocess.CompletedProcess[str]]

    def read(self, *command: str) -> str:
        """Return what a command prints that reads the run."""
        environment = {**os.environ, "HOME": str(self.home), "TRACKIO_DIR": str(self.folder / "trackio")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout


def isolated(home: Path) -> dict[str, str]:
    """Return variables with which no client finds an account, a setting or a network."""
    home.mkdir(exist_ok=True)
    gone = [name for name in os.environ if name.startswith(("WANDB_", "SWANLAB_", "TRACKIO_", "HF_TOKEN"))]
    nowhere = "http://127.0.0.1:9"
    return {
        **dict.fromkeys(gone, ""),
        "HOME": str(home),
        "HF_HOME": str(home / "hf"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def loggers(*names: str) -> list[str]:
    return [word for name in names for word in ("--logger", name)]


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory, small: list[str], llmx_cli: Cli) -> Tracked:
    """SIGKILL at step 37 with the newest checkpoint at 30, SIGTERM at 45, and on to the end at 60."""
    base = tmp_path_factory.mktemp("tracked")
    (base / "hooks.py").write_text(HOOKS)
    arguments = ["run", *small, "train.steps=60", "checkpoint.every=10", "eval.every=13", "--tokenizer", "char"]
    arguments += [*loggers("console", "jsonl", *TRACKERS), *ON_DISK]
    arguments += ["--hooks", str(base / "hooks.py"), "--out", str(base / "run"), "--resume"]
    found = Tracked(base / "run", base / "home", [])
    for expected in (-9, 143, 0):
        done = llmx_cli(*arguments, **isolated(found.home))
        assert done.returncode == expected, done.stdout + done.stderr
        found.processes.append(done)
    return found


def expected_series(tracked: Tracked) -> Series:
    """Return the series of `metrics.jsonl`, which is cut at the checkpoint and written again."""
    series: Series = defaultdict(list)
    for line in (tracked.folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        for name in COMPARED:
            if name in row and not (name == "tokens" and "val/loss" in row):
                series[name].append((row["step"], row[name]))
    assert [step for step, _ in series["train/loss"]] == list(range(1, 61))
    assert len(series["val/loss"]) == 5
    return series


# --- one run, read back ---------------------------------------------------------------------------------------------


def test_the_run_was_killed_after_its_checkpoint(tracked: Tracked) -> None:
    """The shared run is what these tests think it is: it went on from step 30, then from step 45."""
    outs = [process.stdout for process in tracked.processes]
    assert "Going on after step" not in outs[0]
    assert "Going on after step 30 of 60" in outs[1]
    assert "Going on after step 45 of 60" in outs[2]


def test_tensorboard_holds_one_series(tracked: Tracked) -> None:
    """The event files of the starts are one series for TensorBoard's own reader, without a gap or a double."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tracked.folder / "tensorboard"
    assert len(list(folder.iterdir())) == 3
    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    for name, series in expected_series(tracked).items():
        found = [(event.step, event.value) for event in reader.Scalars(name)]
        assert [step for step, _ in found] == [step for step, _ in series], name
        assert [value for _, value in found] == pytest.approx([value for _, value in series], rel=1e-6)
    assert "tinyllm" in reader.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()


def test_wandb_holds_one_run(tracked: Tracked) -> None:
    """The files of the starts, in order, are one run whose steps only go up, and end with the exit code."""
    rows, ids, exits = [], set(), []
    files = sorted((tracked.folder / "wandb").glob("offline-run-*/*.wandb"))
    assert all(path.stat().st_size > 7 for path in files)  # one with a header alone would end `wandb sync`
    for record in (record for path in files for record in wandb_records(path, tracked.home)):
        if record["type"] == "history":
            rows.append(record["history"]["item"])
        elif record["type"] == "run":
            ids.add((record["run"]["run_id"], record["run"]["resume"], record["run"]["display_name"]))
            assert record["run"]["config"]["update"]["model"]["preset"] == "nano"
        elif record["type"] == "exit":
            exits.append(record["exit"].get("exit_code", 0))
    assert ids == {(run_id(tracked), True, "run")}
    assert exits == [143, 0]
    assert [row["_step"] for row in rows] == list(range(1, 61))
    for name, series in expected_series(tracked).items():
        assert [(row["_step"], row[name]) for row in rows if name in row] == series, name


def wandb_records(path: Path, home: Path) -> list[dict[str, Any]]:
    """Return the records of a file of wandb, by its own reader."""
    reader = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
    environment = {**os.environ, **isolated(home)}
    done = subprocess.run(reader, env=environment, capture_output=True, text=True, timeout=120, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_swanlab_holds_one_run(tracked: Tracked) -> None:
    """SwanLab's own reader finds each step of each metric once over the folders of the starts, under one id."""
    found: Series = defaultdict(list)
    ids, states = set(), []
    files = sorted((tracked.folder / "swanlab").glob("run-*/*.swanlab"))
    assert len(files) == 3
    for record in (record for path in files for record in swanlab_records(path)):
        if record.HasField("scalar"):
            found[record.scalar.key].append((record.scalar.step, record.scalar.value.number))
        elif record.HasField("start"):
            ids.add((record.start.id, record.start.name, record.start.project))
        elif record.HasField("finish"):
            states.append(record.finish.state)
    assert ids == {(run_id(tracked), "run", "llmx")}
    assert states == [RunState.RUN_STATE_ABORTED, RunState.RUN_STATE_FINISHED]
    for name, series in expected_series(tracked).items():
        assert [step for step, _ in found[name]] == [step for step, _ in series], name
        assert [value for _, value in found[name]] == pytest.approx([value for _, value in series], rel=1e-6), name


def swanlab_records(path: Path) -> list[Any]:
    """Return the records of a file of SwanLab, by its own reader."""
    reader = DataStoreReader()
    reader.open(path)
    found = [Record.FromString(record) for record in reader]
    reader.close()
    return found


def test_trackio_holds_one_run(tracked: Tracked) -> None:
    """Trackio's API finds one run with each step once."""
    code = """if True:
        import json, trackio
        from trackio.sqlite_storage import SQLiteStorage
        (run,) = trackio.Api().runs("llmx")
        rows = SQLiteStorage.get_logs("llmx", run_id=run.id)
        print(json.dumps([run.id, run.name, run.config["model"], rows], default=str))
    """
    found_id, name, model, rows = json.loads(tracked.read(sys.executable, "-c", code))
    assert (found_id, name, model["preset"]) == (run_id(tracked), "run", "nano")
    for name, series in expected_series(tracked).items():
        assert [(row["step"], row[name]) for row in rows if name in row] == series, name


def run_id(tracked: Tracked) -> str:
    found: str = json.loads((tracked.folder / "lock.json").read_text())["id"]
    assert len(found) == 12
    return found


def test_trackers_print_nothing(tracked: Tracked) -> None:
    """No banner on either stream, no warning, no traceback."""
    for process in tracked.processes:
        text = process.stdout + process.stderr
        for word in ("swanlab", "wandb", "trackio", "Trackio", "Traceback", "lost"):
            assert word not in text, text


def test_no_process_is_left(tracked: Tracked) -> None:
    """What the clients start beside the run ends with it."""
    left = [path for path in Path("/proc").glob("[0-9]*/environ") if str(tracked.home).encode() in content(path)]
    assert not left


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended, or is another user's
        return b""


def test_an_empty_file_goes_and_a_damaged_one_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both would end `wandb sync`: what a kill left empty is deleted, what may hold rows is called another name."""
    whole = b":W&B" + bytes(3)
    record = b"a record"
    chunk = struct.pack("<IHB", zlib.crc32(record, zlib.crc32(b"\x01")), len(record), 1) + record
    contents = {"0-empty": b"", "1-header": whole, "2-damaged": whole + bytes(40) + chunk, "3-good": whole + chunk}
    for name, content in contents.items():
        (tmp_path / f"offline-run-{name}").mkdir()
        (tmp_path / f"offline-run-{name}" / "run-r.wandb").write_bytes(content)
    logger = WandbLogger.__new__(WandbLogger)
    settings = SimpleNamespace(wandb_dir=str(tmp_path), sync_file=str(tmp_path / "offline-run-4-own" / "run-r.wandb"))
    logger.client = SimpleNamespace(settings=settings)
    assert logger._files("r") == [tmp_path / "offline-run-3-good" / "run-r.wandb"]
    left = {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {
        "offline-run-2-damaged/run-r.wandb.damaged": contents["2-damaged"],
        "offline-run-3-good/run-r.wandb": contents["3-good"],
    }
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"llmx: logger wandb: {tmp_path / 'offline-run-2-damaged' / 'run-r.wandb'}: its first record"
    )
    assert line.endswith("it is now called run-r.wandb.damaged")


# --- failures -------------------------------------------------------------------------------------------------------

BREAK = '''
"""Makes each client fail from step 5 on, each at its own call or in its own thread or process."""
import os, signal, subprocess
from llmx import hookimpl

def full(*_, **__):
    raise OSError(28, "No space left on device")

@hookimpl
def llmx_before_step(run):
    if run.state.step != 4:
        return
    from swanlab.sdk.internal.core_python.store import DataStoreWriter
    from torch.utils.tensorboard import SummaryWriter
    from trackio.sqlite_storage import SQLiteStorage
    SummaryWriter.add_scalar = DataStoreWriter.write = SQLiteStorage.bulk_log = full
    found = subprocess.run(["pgrep", "-f", f"wandb-core.*--pid {os.getpid()}"], capture_output=True, text=True)
    os.kill(int(found.stdout.split()[0]), signal.SIGKILL)
'''


def test_a_failing_client_is_one_warning(small: list[str], llmx_cli: Cli, tmp_path: Path) -> None:
    """A full disk or a dead process of a client costs one line each and the rows; the run ends well."""
    (tmp_path / "break.py").write_text(BREAK)
    arguments = ["run", *small, *loggers("jsonl", *TRACKERS), *ON_DISK, "--tokenizer", "char"]
    done = llmx_cli(*arguments, "--hooks", tmp_path / "break.py", "--out", tmp_path / "r", **isolated(tmp_path / "h"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "r" / "model").exists()
    lines = done.stderr.splitlines()
    for name in TRACKERS:
        warnings = [line for line in lines if line.startswith(f"llmx: logger {name}: ") and "goes on" in line]
        assert len(warnings) == 1, done.stderr
        assert "No space left on device" in warnings[0] or name == "wandb", warnings
    rows = len((tmp_path / "r" / "metrics.jsonl").read_text().splitlines())
    for name in ("tensorboard", "wandb"):  # the others fail in a thread of their own and do not count
        (told,) = [line for line in lines if line.startswith(f"llmx: logger {name}: ") and "rows were lost" in line]
        assert told.endswith(f": {rows - 8} of {rows} rows were lost")  # 4 steps, each with its evaluation, were sent
    assert len(lines) == 6, done.stderr


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--logger", "wandb"], 'wandb login.*logger.wandb.mode="offline"'),
        (["--logger", "swanlab"], 'swanlab login.*logger.swanlab.mode="offline"'),
        (["--logger", "trackio", "logger.trackio.space=somebody/runs"], "HF_TOKEN.*without `logger.trackio.space`"),
    ],
)
def test_no_account_is_said_before_anything_starts(
    small: list[str], tmp_path: Path, arguments: list[str], wanted: str
) -> None:
    """Online without a login: one line that names the offline way, no prompt, no run folder, nothing in HOME."""
    home = tmp_path / "h"
    command = [sys.executable, "-m", "llmx", "run", *small, *arguments, "--tokenizer", "char"]
    controller, terminal = os.openpty()  # on a terminal, the clients by themselves would ask
    try:
        done = subprocess.run(
            [*command, "--out", str(tmp_path / "r")],
            env={**os.environ, **isolated(home)},
            stdin=terminal,
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        os.close(controller)
        os.close(terminal)
    assert done.returncode == 3
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"llmx: logger {arguments[1]}: no ")
    for part in wanted.split(".*"):
        assert part in done.stderr
    assert not (tmp_path / "r").exists()
    assert not [path for path in home.rglob("*") if path.is_file()]


def test_the_clients_variables_count(small: list[str], llmx_cli: Cli, tmp_path: Path) -> None:
    """A client's variable holds where the option is unset; an option that is set wins over it."""
    variables = {**isolated(tmp_path / "h"), "WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path / "w")}
    variables |= {"SWANLAB_MODE": "offline", "SWANLAB_LOG_DIR": str(tmp_path / "unused")}
    variables |= {"WANDB_PROJECT": "their-project", "SWANLAB_PROJ_NAME": "their-project"}
    options = ["logger.wandb.project=our-project", f"logger.swanlab.folder={tmp_path / 's'}"]
    arguments = ["run", *small, "train.steps=2", "--tokenizer", "char", *loggers("wandb", "swanlab"), *options]
    done = llmx_cli(*arguments, "--out", tmp_path / "r", **variables)
    assert done.returncode == 0, done.stderr
    (wandb_file,) = (tmp_path / "w" / "wandb").glob("offline-run-*/*.wandb")
    (begun,) = [each["run"] for each in wandb_records(wandb_file, tmp_path / "h") if each["type"] == "run"]
    assert begun["project"] == "our-project"
    (swanlab_file,) = (tmp_path / "s").glob("run-*/*.swanlab")
    (start,) = [each.start for each in swanlab_records(swanlab_file) if each.HasField("start")]
    assert start.project == "their-project"
    assert not (tmp_path / "r" / "wandb").exists()
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("client", ["wandb", "swanlab", "trackio"])
def test_a_client_is_bounded_where_it_is_required(client: str) -> None:
    """These loggers use private names of their clients: no version that was not tried may come by itself."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    (own,) = map(Requirement, extras[client])
    (tested,) = [each for each in map(Requirement, extras["test"]) if each.name == client]
    assert own == tested
    release = Version(version(client))
    assert release in own.specifier
    assert Version(f"{release.major}.{release.minor + 1}") not in own.specifier


def test_a_missing_client_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package: the pip command with the extra."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(PluginError, match=r"logger wandb: needs the package 'wandb': pip install 'llmx\[wandb\]'$"):
        require("wandb", "wandb")
