"""Models of modules outside the package: MODULE:NAME finds them, and says what is wrong with a module."""

import dataclasses
import subprocess
import sys

import pytest

import edgeseg
from edgeseg.models import ModelSpec, get_spec, list_models, model_manifest
from edgeseg.models.outside import FamilyImportError
from edgeseg.models.provenance import rebuild_model, weights_sha256, weights_source

FACES = "from edgeseg.models.landmarks.spec import SPECS\n"
NAME = "landmarks_regression_tiny"


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write modules of these names and sources into a folder that Python looks into."""
    monkeypatch.syspath_prepend(tmp_path)

    def files(**sources):
        for name, source in sources.items():
            path = tmp_path.joinpath(*name.split("__")).with_suffix(".py")
            path.parent.mkdir(exist_ok=True)
            path.write_text(source)
        return tmp_path

    yield files
    for name in [name for name in sys.modules if name.split(".")[0].startswith("own")]:
        del sys.modules[name]


def test_a_model_of_a_module_is_made_by_its_full_name(write):
    write(own_faces=FACES)
    model = edgeseg.create_model(f"own_faces:{NAME}", weights="shapes")
    assert model.name == f"own_faces:{NAME}"
    assert model_manifest(model).name == NAME, "a device needs no module's name"
    assert weights_sha256(model) == weights_sha256(edgeseg.create_model(NAME, weights="shapes"))


def test_the_models_of_a_module_are_listed_by_their_full_names(write):
    write(own_faces=FACES)
    names = edgeseg.list_models("own_faces")
    assert f"own_faces:{NAME}" in names
    assert names == sorted(names)
    assert all(isinstance(get_spec(name), ModelSpec) for name in names)
    assert not [name for name in list_models() if ":" in name], "nothing is registered"


def test_a_package_s_table_is_found_in_any_of_its_modules(write):
    write(own____init__="", own__faces=FACES)
    assert get_spec(f"own.faces:{NAME}").name == NAME


@pytest.mark.parametrize(
    ("sources", "name", "message"),
    [
        ({}, "nowhere:x", "there is no module 'nowhere' to import nowhere from: install its package"),
        ({}, "nowhere.deep:x", "there is no module 'nowhere' to import nowhere.deep from"),
        (
            {"own____init__": ""},
            "own.faces:x",
            "there is no module 'own.faces' to import own.faces from: install its package, or put",
        ),
        ({}, "own/faces.py:x", "module 'own/faces.py' found, expected a name to import, with dots"),
        ({}, ":x", "module '' found, expected a name to import"),
        ({}, "..own:x", "module '..own' found, expected a name to import"),
        ({"own": FACES}, "own:", "model 'own:' found, expected MODULE:NAME such as my_package."),
        ({"own": ""}, "own:x", "module own has no table SPECS, expected SPECS = {name: ModelSpec}"),
        ({"own": "SPECS = []"}, "own:x", "module own has SPECS of type list, expected SPECS = {"),
        (
            {"own____init__": "", "own__spec": FACES},
            "own:x",
            "; for the table of own.spec write own.spec:NAME, or import it in own",
        ),
        (
            {"own": FACES},
            "own:landmarks_regression_tini",
            "'landmarks_regression_tini' found, expected one of those of module own: landmarks_regr",
        ),
        (
            {"own": "SPECS = {'x': {'task': 'instances'}}"},
            "own:x",
            "SPECS['x'] of module own is of type dict, expected an edgeseg.models.ModelSpec",
        ),
    ],
)  # fmt: skip
def test_a_name_that_leads_nowhere_says_where_it_ends(write, sources, name, message):
    write(**sources)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the wording is compared below
        get_spec(name)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("SPECS = {\n", "SyntaxError: '{' was never closed (own.py, line 1)"),
        ("\nSPECS = spec", "NameError: name 'spec' is not defined ("),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module' ("),
        ("from edgeseg import no_name", "ImportError: cannot import name 'no_name' from 'edgeseg'"),
        ("raise OSError('no disk')", "OSError: no disk ("),
    ],
)
def test_an_error_inside_a_module_is_shown_as_what_it_is(write, source, message):
    folder = write(own=source)
    with pytest.raises(FamilyImportError) as caught:
        get_spec("own:x")
    assert f"module own cannot be imported: {message}" in str(caught.value)
    if "SyntaxError" not in message:
        assert f"{folder / 'own.py'}, line {source.count(chr(10)) + 1})" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_weights_that_ship_with_a_module_have_keywords_of_its_own(write, tmp_path):
    write(
        own="""
import dataclasses
from edgeseg.models.landmarks.spec import SPECS as FACES
TINY = FACES["landmarks_regression_tiny"]
SPECS = {TINY.name: dataclasses.replace(TINY, weights={"harbour": TINY.weights["shapes"]})}
"""
    )
    name = f"own:{NAME}"
    model = edgeseg.create_model(name, weights="harbour")
    assert weights_sha256(model) == weights_sha256(edgeseg.create_model(NAME, weights="shapes"))
    assert weights_source(name, "harbour") == "harbour"
    with pytest.raises(ValueError, match="expected 'harbour' or the path of a checkpoint"):
        edgeseg.create_model(name, weights="shapes")


def test_no_weights_may_be_called_random():
    spec = get_spec(NAME)
    with pytest.raises(ValueError, match="weights 'random' found for landmarks_regression_tiny"):
        dataclasses.replace(spec, weights={"random": spec.weights["shapes"]})


def test_a_preset_that_is_no_dataclass_is_refused():
    with pytest.raises(ValueError, match=r"tiny is a dict, expected a dataclass with a field imag"):
        dataclasses.replace(get_spec(NAME), preset={"image_size": (80, 80)})


def recorded(name, **provenance):
    """Return the manifest of a bundle of this model, as an export records it."""
    model = edgeseg.create_model(name, weights="shapes")
    facts = {
        "model": name,
        "weights": "shapes",
        "weights_sha256": weights_sha256(model),
        "config": dataclasses.asdict(model.config),
    }
    return dataclasses.replace(model_manifest(model), provenance=facts | provenance)


def test_a_bundle_never_chooses_what_is_imported(write, tmp_path):
    marker = tmp_path / "imported"
    write(own_faces=FACES, own_trap=f"open({str(marker)!r}, 'w')\n")
    manifest = recorded(f"own_faces:{NAME}")
    trap = recorded(f"own_faces:{NAME}", model="own_trap:x")
    named = dataclasses.replace(manifest, name="own_trap:x", provenance={**manifest.provenance})
    del named.provenance["model"]
    for bundle in (manifest, trap, named):
        with pytest.raises(ValueError, match="if you trust it, give --model own_") as caught:
            rebuild_model(bundle)
        assert "outside edgeseg, whose module is a program" in str(caught.value)
    assert not marker.exists()
    assert rebuild_model(manifest, name=f"own_faces:{NAME}").name == f"own_faces:{NAME}"


def test_a_bundle_that_records_its_name_alone_is_rebuilt_from_it():
    manifest = recorded(NAME)
    facts = {key: value for key, value in manifest.provenance.items() if key != "model"}
    assert rebuild_model(dataclasses.replace(manifest, provenance=facts)).name == NAME


def test_describing_a_model_of_a_module_imports_no_torch(write):
    folder = write(own_faces=FACES)
    code = """
import sys
import edgeseg
from edgeseg.models import get_spec
assert get_spec(edgeseg.list_models("own_faces")[0]).family == "landmarks"
sys.exit("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=folder).returncode == 0
