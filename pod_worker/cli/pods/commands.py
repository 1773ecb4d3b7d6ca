"""`pod-worker pods …`: create, list, reach and terminate GPU pods.

Commands that spend money or terminate pods show a plan and ask first (`--yes` skips the question). Heavy imports
happen inside the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pod_worker.cli.exit_codes import CommandError, ExitCode
from pod_worker.cli.options import Number, confirm, json_option, yes_option
from pod_worker.cli.output import age, print_json, print_table, say, span
from pod_worker.cli.pods.access import doctor, ssh
from pod_worker.cli.pods.create import LEAST_PRICE, MOST_PRICE, create
from pod_worker.core.run import Json

if TYPE_CHECKING:
    from pod_worker.pods.catalogue import GpuOffer
    from pod_worker.pods.pod import Pod

STYLES = {
    "STATUS": {
        "RUNNING": "bold green",
        "STARTING": "cyan",
        "PROVISIONING": "cyan",
        "EXITED": "yellow",
        "ERROR": "bold red",
    },
    "STOCK": {"HIGH": "green", "MEDIUM": "green", "LOW": "yellow", "NONE": "red"},
}


@click.group()
def pods() -> None:
    """Create, list, reach and terminate GPU pods.

    Needs RUNPOD_API_KEY. RUNPOD_API_BASE_URL points it elsewhere: `pod-worker fake-runpod` prints one.
    """


pods.add_command(create)
pods.add_command(ssh)
pods.add_command(doctor)


@pods.command("list")
@json_option
def list_pods(as_json: bool) -> None:
    """All pods of the account, with what they cost."""
    from pod_worker.cli.pods.session import open_account

    with open_account() as account:
        found = account.pods()
    if as_json:
        print_json([pod_json(pod) for pod in found])
        return
    rows = [
        (
            pod.id,
            pod.name,
            pod.status.value,
            _gpus(pod),
            pod.data_center_id or "-",
            _price(pod),
            age(pod.created_at),
        )
        for pod in found
    ]
    print_table(("ID", "NAME", "STATUS", "GPU", "WHERE", "$/H", "AGE"), rows, STYLES)
    total = sum(pod.cost_per_hour or 0.0 for pod in found)
    say(f"{len(found)} pods, ${total:.2f} per hour, ${total * 24:.2f} per day")


@pods.command()
@click.argument("pod_id")
@json_option
def show(pod_id: str, as_json: bool) -> None:
    """One pod in full, with its launch request and intent."""
    from pod_worker.cli.pods.session import open_account

    with open_account() as account:
        pod = account.pod(pod_id)
        intent = account.log.of_pod(pod_id)
    known = pod_json(pod) | {
        "order": intent.order_id if intent else None,
        "intent": intent.state.value if intent else None,
        "env_names": sorted(pod.env),
    }
    if as_json:
        print_json(known)
        return
    for name, value in known.items():
        if value not in (None, "", []):
            click.echo(f"{name:<16} {', '.join(map(str, value)) if isinstance(value, list) else value}")


@pods.command()
@click.argument("pod_ids", nargs=-1, required=True)
@yes_option
@json_option
def terminate(pod_ids: tuple[str, ...], yes: bool, as_json: bool) -> int:
    """Terminate pods; their own disks are deleted, network volumes stay."""
    from pod_worker.cli.pods.session import open_account

    with open_account() as account:
        pods_to_terminate = [account.pod(pod_id) for pod_id in pod_ids]
        for pod in pods_to_terminate:
            say(f"terminate {pod.id} {pod.name}: {pod.status.value}, {_gpus(pod)}, ${_price(pod)}/h")
        confirm(f"Terminate {len(pods_to_terminate)} pod(s)?", yes)
        client = account.client()
        gone = {pod.id: client.terminate_worker(pod.id) for pod in pods_to_terminate}
        client.close()
    if as_json:
        print_json([{"id": pod_id, "terminated": is_gone} for pod_id, is_gone in gone.items()])
    unconfirmed = "termination requested, not confirmed yet; run `pod-worker pods sweep`"
    for pod_id, is_gone in gone.items():
        say(f"{pod_id}: {'terminated' if is_gone else unconfirmed}")
    return ExitCode.OK if all(gone.values()) else ExitCode.TEMPORARY


@pods.command()
@click.argument("pod_id")
@click.option("--follow", "-f", is_flag=True, help="Follow until the pod is gone.")
@click.option(
    "--tail", type=click.IntRange(0, 5000), default=100, show_default=True, help="Earlier lines to show."
)
@click.option("--since", metavar="TIMESTAMP", help="Only lines after this timestamp.")
@json_option
def logs(pod_id: str, follow: bool, tail: int, since: str | None, as_json: bool) -> None:
    """The logs of the container and of its host."""
    from pod_worker.cli.pods.session import open_account

    with open_account() as account:
        for entry in account.provider.logs(pod_id, tail=tail, since=since, follow=follow):
            if as_json:
                print_json({"ts": entry.at, "source": entry.source, "line": entry.line})
            else:
                click.echo(f"{entry.at} {entry.source[:1].upper()} {entry.line}")


@pods.command()
@click.option("--min-vram-gb", type=Number(0, 1e6), default=0.0, help="At least this much GPU memory.")
@click.option("--max-price", type=Number(LEAST_PRICE, MOST_PRICE), help="At most this many USD per hour and GPU.")
@click.option("--available", is_flag=True, help="Only GPU types in stock.")
@json_option
def gpus(min_vram_gb: float, max_price: float | None, available: bool, as_json: bool) -> None:
    """GPU types with prices and stock, cheapest first."""
    from pod_worker.cli.pods.session import open_account
    from pod_worker.pods.catalogue import StockLevel
    from pod_worker.pods.provider import Unknown

    with open_account() as account:
        read = account.provider.catalogue()
        if isinstance(read, Unknown):
            raise read.error
    found = [
        offer
        for offer in read.value.gpus
        if offer.memory_gb >= min_vram_gb
        and (max_price is None or _lowest(offer) <= max_price)
        and not (available and set(offer.stock.values()) <= {StockLevel.NONE})
    ]
    found.sort(key=_lowest)
    if as_json:
        print_json([offer_json(offer) for offer in found])
        return
    columns = ("GPU", "ID", "VRAM", "SECURE $/H", "COMMUNITY $/H", "STOCK")
    print_table(columns, [_offer_row(offer) for offer in found], STYLES)


@pods.command()
@json_option
def volumes(as_json: bool) -> None:
    """Network volumes and where they are; a pod that mounts one runs there."""
    from pod_worker.cli.pods.session import open_account
    from pod_worker.pods.provider import Unknown

    with open_account() as account:
        listing = account.provider.volumes()
        if isinstance(listing, Unknown):
            raise listing.error
    if as_json:
        print_json(
            [
                {"id": each.id, "name": each.name, "size_gb": each.size_gb, "data_center": each.data_center_id}
                for each in listing.value
            ]
        )
        return
    rows = [(each.id, each.name, f"{each.size_gb} GB", each.data_center_id) for each in listing.value]
    print_table(("ID", "NAME", "SIZE", "WHERE"), rows)


@pods.command()
@yes_option
@json_option
def sweep(yes: bool, as_json: bool) -> int:
    """Terminate pods of this project without an active launch request."""
    from pod_worker.cli.pods.session import open_account
    from pod_worker.pods.launch import sweep

    with open_account() as account:
        report = sweep.sweep(account.provider, account.log, clock=account.clock, limit=0)
        if report.list_error:
            raise CommandError(f"nothing was done: {report.list_error}", ExitCode.TEMPORARY)
        for pod in report.unwanted:
            say(f"unwanted: {pod.id} {pod.name} ({pod.status.value}, ${_price(pod)}/h)")
        done = report
        if report.unwanted:
            confirm(f"Terminate {len(report.unwanted)} pod(s)?", yes)
            done = sweep.sweep(account.provider, account.log, clock=account.clock, limit=len(report.unwanted))
    if as_json:
        print_json(
            {
                "terminated": [pod.id for pod in done.unwanted],
                "unclaimed": [pod.id for pod in done.unknown_pods],
                "failures": list(done.failures),
            }
        )
    say(
        f"{len(done.unwanted)} terminated, {len(done.failures)} failures, "
        f"{len(done.unknown_pods)} of other tools left alone"
    )
    return ExitCode.TEMPORARY if done.failures else ExitCode.OK


def pod_json(pod: Pod) -> dict[str, Json]:
    return {
        "id": pod.id,
        "name": pod.name,
        "status": pod.status.value,
        "image": pod.image,
        "gpu": pod.gpu_id,
        "gpu_count": pod.gpu_count,
        "cloud": pod.cloud.value if pod.cloud else None,
        "data_center": pod.data_center_id,
        "volume": pod.volume_id,
        "usd_per_hour": pod.cost_per_hour,
        "created_at": pod.created_at,
        "uptime": None if pod.uptime_seconds is None else span(pod.uptime_seconds),
        "ssh": f"{pod.ssh.username}@{pod.ssh.host}:{pod.ssh.port}" if pod.ssh else None,
    }


def offer_json(offer: GpuOffer) -> dict[str, Json]:
    return {
        "id": offer.id,
        "name": offer.name,
        "memory_gb": offer.memory_gb,
        "usd_per_hour": {cloud.value: price for cloud, price in offer.price_per_hour.items()},
        "stock": {cloud.value: stock.value for cloud, stock in offer.stock.items()},
        "data_centers": {center: stock.value for center, stock in offer.stock_by_data_center.items()},
    }


def _offer_row(offer: GpuOffer) -> tuple[str, ...]:
    from pod_worker.pods.pod import Cloud

    best = max(offer.stock.values(), key=_stock_order, default=None)
    prices = (f"{offer.price_per_hour[cloud]:.2f}" if cloud in offer.price_per_hour else "-" for cloud in Cloud)
    return (offer.name, offer.id, f"{offer.memory_gb} GB", *prices, best.value if best else "?")


def _stock_order(stock: str) -> int:
    return ("NONE", "UNKNOWN", "LOW", "MEDIUM", "HIGH").index(stock)


def _lowest(offer: GpuOffer) -> float:
    return min(offer.price_per_hour.values(), default=float("inf"))


def _gpus(pod: Pod) -> str:
    return f"{pod.gpu_count} x {pod.gpu_id}" if pod.gpu_id else "-"


def _price(pod: Pod) -> str:
    return "?" if pod.cost_per_hour is None else f"{pod.cost_per_hour:.2f}"
