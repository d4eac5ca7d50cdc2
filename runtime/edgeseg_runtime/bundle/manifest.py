"""The manifest of a bundle: the only contract between the exporter and a device.

A manifest is versioned JSON, checked strictly on the way in and on the way out. All classes are
frozen and keyword-only; what they accept is what a file may hold.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from edgeseg_runtime.bundle.files import check_relative, read_limited, read_verified, write_atomic
from edgeseg_runtime.bundle.graphs import (
    MAIN,
    MAX_TENSORS,
    Graph,
    Rows,
    Schedule,
    TensorSpec,
    check_graphs,
    fed_of,
    given_of,
    one_graph,
)
from edgeseg_runtime.bundle.strict_json import (
    MAX_BYTES,
    check_digest,
    digest_of,
    format_json,
    parse_json,
)
from edgeseg_runtime.bundle.values import (
    as_list,
    as_mapping,
    as_tuple,
    check_choice,
    check_int,
    check_name,
    check_number,
    check_number_of,
    check_scalar,
    check_str,
    plain_json,
    refuse,
)
from edgeseg_runtime.errors import CorruptArtifact, ManifestError, MissingArtifact, SchemaTooNew

__all__ = [
    "FILE_NAME",
    "Artifact",
    "Graph",
    "Manifest",
    "Preprocess",
    "Rows",
    "Schedule",
    "TensorSpec",
    "Variant",
    "one_graph",
    "read_artifact",
    "with_variants",
]

FILE_NAME = "manifest.json"
SCHEMA = "2.0"
OLDEST_SCHEMA = "1.0"
MAX_PIXELS = 64_000_000
MAX_KEYPOINTS = 10_000
MAX_ENTRIES = 1024
"""Files, graphs or variants that are read at all."""
MAX_ARTIFACT_BYTES = 2**31 - 1
"""What protobuf can read. A file with holes costs a stranger nothing, and us the memory."""
KNOWN_REQUIREMENTS: frozenset[str] = frozenset()  # what a bundle may demand of this runtime

RESIZES = (
    "shortest_edge",
    "letterbox",
    "stretch",
    "original",
    "affine",
    "center",
    "center_odd",
    "square_crop",
)
SAMPLED_RESIZES = (
    "affine",
    "center",
    "center_odd",
    "square_crop",
)  # positions, not sizes, are computed
INTERPOLATIONS = ("linear", "pillow_bilinear", "opencv_linear")
FACTOR = "factor"
"""Rounding of a size that the steps between the pixels do not follow."""
SIZE_ROUNDINGS = ("floor", "half_up", FACTOR)
CROP_ROUNDINGS = ("truncate", "none", "hrnet", "pfld", "pfld_camera")
CROP_MARGIN = 1.25

MAX_VARIANTS = 8

_LISTS = ("requires", "labels", "category_ids", "keypoint_names", "skeleton")
_MAPPINGS = ("graphs", "variants", "postprocess", "artifacts", "parity", "provenance")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEMA = re.compile(r"(0|[1-9][0-9]{0,3})\.(0|[1-9][0-9]{0,3})")


@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """How a picture becomes the network's input.

    Attributes:
        height: height of the network's input in pixels, with padding.
        width: width of the network's input in pixels, with padding.
        resize: where the picture lands in the input.

            - "shortest_edge" scales the shorter side to `min_size` unless the longer one then
              exceeds `max_size`, and shrinks further what would not fit;
            - "letterbox" fills the input as far as the aspect ratio allows;
            - "stretch" ignores the aspect ratio;
            - "original" leaves the picture as it is, and shrinks one that would not fit;
            - "affine" scales by width / longer side of the picture about the picture's centre
              (CenterNet's `fix_res`); an input that is not square may cut the picture;
            - "center" lays the picture's centre over the input's without scaling (CenterNet's
              `keep_res`), and shrinks one that would not fit;
            - "center_odd" does the same; of a picture that is as large as an input of an odd size,
              the last row or column is left out (CornerNet);
            - "square_crop" scales a square about the centre of a given box to the input, for
              models that look at one box at a time; see `Manifest.looks_at_boxes`.

            The first four put the picture at the top left.
        min_size: shorter side in pixels; only for "shortest_edge".
        max_size: bound of the longer side in pixels, or None for no bound; only for
            "shortest_edge".
        interpolation: "linear" (half-pixel centres, no antialiasing), "pillow_bilinear"
            (antialiased, bit for bit as Pillow resizes uint8) or "opencv_linear" ("linear" with the
            rounding of OpenCV's INTER_LINEAR, which may depend on the processor).
        rounding: of the resized size: "floor", "half_up" (int(x + 0.5)) or "factor" (half to even, and
            the scale before rounding is that of the pixels; only for "shortest_edge" with "linear");
            for "square_crop" of
            the square's corners: "truncate" to whole pixels, toward zero, "none", or "hrnet",
            "pfld" and "pfld_camera" for all of these originals' cropping, see `crops.py`.
        pad_value: B, G, R in 0..255 of what the picture does not cover.
        crop_margin: side of the square over the longer side of the box; only for "square_crop".
            Without a box the square has the picture's longer side.
    """

    height: int
    width: int
    resize: str
    min_size: int | None = None
    max_size: int | None = None
    interpolation: str = "linear"
    rounding: str = "floor"
    pad_value: tuple[int, int, int] = (0, 0, 0)
    crop_margin: float = CROP_MARGIN

    def __post_init__(self) -> None:
        object.__setattr__(self, "pad_value", as_tuple("pad_value", self.pad_value))
        check_int("height", self.height, 1, 2**15)
        check_int("width", self.width, 1, 2**15)
        if self.height * self.width > MAX_PIXELS:
            refuse("height x width", f"{self.height}x{self.width}", f"at most {MAX_PIXELS} pixels")
        check_choice("resize", self.resize, RESIZES)
        check_choice("interpolation", self.interpolation, INTERPOLATIONS)
        if self.resize in SAMPLED_RESIZES and self.interpolation != "linear":
            refuse("interpolation", self.interpolation, f"linear with resize {self.resize}")
        is_crop = self.resize == "square_crop"
        check_choice("rounding", self.rounding, CROP_ROUNDINGS if is_crop else SIZE_ROUNDINGS)
        is_factor = self.rounding == FACTOR
        if is_factor and (self.resize, self.interpolation) != ("shortest_edge", "linear"):
            found = f"{self.resize}, {self.interpolation}"
            refuse("resize, interpolation", found, f"shortest_edge, linear with rounding {FACTOR}")
        if self.rounding == "hrnet" and self.height != self.width:
            refuse("width", self.width, f"the height, {self.height}, with rounding hrnet")
        check_number("crop_margin", self.crop_margin, 0.01, 100.0)
        if not is_crop and self.crop_margin != CROP_MARGIN:
            refuse("crop_margin", self.crop_margin, "only square_crop to have one")
        if self.resize == "shortest_edge":
            check_int("min_size", self.min_size, 1, 2**15)
            if self.max_size is not None:
                check_int("max_size", self.max_size, 1, 2**15)
        elif self.min_size is not None or self.max_size is not None:
            refuse("min_size and max_size", (self.min_size, self.max_size), "only shortest_edge")
        if len(self.pad_value) != 3:
            refuse("pad_value", self.pad_value, "three integers B, G, R in 0..255")
        for index, value in enumerate(self.pad_value):
            check_int(f"pad_value[{index}]", value, 0, 255)


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One file of the bundle.

    Attributes:
        file: path relative to the bundle, with forward slashes.
        sha256: digest of the content, 64 lower-case hexadecimal digits.
        size_bytes: size of the content.
    """

    file: str
    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if not isinstance(self.file, str):
            refuse("file", self.file, "text")
        check_relative(self.file)
        check_str("sha256", self.sha256)
        if not _SHA256.fullmatch(self.sha256):
            refuse("sha256", self.sha256, "64 lower-case hexadecimal digits")
        check_int("size_bytes", self.size_bytes, 1, MAX_ARTIFACT_BYTES)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """The same model for pictures of another shape; the fields are those of `Manifest`."""

    preprocess: Preprocess
    graphs: Mapping[str, Graph]
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        object.__setattr__(self, "graphs", as_mapping("graphs", self.graphs))
        if not isinstance(self.preprocess, Preprocess):
            refuse("preprocess", self.preprocess, "a Preprocess")
        if not isinstance(self.schedule, Schedule):
            refuse("schedule", self.schedule, "a Schedule")
        check_graphs(self.graphs, self.schedule)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a bundle holds and how to use it.

    Attributes:
        schema: "major.minor" of this format.
        requires: features that a runtime must know to use the bundle at all.
        name: the model, such as "maskrcnn_resnet50_fpn".
        task: key of the runtime's table of tasks, such as "instances".
        precision: of the network's arithmetic, such as "fp32".
        graphs: the model's graphs by name; "main" is the one of a model that has one.
        schedule: which of them run in which frame.
        preprocess: how a picture becomes the input.
        variants: the same model for further shapes of pictures, by name, such as "portrait".
        postprocess: options of the task; flat, scalars only.
        labels: name of label number i; "" where the original skips a number.
        category_ids: COCO category id of label number i; as long as `labels`.
        keypoint_names: name of key point or landmark number j; empty if unknown.
        skeleton: pairs of key points, by number, that a drawing connects.
        artifacts: files by kind; each graph names its own.
        parity: measured agreement with the original model; informative.
        provenance: versions, command line, sha256 of the weights; informative.

    Raises:
        ManifestError: on construction, if a value is out of its range or two contradict.
        UnsafePath: if an artifact's path could leave the folder.
    """

    schema: str = SCHEMA
    requires: tuple[str, ...] = ()
    name: str
    task: str
    precision: str
    graphs: Mapping[str, Graph]
    schedule: Schedule = field(default_factory=Schedule)
    preprocess: Preprocess
    variants: Mapping[str, Variant] = field(default_factory=dict)
    postprocess: Mapping[str, str | float | int | bool] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()
    keypoint_names: tuple[str, ...] = ()
    skeleton: tuple[tuple[int, int], ...] = ()
    artifacts: Mapping[str, Artifact] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in _LISTS:
            object.__setattr__(self, key, as_tuple(key, getattr(self, key)))
        for key in _MAPPINGS:
            object.__setattr__(self, key, as_mapping(key, getattr(self, key)))
        _check_schema(self.schema)
        for key in ("name", "task", "precision"):
            check_name(key, getattr(self, key))
        for index, requirement in enumerate(self.requires):
            check_name(f"requires[{index}]", requirement)
        Variant(preprocess=self.preprocess, graphs=self.graphs, schedule=self.schedule)
        self._check_variants()
        self._check_labels()
        self._check_keypoints()
        for key, artifact in self.artifacts.items():
            check_name("artifacts", key)
            if not isinstance(artifact, Artifact):
                refuse(f"artifacts.{key}", artifact, "an Artifact")
        for key, value in self.postprocess.items():
            check_name("postprocess", key)
            check_scalar(f"postprocess.{key}", value)
        for key in ("parity", "provenance"):
            object.__setattr__(self, key, plain_json(key, getattr(self, key)))

    def _check_variants(self) -> None:
        if len(self.variants) > MAX_VARIANTS:
            refuse("variants", f"{len(self.variants)} entries", f"at most {MAX_VARIANTS}")
        own = {(spec.name, spec.dtype) for spec in self.outputs}
        for name, variant in self.variants.items():
            check_name("variants", name)
            if not isinstance(variant, Variant):
                refuse(f"variants.{name}", variant, "a Variant")
            found = {(s.name, s.dtype) for s in given_of(variant.graphs, variant.schedule.first)}
            if found != own:
                names = sorted(name for name, _ in found ^ own)
                refuse(f"variants.{name}", f"another output {names[0]}", "the same outputs")

    def _check_labels(self) -> None:
        if len(self.labels) > 100_000:
            refuse("labels", f"{len(self.labels)} entries", "at most 100000")
        for index, label in enumerate(self.labels):
            check_str(f"labels[{index}]", label)
        for index, category_id in enumerate(self.category_ids):
            check_int(f"category_ids[{index}]", category_id, 0, 2**31 - 1)
        if len(self.labels) != len(self.category_ids):
            refuse(
                "category_ids",
                f"{len(self.category_ids)} entries",
                f"one for each of the {len(self.labels)} labels",
            )

    def _check_keypoints(self) -> None:
        names = self.keypoint_names
        if len(names) > MAX_KEYPOINTS:
            refuse("keypoint_names", f"{len(names)} entries", f"at most {MAX_KEYPOINTS}")
        for index, name in enumerate(names):
            check_str(f"keypoint_names[{index}]", name)
        if len(self.skeleton) > MAX_KEYPOINTS:
            refuse("skeleton", f"{len(self.skeleton)} pairs", f"at most {MAX_KEYPOINTS}")
        pairs = []
        for index, pair in enumerate(self.skeleton):
            pairs.append(as_tuple(f"skeleton[{index}]", pair))
            if len(pairs[-1]) != 2:
                refuse(f"skeleton[{index}]", pair, "two numbers of key points")
            for number in pairs[-1]:
                check_int(f"skeleton[{index}]", number, 0, len(names) - 1)
        object.__setattr__(self, "skeleton", tuple(pairs))

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What a picture becomes: the inputs that no other graph and no earlier frame gives."""
        return fed_of(self.graphs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What results are read from, the same in every frame; free rows count at their maximum."""
        return given_of(self.graphs, self.schedule.first)

    @property
    def looks_at_boxes(self) -> bool:
        """Whether the model is shown one box of the picture at a time.

        Otherwise it is shown whole pictures only. Of the tasks "keypoints" and "landmarks" it then
        places the points of the one object that the picture is of, and takes no boxes.
        """
        return self.preprocess.resize == "square_crop"

    @property
    def is_stateful(self) -> bool:
        """Whether what is found in a frame depends on the frames before it."""
        return any(graph.reads for graph in self.graphs.values())

    @property
    def views(self) -> tuple[Manifest, ...]:
        """The manifest of each variant alone, its own shape first."""
        own = dataclasses.replace(self, variants={})
        others = (
            dataclasses.replace(
                own,
                preprocess=variant.preprocess,
                graphs=variant.graphs,
                schedule=variant.schedule,
            )
            for variant in self.variants.values()
        )
        return (own, *others)

    def artifact(self, kind: str) -> Artifact:
        """Return the entry of one kind of file, such as "onnx".

        Raises:
            MissingArtifact: if the bundle has none.
        """
        try:
            return self.artifacts[kind]
        except KeyError as error:
            raise MissingArtifact(
                f"the bundle of {self.name} lists no artifact {kind!r}, only "
                f"{', '.join(sorted(self.artifacts)) or 'none'}; export it again"
            ) from error

    def to_json(self) -> str:
        """Return the manifest as indented JSON that ends with a newline.

        The last key, `digest`, is the sha256 of the content, so that a flipped bit is noticed.
        """
        document = {item.name: _document_from(getattr(self, item.name)) for item in fields(self)}
        document["digest"] = digest_of(document)
        return format_json(document) + "\n"

    @classmethod
    def from_json(
        cls, text: str, *, source: str | os.PathLike[str] = FILE_NAME, verify: bool = True
    ) -> Manifest:
        """Read a manifest, refusing everything that this runtime would have to guess at.

        Unknown keys are refused, unless the manifest's minor version is newer than this
        runtime's: then they are optional and are ignored.

        Args:
            text: the JSON document.
            source: where it came from, for the messages.
            verify: compare the content with its `digest`. A manifest without one is accepted.

        Raises:
            ManifestError: if the text is not a valid manifest.
            SchemaTooNew: if only a newer runtime can use it.
            UnsafePath: if an artifact's path could leave the folder.
        """
        try:
            document = parse_json(text)
            schema = _check_schema(document.get("schema"))
            is_newer = _version(schema) > _version(SCHEMA)
            digest = document.pop("digest", None)
            current = _with_graphs(document) if _version(schema)[0] == 1 else document
            manifest = _manifest_from(current, ignore_unknown=is_newer)
            _check_requirements(manifest.requires)
            if verify and digest is not None and not is_newer:
                check_digest(digest, document)
        except ManifestError as error:
            raise type(error)(f"{os.fspath(source)}: {error}") from error.__cause__
        return manifest

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, verify: bool = True) -> Manifest:
        """Read the manifest of a bundle.

        Raises:
            ManifestError: if it is missing or not valid; see `from_json`.
            UnsafePath: if it is a symbolic link.
        """
        path = Path(folder) / FILE_NAME
        try:
            raw = read_limited(folder, FILE_NAME, max_bytes=MAX_BYTES)
            text = raw.decode("utf-8")
        except MissingArtifact as error:
            raise ManifestError(
                f"there is no bundle at {os.fspath(folder)!r}: {path} is missing or unreadable. "
                "Give the folder that `edgeseg export` wrote."
            ) from error
        except CorruptArtifact as error:
            raise ManifestError(f"{path} is too large for a manifest: {error}") from error
        except UnicodeDecodeError as error:
            raise ManifestError(
                f"{path} is not UTF-8 text ({error.reason} at byte {error.start}). "
                "The file is damaged: copy or export the bundle again."
            ) from error
        return cls.from_json(text, source=path, verify=verify)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the manifest into a bundle, atomically, and return its path.

        Raises:
            OSError: if the folder cannot be written; an older manifest is then left as it was.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        return write_atomic(Path(folder) / FILE_NAME, self.to_json().encode("utf-8"))


def with_variants(own: Manifest, others: Mapping[str, Manifest]) -> Manifest:
    """Return the manifest of a model with the same model for further shapes of pictures, by name."""
    variants = {
        name: Variant(preprocess=other.preprocess, graphs=other.graphs, schedule=other.schedule)
        for name, other in others.items()
    }
    return dataclasses.replace(own, variants=variants)


def read_artifact(
    folder: str | os.PathLike[str], artifact: Artifact, *, verify: bool = True
) -> bytes:
    """Return the content of one file of a bundle, checked against its recorded size and sha256.

    Raises:
        CorruptArtifact: if the size or the digest differs; nothing is read on a wrong size.
        MissingArtifact: if the file does not exist.
        UnsafePath: if it is a symbolic link, or no regular file.
    """
    return read_verified(
        folder,
        artifact.file,
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
        verify=verify,
    )


# ---------------------------------------------------------------- JSON to manifest


def _manifest_from(document: Mapping[str, Any], *, ignore_unknown: bool) -> Manifest:
    def read(kind: type, where: str, value: Any, **convert: Callable[[str, Any], Any]) -> Any:
        return _read_object(kind, where, value, convert, ignore_unknown=ignore_unknown)

    def specs(where: str, value: Any) -> tuple[TensorSpec, ...]:
        items = as_list(where, value)
        check_number_of(where, items, MAX_TENSORS)
        return tuple(
            read(TensorSpec, f"{where}[{index}]", item) for index, item in enumerate(items)
        )

    def many(
        kind: type, **convert: Callable[[str, Any], Any]
    ) -> Callable[[str, Any], dict[str, Any]]:
        def read_all(where: str, value: Any) -> dict[str, Any]:
            items = as_mapping(where, value)
            check_number_of(where, items, MAX_ENTRIES)
            return {
                key: read(kind, f"{where}.{key}", item, **convert) for key, item in items.items()
            }

        return read_all

    def one(kind: type) -> Callable[[str, Any], Any]:
        return lambda where, value: None if value is None else read(kind, where, value)

    graphs = many(Graph, inputs=specs, outputs=specs, rows=one(Rows))
    shape = {"preprocess": one(Preprocess), "graphs": graphs, "schedule": one(Schedule)}
    manifest = read(
        Manifest,
        "",
        document,
        **shape,
        variants=many(Variant, **shape),
        artifacts=many(Artifact),
    )
    assert isinstance(manifest, Manifest)
    return manifest


def _with_graphs(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document of schema 1, whose one graph stood at the top level, in the form of today."""
    found = dict(document)
    if found.pop("state", []):
        refuse("state", document["state"], "an empty list, as every release wrote it")
    graph = {key: found.pop(key) for key in ("inputs", "outputs") if key in found}
    return {**found, "schema": SCHEMA, "graphs": {MAIN: graph}}


def _read_object(
    kind: type,
    where: str,
    value: Any,
    convert: Mapping[str, Callable[[str, Any], Any]],
    *,
    ignore_unknown: bool,
) -> Any:
    """Build a dataclass from a JSON object; only keys with a default may be left out."""
    document = as_mapping(where or "the document", value)
    known = [item.name for item in fields(kind)]
    required = [
        item.name
        for item in fields(kind)
        if item.default is MISSING and item.default_factory is MISSING
    ]
    missing = [key for key in required if key not in document]
    unknown = [key for key in document if key not in known]
    place = f"in {where}" if where else "at the top level"
    if missing:
        raise ManifestError(f"the key {missing[0]!r} is missing {place}. Export the bundle again.")
    if unknown and not ignore_unknown:
        raise ManifestError(
            f"unknown key {unknown[0]!r} {place}; expected {', '.join(known)}. "
            "Remove it, or upgrade: pip install -U edgeseg-runtime"
        )
    values = {key: document[key] for key in known if key in document}
    for key in values.keys() & convert.keys():
        values[key] = convert[key](f"{where}.{key}" if where else key, values[key])
    try:
        return kind(**values)
    except ManifestError as error:
        if not where:
            raise
        raise ManifestError(f"{where}.{error}") from error


def _check_requirements(requires: Sequence[str]) -> None:
    unknown = [name for name in requires if name not in KNOWN_REQUIREMENTS]
    if unknown:
        raise SchemaTooNew(
            f"the bundle requires {unknown[0]!r}, which this runtime does not know. "
            "Upgrade it: pip install -U edgeseg-runtime"
        )


def _check_schema(schema: Any) -> str:
    if not isinstance(schema, str) or not _SCHEMA.fullmatch(schema):
        refuse("schema", schema, f"a version such as {SCHEMA!r}")
    if _version(schema)[0] > _version(SCHEMA)[0]:
        raise SchemaTooNew(
            f"schema {schema} is newer than {SCHEMA}, the newest that this runtime reads. "
            "Upgrade it: pip install -U edgeseg-runtime"
        )
    if _version(schema)[0] < _version(OLDEST_SCHEMA)[0]:
        raise ManifestError(
            f"schema {schema} is older than this runtime reads ({OLDEST_SCHEMA}). "
            "Export the bundle again."
        )
    return schema


def _version(schema: str) -> tuple[int, int]:
    major, _, minor = schema.partition(".")
    return int(major), int(minor)


# ---------------------------------------------------------------- manifest to JSON


def _document_from(value: Any) -> Any:
    """Return dataclasses as objects and tuples as lists, in the order of the fields."""
    if dataclasses.is_dataclass(value):
        return {item.name: _document_from(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, Mapping):
        return {key: _document_from(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_document_from(item) for item in value]
    return value
