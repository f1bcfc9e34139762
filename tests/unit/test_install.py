"""What pip's configuration says about packages reaches uv, which reads none of it."""

from scripts.install import uv_environment


def test_indexes_and_constraints_of_pip_reach_uv() -> None:
    configuration = {
        "index-url": "https://packages.example/simple",
        "extra-index-url": "https://a.example/simple https://b.example/simple",
        "find-links": "/wheels\n/more",
        "constraint": "/etc/constraints.txt",
        "no-compile": "true",
    }
    found = uv_environment(configuration, {"PATH": "/bin"})
    assert found == {
        "UV_DEFAULT_INDEX": "https://packages.example/simple",
        "UV_INDEX": "https://a.example/simple https://b.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
        "UV_CONSTRAINT": "/etc/constraints.txt",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "PATH": "/bin",
    }


def test_what_uv_is_told_wins() -> None:
    given = {"UV_DEFAULT_INDEX": "https://uv.example/simple", "UV_INDEX_STRATEGY": "first-index"}
    assert uv_environment({"index-url": "https://pip.example/simple"}, given) == given
