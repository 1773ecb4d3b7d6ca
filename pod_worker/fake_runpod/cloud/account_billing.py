"""The account's billing: ledgers, balance, and when it reaches zero.

Decides whether a pod is affordable. The simulator stops or destroys pods when the balance reaches zero.
"""

from __future__ import annotations

from pod_worker.fake_runpod.billing.ledger import MONTH_HOURS, BilledItem, Ledger
from pod_worker.fake_runpod.billing.money import NANO, PICO_PER_NANO, price_usd
from pod_worker.fake_runpod.cloud import prices
from pod_worker.fake_runpod.cloud.account import Account, Volume
from pod_worker.fake_runpod.cloud.pod import Pod
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind


class AccountBilling:
    def __init__(self, account: Account) -> None:
        self._account = account
        self.pods = Ledger()
        self.volumes = Ledger()
        self.exhausted_at_ns: int | None = None

    def balance_nano(self, now_ns: int) -> int:
        spent = self.pods.total.usage_until(now_ns).total + self.volumes.total.usage_until(now_ns).total
        return round(self._account.balance_usd * NANO) - spent // PICO_PER_NANO

    @property
    def spend_usd_per_hour(self) -> float:
        return price_usd(self.pods.rate + self.volumes.rate) / MONTH_HOURS

    def check_affordable(self, pod: Pod, now_ns: int) -> None:
        """Check one hour of credit and the spend limit. Raises ApiError (BALANCE or RULE)."""
        if self.balance_nano(now_ns) < pod.rate_nano:
            raise ApiError(
                ApiErrorKind.BALANCE, "insufficient balance: one hour of credit is needed to deploy this pod"
            )
        limit = self._account.spend_limit_usd_per_hour
        if self.pods.rate // MONTH_HOURS + pod.rate_nano > limit * NANO:
            raise ApiError(
                ApiErrorKind.RULE, f"this pod would exceed the account's spend limit of ${limit:g} per hour"
            )

    def open_pod(self, pod: Pod, now_ns: int) -> None:
        group = pod.gpu_id or str(pod.spec.cpu_id)
        item = BilledItem(pod.id, group, pod.spec.is_cpu, pod.spec.disk_gb + pod.spec.volume_gb)
        self.pods.open(item, now_ns, prices.pod_rates(pod))
        self.recompute_exhaustion(now_ns)

    def charge_pod(self, pod: Pod, now_ns: int) -> None:
        """Set the pod's rates; call it after every change of its status or size."""
        self.pods.set_rates(pod.id, now_ns, prices.pod_rates(pod))
        self.recompute_exhaustion(now_ns)

    def close_pod(self, pod: Pod, now_ns: int) -> None:
        self.pods.close(pod.id, now_ns)
        self.recompute_exhaustion(now_ns)

    def charge_volume(self, volume: Volume, now_ns: int) -> None:
        """Start to bill a new volume, or change the rate of a resized one."""
        rates = prices.volume_rates(volume)
        if volume.id in self.volumes.entries:
            self.volumes.set_rates(volume.id, now_ns, rates)
        else:
            self.volumes.open(BilledItem(volume.id, volume.type, False, volume.size_gb), now_ns, rates)
        self.recompute_exhaustion(now_ns)

    def close_volume(self, volume: Volume, now_ns: int) -> None:
        self.volumes.close(volume.id, now_ns)
        self.recompute_exhaustion(now_ns)

    def recompute_exhaustion(self, now_ns: int) -> None:
        """Compute again when the balance reaches zero.

        Call it also after a manual change of the balance.
        """
        rate = self.pods.rate + self.volumes.rate
        self.exhausted_at_ns = prices.exhausted_at(self.balance_nano(now_ns), rate, now_ns)
