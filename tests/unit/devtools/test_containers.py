"""What `scripts/containers` learns from the machine, so that no mirror's name stands in the repository."""

import pytest

from devtools.containers.images import mirror, pip_arguments


@pytest.mark.parametrize(
    "sources",
    [
        "deb http://mirror.example/debian bookworm main\n",
        "# deb-src\ndeb [signed-by=/usr/share/keyrings/a.gpg arch=amd64] http://mirror.example/debian/ trixie main",
        "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n",
    ],
)
def test_the_mirror_is_found_in_both_forms_of_apts_sources(sources: str) -> None:
    assert mirror(sources) == "http://mirror.example/debian"


def test_archives_of_others_are_no_mirror_of_debian() -> None:
    sources = "URIs: http://mirror.example/debian-security\ndeb https://apt.example/tool stable main\n"
    assert mirror(sources) is None


def test_the_build_is_told_what_pip_is_told() -> None:
    listing = "\n".join(
        [
            ":env:.index-url='https://wins.example/simple'",
            "global.index-url='https://loses.example/simple'",
            "global.extra-index-url='file:///srv/simple https://more.example/simple'",
            "global.find-links='/srv/wheels'",
            "global.cert='/home/somebody/ca.pem'",
        ]
    )
    assert pip_arguments(listing) == {
        "PIP_INDEX_URL": "https://wins.example/simple",
        "PIP_EXTRA_INDEX_URL": "https://more.example/simple",
        "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt",
    }


def test_folders_of_this_machine_are_not_for_the_build() -> None:
    assert pip_arguments("global.extra-index-url='file:///srv/simple'\n") == {}
