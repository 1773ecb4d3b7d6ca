"""An account's volumes, templates and registry credentials.

All API surfaces create, change and delete them here, so billing and validation are the same.
"""

from __future__ import annotations

from pod_worker.fake_runpod.cloud.account import Account, Registry, Template, Volume
from pod_worker.fake_runpod.cloud.catalogue import Catalogue
from pod_worker.fake_runpod.cloud.simulator import CloudSimulator
from pod_worker.fake_runpod.errors import ApiError, ApiErrorKind, not_found


class AccountResources:
    def __init__(self, simulator: CloudSimulator) -> None:
        self._simulator = simulator

    @property
    def account(self) -> Account:
        return self._simulator.account

    # network volumes

    def volume(self, volume_id: str) -> Volume:
        if volume_id not in self.account.volumes:
            raise not_found("network volume")
        return self.account.volumes[volume_id]

    def create_volume(self, name: str, size_gb: int, data_center_id: str, tier: str | None) -> Volume:
        data_center = self._simulator.catalogue.data_centers.get(data_center_id)
        if data_center is None:
            raise ApiError(ApiErrorKind.RULE, f"unknown data center {data_center_id!r}")
        if not data_center.volume_types or (tier and tier not in data_center.volume_types):
            raise ApiError(
                ApiErrorKind.RULE, f"data center {data_center_id} does not offer {tier or 'network'} volumes"
            )
        tier = tier or data_center.volume_types[0]
        volume = Volume(self._simulator.placer.machines.random_id(10), name, size_gb, data_center_id, tier)
        self.account.volumes[volume.id] = volume
        self._simulator.billing.charge_volume(volume, self._simulator.now_ns)
        return volume

    def update_volume(self, volume_id: str, name: str | None, size_gb: int | None) -> Volume:
        volume = self.volume(volume_id)
        if size_gb is not None and size_gb < volume.size_gb:
            raise ApiError(ApiErrorKind.RULE, f"volume size cannot be reduced: it has {volume.size_gb} GB")
        volume.name = volume.name if name is None else name
        volume.size_gb = volume.size_gb if size_gb is None else size_gb
        self._simulator.billing.charge_volume(volume, self._simulator.now_ns)
        return volume

    def delete_volume(self, volume_id: str) -> None:
        volume = self.volume(volume_id)
        users = [pod.id for pod in self._simulator.all_pods() if pod.spec.network_volume_id == volume_id]
        if users:
            raise ApiError(ApiErrorKind.RULE, f"network volume is in use by pod {users[0]}: terminate it first")
        del self.account.volumes[volume_id]
        self._simulator.billing.close_volume(volume, self._simulator.now_ns)

    # templates

    def template(self, template_id: str) -> Template:
        """One of the account's own, or a public one."""
        own = self.account.templates.get(template_id)
        public = next((t for t in public_templates(self._simulator.catalogue) if t.id == template_id), None)
        if (found := own or public) is None:
            raise not_found("template")
        return found

    def add_template(self, template: Template) -> Template:
        template.id = self._simulator.placer.machines.random_id(10)
        self.account.templates[template.id] = template
        return template

    def own_template(self, template_id: str) -> Template:
        if template_id not in self.account.templates:
            raise not_found("template")
        return self.account.templates[template_id]

    def delete_template(self, template_id: str) -> None:
        del self.account.templates[self.own_template(template_id).id]

    # registry credentials

    def registry(self, registry_id: str) -> Registry:
        if registry_id not in self.account.registries:
            raise not_found("registry")
        return self.account.registries[registry_id]

    def create_registry(self, name: str) -> Registry:
        if any(registry.name == name for registry in self.account.registries.values()):
            raise ApiError(ApiErrorKind.RULE, f"a registry credential named {name!r} exists already")
        registry = Registry(self._simulator.placer.machines.random_id(25), name)
        self.account.registries[registry.id] = registry
        return registry

    def delete_registry(self, registry_id: str) -> None:
        del self.account.registries[self.registry(registry_id).id]


def public_templates(catalogue: Catalogue) -> list[Template]:
    ports = ("8888/http", "22/tcp")
    rows = [(Template(t.id, t.name, t.image, ports=ports, category=t.category)) for t in catalogue.templates]
    for template in rows:
        template.is_public = template.is_runpod = True
    return rows
