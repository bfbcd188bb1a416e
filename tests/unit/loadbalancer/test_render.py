"""What the rendered nginx configuration says, and what it refuses to say."""

import re
from pathlib import Path

import pytest

from loadbalancer.render import RenderError, main, render
from node.api.middleware import _GIVEN_ID

NODES = ["127.0.0.1:5001", "127.0.0.1:5002"]
LISTEN = "127.0.0.1:5000"
RUN_DIR = Path("/run/aip nginx")
TLS = (Path("/etc/c.pem"), Path("/etc/k.pem"))


def directives(text: str) -> list[str]:
    """The configuration without its comments, one directive a line."""
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def test_every_node_is_a_server_of_both_upstreams_and_never_all_of_them_are_left_out() -> None:
    servers = [line for line in directives(render(NODES, LISTEN, RUN_DIR)) if line.startswith("server 127")]
    requests = [f"server {node} max_fails=1 fail_timeout=5s;" for node in NODES]
    when_all_failed = [f"server {node} max_fails=0 backup;" for node in NODES]
    assert servers == [*requests, *when_all_failed, *(f"server {node} max_fails=0;" for node in NODES)]


def test_nothing_is_left_to_fill_in() -> None:
    assert "@{" not in render(NODES, LISTEN, RUN_DIR)


def test_its_files_are_in_the_run_directory() -> None:
    text = render(NODES, LISTEN, RUN_DIR)
    files = re.findall(r'(?:pid|_log|_temp_path) "([^"]+)"', text)
    assert len(files) >= 8
    assert all(name.startswith(f"{RUN_DIR}/") for name in files)


def test_logs_can_go_elsewhere() -> None:
    text = render(NODES, LISTEN, RUN_DIR, access_log="/dev/stdout", error_log="/dev/stderr")
    assert 'access_log "/dev/stdout" aip_json' in text
    assert 'error_log "/dev/stderr" warn;' in text
    assert "access_log off;" in render(NODES, LISTEN, RUN_DIR, access_log="off")


def test_no_log_format_holds_a_query_string() -> None:
    formats = re.search(r"log_format.*?;\n", render(NODES, LISTEN, RUN_DIR), re.DOTALL)
    assert formats
    variables = set(re.findall(r"\$(\w+)", formats[0]))
    assert "uri" in variables
    assert not variables & {"request", "request_uri", "args", "query_string", "http_referer", "is_args"}


def test_errors_about_requests_are_not_logged_with_their_first_line() -> None:
    text = render(NODES, LISTEN, RUN_DIR)
    proxying = re.findall(r"location [^{]*\{[^}]*proxy_pass[^}]*\}", text)
    assert len(proxying) == 3
    assert all(re.search(r'error_log "[^"]+" emerg;', block) for block in proxying)


def test_a_post_is_never_passed_on() -> None:
    lines = directives(render(NODES, LISTEN, RUN_DIR))
    assert [line for line in lines if line.startswith("proxy_next_upstream ")] == [
        "proxy_next_upstream error timeout http_503;"
    ]
    assert "non_idempotent" not in "".join(lines)


def test_the_id_of_a_request_is_kept_here_if_a_node_would_keep_it() -> None:
    """Otherwise the caller and this log would know a request by one name, and the node by another."""
    assert f'"~^{_GIVEN_ID.pattern.decode()}$" $http_x_request_id;' in directives(render(NODES, LISTEN, RUN_DIR))


def test_headers_are_added_at_one_level_only() -> None:
    """A level that adds one of its own would lose all the others."""
    text = render(NODES, LISTEN, RUN_DIR, tls=TLS, redirect_listen="*:80", admin_listen="127.0.0.1:5080")
    assert not [line for line in text.splitlines() if re.match(r" {8,}(add_header|proxy_set_header)", line)]


def test_files_have_a_limit_of_their_own() -> None:
    assert "client_max_body_size 104857600;" in render(NODES, LISTEN, RUN_DIR)
    assert "client_max_body_size 5000;" in render(NODES, LISTEN, RUN_DIR, file_limit_bytes=5000)


