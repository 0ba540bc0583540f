"""/metrics as Prometheus reads it."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from tests.client import ServiceClient


class Scrape:
    """One answer of /metrics: samples by name and labels."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.types = {family.name: family.type for family in families}
        self.help = {family.name: family.documentation for family in families}
        self._samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in families:
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in self._samples, key
                self._samples[key] = sample.value

    def read(self, name: str, **labels: str) -> float:
        """One sample. Fails where it isn't there."""
        return self._samples[name, frozenset(labels.items())]

    def find(self, name: str, **labels: str) -> float | None:
        """One sample; None where it isn't there, as when the database did not answer."""
        return self._samples.get((name, frozenset(labels.items())))

    def has(self, name: str) -> bool:
        """Whether there is any sample of that name."""
        return any(found == name for found, _ in self._samples)

    def list_samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """The labels and values of a name."""
        return [(dict(labels), value) for (found, labels), value in self._samples.items() if found == name]

    def read_all(self, name: str, label: str) -> dict[str, float]:
        """The samples of a name with one label, without those that are 0."""
        return {
            dict(labels)[label]: value for (found, labels), value in self._samples.items() if found == name and value
        }

    @property
    def names(self) -> set[str]:
        """Of samples, such as x_bucket."""
        return {name for name, _ in self._samples}

    @property
    def label_values(self) -> set[str]:
        return {value for _, labels in self._samples for _, value in labels}


async def scrape(service: ServiceClient) -> Scrape:
    """What /metrics says now."""
    answer = await service.http.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return Scrape(answer.text)


async def wait_for_scrape(service: ServiceClient, name: str, value: float, **labels: str) -> Scrape:
    """What /metrics says once one sample has that value."""
    async with asyncio.timeout(60):
        while (found := await scrape(service)).find(name, **labels) != value:  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.02)
    return found
