"""Values: `stead network`: the commands about networks, a module each in agent/cli/networks."""

from __future__ import annotations

from agent.cli.main import Commands

VERBS: Commands = {
    "ls": ("networks.ls", "list networks", "stead network ls --filter driver=macvlan"),
    "inspect": (
        "networks.inspect",
        "show all that is known of networks: members, addresses, ports, traffic",
        "stead network inspect shop/back",
    ),
    "create": (
        "networks.create",
        "make a network by hand, which no source declares",
        "stead network create --ipv6 --subnet 10.90.0.0/24 lab/net",
    ),
    "connect": (
        "networks.connect",
        "let a container join a network, while it runs or not",
        "stead network connect --alias cache lab/net shop/web",
    ),
    "disconnect": (
        "networks.disconnect",
        "take a container from a network, while it runs or not",
        "stead network disconnect lab/net shop/web",
    ),
    "prune": (
        "networks.prune",
        "remove networks made by hand that nothing uses",
        "stead network prune --filter until=24h",
    ),
    "rm": ("networks.rm", "remove networks made by hand", "stead network rm lab/net"),
}