def test_the_body_limit_is_the_one_given() -> None:
    assert "client_max_body_size 2097152;" in render(NODES, LISTEN, RUN_DIR)
    assert "client_max_body_size 1000;" in render(NODES, LISTEN, RUN_DIR, body_limit_bytes=1000)


def test_the_user_is_only_named_when_given() -> None:
    assert "user " not in "\n".join(directives(render(NODES, LISTEN, RUN_DIR))).split("worker_processes")[0]
    assert "user www-data;\nworker_processes 3;" in render(NODES, LISTEN, RUN_DIR, user="www-data", worker_processes=3)


def test_limits_of_an_address_are_optional() -> None:
    assert "limit_conn " not in render(NODES, LISTEN, RUN_DIR, connections_per_address=0)
    assert "limit_conn aip_connections 2048;" in directives(render(NODES, LISTEN, RUN_DIR))
    assert "limit_req " not in render(NODES, LISTEN, RUN_DIR)
    lines = directives(render(NODES, LISTEN, RUN_DIR, connections_per_address=50))
    assert "limit_conn aip_connections 50;" in lines
    assert "limit_conn_zone $aip_address zone=aip_connections:10m;" in lines
    assert not [line for line in lines if line.startswith("limit_req")]
    lines = directives(render(NODES, LISTEN, RUN_DIR, requests_per_second=20, unlimited=["10.1.0.0/16"]))
    assert "limit_req_zone $aip_address zone=aip_requests:10m rate=20r/s;" in lines
    assert "limit_req zone=aip_requests burst=200 nodelay;" in lines
    assert "10.1.0.0/16 0;" in lines
    assert "burst=7 nodelay" in render(NODES, LISTEN, RUN_DIR, requests_per_second=20, request_burst=7)


def test_tls_is_optional_and_modern() -> None:
    assert "ssl" not in render(NODES, LISTEN, RUN_DIR)
    assert "Strict-Transport" not in render(NODES, LISTEN, RUN_DIR)
    text = render(NODES, LISTEN, RUN_DIR, tls=TLS)
    lines = directives(text)
    assert f"listen {LISTEN} ssl backlog=4096;" in lines
    assert 'ssl_certificate "/etc/c.pem";' in lines
    assert 'ssl_certificate_key "/etc/k.pem";' in lines
    assert "ssl_protocols TLSv1.2 TLSv1.3;" in lines
    ciphers = re.search(r"ssl_ciphers (\S+);", text)
    assert ciphers
    assert all(re.fullmatch(r"ECDHE-\w+-(AES\d+-GCM-SHA\d+|CHACHA20-POLY1305)", c) for c in ciphers[1].split(":"))
    assert "Strict-Transport-Security" in text


def test_plain_http_is_sent_on_only_where_there_is_tls() -> None:
    text = render(NODES, "*:443", RUN_DIR, tls=TLS, redirect_listen="*:80")
    assert "listen *:80 backlog=4096;" in directives(text)
    assert "return 308 https://$host$request_uri;" in directives(text)
    text = render(NODES, "*:8443", RUN_DIR, tls=TLS, redirect_listen="*:80")
    assert "return 308 https://$host:8443$request_uri;" in directives(text)
    with pytest.raises(RenderError, match="redirect_listen"):
        render(NODES, LISTEN, RUN_DIR, redirect_listen="*:80")


def test_the_server_for_operators_is_optional_and_answers_this_machine_only_unless_told_otherwise() -> None:
    assert "stub_status" not in render(NODES, LISTEN, RUN_DIR)
    lines = directives(render(NODES, LISTEN, RUN_DIR, admin_listen="*:5080"))
    assert [line for line in lines if line.startswith(("allow", "deny"))] == [
        "allow 127.0.0.0/8;",
        "allow ::1/128;",
        "deny all;",
    ]
    assert [line for line in lines if line.startswith("proxy_pass http://127")] == [
        f"proxy_pass http://{node}/;" for node in NODES
    ]
    lines = directives(render(NODES, LISTEN, RUN_DIR, admin_listen="*:5080", admin_from=["10.0.0.0/8"]))
    assert [line for line in lines if line.startswith(("allow", "deny"))] == ["allow 10.0.0.0/8;", "deny all;"]


