"""The role ``simulator``: what ``tapeline simulate`` and the Procfile's line run. Needs no Redis."""

import structlog

from actors.config import ConfigError, Settings
from actors.config.words import nearest
from actors.runtime.lifecycle import Actor
from actors.simulator.faults import Faults
from actors.simulator.replay import RecordingError, Replay, paced, read
from actors.simulator.server import serving
from actors.simulator.simulation import Simulator
from actors.simulator.street import simulated

log = structlog.get_logger()


async def run(actor: Actor) -> None:
    """Serve the simulated venues until told to stop.

    Raises:
        ConfigError: The port is taken, or the recording cannot be served.
    """
    settings = actor.settings.simulator
    faults = Faults()
    replay = None
    if settings.replay is not None:
        try:
            recording = read(settings.replay)
        except RecordingError as e:
            raise ConfigError(f"simulator.replay: {e}") from e
        if settings.events_per_s is not None:
            recording = paced(recording, settings.events_per_s)
        replay = Replay(recording, faults)
    venues = wanted(actor.settings)
    simulator = Simulator(settings.seed, settings.events_per_s, replay, faults, venues=venues)
    async with serving(simulator, settings.host, settings.port) as port:
        log.info("simulator_ready", port=port, venues=" ".join(simulator.venues), seed=settings.seed)
        await actor.stopping.wait()


def wanted(settings: Settings) -> list[str]:
    """Return which venues to serve: those named for it, else those that are configured.

    Raises:
        ConfigError: There is none, or one that is named, or of a demo, cannot be simulated.
    """
    known = simulated()
    named = settings.simulator.venues
    if named is None:
        configured = [name for name, venue in settings.venues.items() if venue.enabled]
        wanted = [name for name in configured if name in known]
        if not wanted:
            raise ConfigError(f"no venue is configured that can be simulated ({', '.join(known)})")
        if settings.mode == "demo" and wanted != configured:
            missing = next(name for name in configured if name not in known)
            raise ConfigError(
                f"venues.{missing}: cannot be simulated, as a demo's must be ({', '.join(known)})"
            )
        return wanted
    for name in named:
        if name not in known:
            raise ConfigError(
                f"simulator.venues: {name} cannot be simulated{nearest(name, known)} ({', '.join(known)})"
            )
    return list(dict.fromkeys(named))
