"""A profile as one HTML page that needs nothing but itself."""

from __future__ import annotations

from importlib.resources import files

from shrinkc.report.profile import Profile, pairs
from shrinkc.report.profile_table import remarks
from shrinkc.report.rows import count, seconds, size


def render(profile: Profile) -> str:
    """The page."""
    from jinja2 import Environment

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(seconds=seconds, count=count, bytes=size)
    text = files("shrinkc.report").joinpath("profile.html.j2").read_text(encoding="utf-8")
    return environment.from_string(text).render(profile=profile, pairs=pairs(profile), remarks=remarks(profile))
