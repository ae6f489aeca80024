"""What BIND answers comes through the name server as dig reads it from BIND, for every kind of record."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.names_box import DEADLINE, GATEWAY, Names, resolving
from tests.kernel.net_box import MARKS, OUTSIDE, ROOT, Machine, on_own_host

#: Debian's, unpacked by `./setup test` and not installed: the package would start one.
NAMED = shutil.which("named", path=f"{ROOT}/.venv:{os.environ['PATH']}:/usr/sbin")
pytestmark = [
    *MARKS,
    pytest.mark.skipif(NAMED is None or shutil.which("dig") is None, reason="needs named and dig of bind9"),
]

CONFIG = """
options {{
    directory "{0}"; pid-file none; session-keyfile none; managed-keys-directory "{0}";
    listen-on {{ {1}; }}; listen-on-v6 {{ none; }}; recursion no; dnssec-validation no; minimal-any no;
    rrset-order {{ order none; }}; answer-cookie no; max-udp-size 4096; edns-udp-size 4096;
    minimal-responses no;
}};
controls {{ }};
zone "example.test" {{
    type primary; file "example.test"; dnssec-policy default; inline-signing yes; key-directory "{0}";
}};
zone "2.0.192.in-addr.arpa" {{ type primary; file "reverse"; }};
zone "8.b.d.0.1.0.0.2.ip6.arpa" {{ type primary; file "reverse"; }};
"""
ZONE = """
$TTL 3600
@       SOA ns.example.test. admin.example.test. 1 3600 600 86400 300
@       NS ns
@       MX 10 mail
@       MX 20 mail2
@       TXT "v=spf1 -all"
@       CAA 0 issue "ca.example.net"
ns      A 192.0.2.1
mail    A 192.0.2.2
mail    AAAA 2001:db8::2
mail2   AAAA 2001:db8::3
www     CNAME web
web     A 192.0.2.3
web     AAAA 2001:db8::3
web     HTTPS 1 . alpn=h2
chain   CNAME www
gone    CNAME nowhere
tree    DNAME other.test.
text    TXT "one" "two; three" "\\"four\\""
long    TXT {long}
info    HINFO "cpu" "os"
place   LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m
_s._tcp SRV 0 5 5060 web
svc     SVCB 1 web port=8443
number  NAPTR 100 50 "s" "http+I2R" "" _s._tcp.example.test.
key     SSHFP 1 1 123456789abcdef67890123456789abcdef67890
_443    TLSA 3 1 1 d2abde240d7cd3ee6b4b28c54df034b97983a1d16e8a410e4561cb106618e971
uri     URI 10 1 "https://example.test/"
strange TYPE65400 \\# 4 0a000001
*.wild  A 192.0.2.9
sub     NS ns.sub
sub     DS 60485 13 2 2bb183af5f22588179a53b0a98631fad1a292118d4f1ac4e94b1f5a6ac0c1a6b
ns.sub  A 192.0.2.10
empty.below A 192.0.2.11
"""
REVERSE = """
$TTL 3600
@ SOA ns.example.test. admin.example.test. 1 3600 600 86400 300
@ NS ns.example.test.
3 PTR web.example.test.
3.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0 PTR web.example.test.
"""
#: What is signed last.
SIGNED = ("www.example.test CNAME", "many.example.test A", "example.test NS", "sub.example.test DS")
QUESTIONS = """
web A|web AAAA|web HTTPS|web ANY|web MX|@ ANY|@ SOA|@ NS|@ MX|@ TXT|@ CAA|@ DNSKEY|www A|www AAAA
www CNAME|chain A|gone A|deep.tree A|tree DNAME|text TXT|long TXT|info HINFO|place LOC|_s._tcp SRV
svc SVCB|number NAPTR|key SSHFP|_443 TLSA|uri URI|strange TYPE65400|any.wild A|sub DS|a.sub A|nobody A
below A|many A|many ANY|mail ANY|WeB A|web RRSIG|web NSEC
"""
OPTIONS = ("+noedns", "+bufsize=1232", "+bufsize=4096 +dnssec", "+tcp +dnssec", "+noedns +ignore")


@contextlib.contextmanager
def bind(machine: Machine) -> Iterator[None]:
    """A server of the world, in the namespace outside."""
    home = machine.directory / "bind"
    home.mkdir()
    (home / "named.conf").write_text(CONFIG.format(home, OUTSIDE))
    many = "".join(f"many A 198.51.100.{n}\n" for n in range(1, 101))
    long = " ".join(f'"{chr(97 + n % 26) * 250}"' for n in range(16))
    (home / "example.test").write_text(ZONE.format(long=long) + many)
    (home / "reverse").write_text(REVERSE)
    assert NAMED is not None
    words = ["nsenter", f"--net={machine.outside}", NAMED, "-f", "-n", "1", "-c", f"{home}/named.conf"]
    with (home / "out").open("wb") as out:
        running = subprocess.Popen([*words, "-L", f"{home}/log"], stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + DEADLINE
        while dig(OUTSIDE, "+dnssec", *SIGNED).count("RRSIG\t") < len(SIGNED):
            assert running.poll() is None and time.monotonic() < deadline, (home / "log").read_text()
        yield
    finally:
        running.terminate()
        running.wait(DEADLINE)


def dig(server: str, option: str, *questions: str) -> str:
    """All answers, without what is never twice the same: ids, times, who was asked."""
    batch = Path(os.environ.get("TMPDIR", "/tmp")) / f"dig.{os.getpid()}"
    batch.write_text("".join(f"{question} {option}\n" for question in questions))
    source = "0.0.0.0" if server == OUTSIDE else "10.66.0.9"
    words = ["dig", "-r", "-b", source, f"@{server}", "-f", str(batch)]
    words += ["+nocmd", "+nostats", "+nocookie", "+norecurse", "+tries=1", "+time=10"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    finally:
        batch.unlink()
    return re.sub(r", id: \d+", "", done.stdout)


@on_own_host
def test_each_kind_of_record_comes_through_as_the_server_gives_it() -> None:
    pairs = [pair.split() for pair in QUESTIONS.replace("\n", "|").split("|") if pair]
    questions = [f"{'' if name == '@' else name + '.'}example.test {type}" for name, type in pairs]
    reverse = "3" + ".0" * 23 + ".8.b.d.0.1.0.0.2.ip6.arpa"
    questions += ["3.2.0.192.in-addr.arpa PTR", f"{reverse} PTR", "other.org A"]
    with Machine() as machine, bind(machine), resolving(f"nameserver {OUTSIDE}\n"):
        made = Names(machine)
        made.container("shop/one", 2)
        made.start()
        try:
            for option in OPTIONS:
                direct, through = dig(OUTSIDE, option, *questions), dig(GATEWAY, option, *questions)
                assert through == direct, option
                assert direct.count("HEADER") == len(questions) and "timed out" not in direct
                assert direct.count("\t192.0.2.3\n") >= 4 and direct.count("NXDOMAIN") >= 2
                assert (direct.count("\tRRSIG\t") > 100) == ("dnssec" in option)
                assert bool(re.search(r"flags: [^;]*\btc\b", direct)) == ("ignore" in option)
        finally:
            made.end()