def test_sockets_of_before_a_reload_are_kept_for_a_while_or_for_ever() -> None:
    assert "worker_shutdown_timeout 3600s;" in directives(render(NODES, LISTEN, RUN_DIR))
    lines = directives(render(NODES, LISTEN, RUN_DIR, drain_seconds=0))
    assert not [line for line in lines if line.startswith("worker_shutdown_timeout")]


def test_what_a_header_says_of_the_client_is_only_believed_from_a_trusted_proxy() -> None:
    text = render(NODES, LISTEN, RUN_DIR)
    assert "set_real_ip_from" not in text
    assert "proxy_set_header X-Forwarded-Proto $scheme;" in directives(text)
    lines = directives(render(NODES, LISTEN, RUN_DIR, trusted_proxies=["10.0.0.0/8"]))
    assert "set_real_ip_from 10.0.0.0/8;" in lines
    assert "10.0.0.0/8 1;" in lines
    assert "proxy_set_header X-Forwarded-Proto $aip_scheme;" in lines


@pytest.mark.parametrize(
    "node",
    [
        "",
        "node",
        "node:",
        ":5001",
        "node:0",
        "node:65536",
        "*:5001",
        "node:5001; }",
        "a b:1",
        "node:5001\n",
        "-x:1",
    ],
)
def test_a_node_that_is_not_an_address_is_refused(node: str) -> None:
    with pytest.raises(RenderError, match="node"):
        render([node], LISTEN, RUN_DIR)


@pytest.mark.parametrize("node", ["node-1:5000", "node-1.example.org:80", "[::1]:5001", "10.0.0.1:65535"])
def test_names_and_both_kinds_of_address_are_accepted(node: str) -> None:
    assert f"server {node} " in render([node], "*:5000", RUN_DIR)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("listen", "5000"),
        ("run_dir", Path("relative")),
        ("run_dir", Path('/tmp/a"b')),  # noqa: S108 - never opened
        ("run_dir", Path("/tmp/$uri")),  # noqa: S108 - never opened
        ("user", "nobody; daemon on"),
        ("access_log", "relative.log"),
        ("error_log", "off"),
        ("body_limit_bytes", 0),
        ("worker_processes", 0),
        ("worker_connections", 1),
        ("connections_per_address", -1),
        ("requests_per_second", -1),
        ("request_burst", -1),
        ("unlimited", ["everybody"]),
        ("drain_seconds", -1),
        ("admin_listen", "5080; allow all"),
        ("tls", (Path("c.pem"), Path("/k.pem"))),
        ("trusted_proxies", ["10.0.0.0/8; deny all"]),
    ],
)
def test_a_value_that_could_change_the_configuration_is_refused(argument: str, value: object) -> None:
    arguments: dict[str, object] = {"nodes": NODES, "listen": LISTEN, "run_dir": RUN_DIR, argument: value}
    with pytest.raises(RenderError, match=argument.partition("_")[0]):
        render(**arguments)  # type: ignore[arg-type]


def test_no_node_and_a_node_given_twice_are_refused() -> None:
    with pytest.raises(RenderError, match="at least one"):
        render([], LISTEN, RUN_DIR)
    with pytest.raises(RenderError, match="twice"):
        render([NODES[0], NODES[0]], LISTEN, RUN_DIR)


def test_the_command_line_writes_the_same_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--listen", LISTEN, "--node", NODES[0], "--node", NODES[1], "--run-dir", str(RUN_DIR)]
    assert main(command) == 0
    assert capsys.readouterr().out == render(NODES, LISTEN, RUN_DIR)
    assert main([*command, "--output", str(tmp_path / "nginx.conf")]) == 0
    assert (tmp_path / "nginx.conf").read_text() == render(NODES, LISTEN, RUN_DIR)


def test_the_command_line_names_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--listen", "nowhere", "--node", NODES[0]])
    assert "listen: 'nowhere' is not host:port" in capsys.readouterr().err
