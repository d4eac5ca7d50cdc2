"""Engines are cached, shared between processes, and trusted only as recorded."""

import dataclasses
import json
import subprocess
import sys
import threading
import time

import pytest
from engine_cases import ONNX, key_of
from tiny_bundle import write_bundle

from edgeseg_runtime.tensorrt import engines
from edgeseg_runtime.tensorrt import key as engine_key
from edgeseg_runtime.tensorrt import store as engine_store
from edgeseg_runtime.tensorrt.key import EngineOptions


@pytest.fixture(scope="module")
def trt():
    return pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)
    return folder


PLAN = bytes(range(256)) * 40


def test_an_engine_comes_back_as_it_was_stored(store):
    path = engine_store.store_engine(store, key_of(), PLAN)
    assert path.read_bytes() == PLAN, "a plan is stored without a header"
    plan, file = engine_store.find_engine(store, key_of())
    assert (plan, file.path, file.key, file.is_new) == (PLAN, path, key_of(), False)
    engine_store.discard_engine(file)
    assert engine_store.find_engine(store, key_of()) is None
    assert list(store.iterdir()) == []


def _damage(name):
    def flip(path, record):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)

    def cut(path, record):
        path.write_bytes(path.read_bytes()[:-1])

    def empty(path, record):
        path.write_bytes(b"")

    def gone(path, record):
        path.unlink()

    def link(path, record):
        path.rename(path.with_name("elsewhere"))
        path.symlink_to(path.with_name("elsewhere"))

    def no_record(path, record):
        record.unlink()

    def half_record(path, record):
        record.write_text(record.read_text()[:100])

    def record_of_nothing(path, record):
        record.write_text("[]")

    def escape(path, record):
        content = json.loads(record.read_text())
        (path.parent.parent / "foreign").write_bytes(PLAN)
        record.write_text(json.dumps({**content, "file": "../foreign"}))

    def schema(path, record):
        content = json.loads(record.read_text())
        record.write_text(json.dumps({**content, "schema": 2}))

    def unknown_key(path, record):
        content = json.loads(record.read_text())
        content["key"]["trust_me"] = True
        record.write_text(json.dumps(content))

    return locals()[name]


@pytest.mark.parametrize(
    "damage",
    [
        "flip",
        "cut",
        "empty",
        "gone",
        "link",
        "no_record",
        "half_record",
        "record_of_nothing",
        "escape",
        "schema",
        "unknown_key",
    ],
)
def test_an_engine_that_is_not_as_recorded_is_built_again_once(trt, store, damage, caplog):
    key = engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())
    path = engine_store.store_engine(store, key, PLAN)
    _damage(damage)(path, path.with_name(path.name + ".json"))
    assert engine_store.find_engine(store, key) is None
    if damage != "no_record":
        assert "ignoring the cached engine" in caplog.text
    plan, file = engines.load_or_build(ONNX, key, store=store)
    assert file.is_new
    assert plan != PLAN
    again, file = engines.load_or_build(ONNX, key, store=store)
    assert (again, file.is_new) == (plan, False)
    assert not path.is_symlink()


def test_an_engine_is_found_in_a_trusted_folder_before_the_store(trt, store, tmp_path):
    key = engine_key.key_for_targets(ONNX, trt, ("sm86", "sm89"), EngineOptions())
    engine_store.store_engine(tmp_path, key, PLAN)
    wanted = dataclasses.replace(key, targets=("sm89",))
    plan, file = engines.load_or_build(ONNX, wanted, store=store, trusted=[tmp_path])
    assert (plan, file.path.parent) == (PLAN, tmp_path)


def test_an_engine_that_lies_in_a_bundle_is_not_trusted(trt, store, tmp_path):
    write_bundle(tmp_path)
    key = engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())
    (tmp_path / "engines").mkdir()
    engine_store.store_engine(tmp_path / "engines", key, PLAN)
    plan, _ = engines.load_or_build(ONNX, key, store=store)
    assert plan != PLAN


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_cache_that_others_can_write_is_not_used(trt, store, mode, caplog):
    key = engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())
    engine_store.store_engine(store, key, PLAN)
    store.chmod(mode)
    plan, file = engines.load_or_build(ONNX, key, store=store)
    assert plan != PLAN
    assert file.path is None
    assert "others can write there; run: chmod 700" in caplog.text


def test_a_new_cache_is_private(trt, tmp_path):
    key = engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())
    _, file = engines.load_or_build(ONNX, key, store=tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert file.path.parent == tmp_path / "new"


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("EDGESEG_CACHE", str(tmp_path / "mine"))
    assert engine_store.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("EDGESEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert engine_store.cache_folder() == tmp_path / "edgeseg" / "engines"


def test_two_builders_at_once_build_one_engine(trt, store):
    key = engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())
    files = []
    start = threading.Barrier(3)

    def build():
        start.wait()
        files.append(engines.load_or_build(ONNX, key, store=store)[1])

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(file.is_new for file in files) == [False, False, True]
    assert len({file.sha256 for file in files}) == 1


def test_a_builder_waits_for_another_process(trt, store):
    code = (
        "import fcntl, sys, time\n"
        "lock = open(sys.argv[1], 'ab'); fcntl.flock(lock, fcntl.LOCK_EX)\n"
        "print('locked', flush=True); sys.stdin.read()\n"
    )
    key = engine_key.key_for_targets(ONNX, trt, ("sm86",), EngineOptions())
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout.readline() == b"locked\n"
        thread = threading.Thread(
            target=engines.load_or_build, args=(ONNX, key), kwargs={"store": store}
        )
        thread.start()
        time.sleep(0.5)
        assert thread.is_alive(), "it must wait while the other process holds the lock"
        other.kill()  # the operating system lets go of the lock
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert engine_store.find_engine(store, key) is not None
