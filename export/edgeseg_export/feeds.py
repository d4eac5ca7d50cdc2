"""Follows pictures through a model and gives what each of its graphs is fed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from edgeseg_export.sessions import GraphBackend, Graphs
from edgeseg_runtime.backends import Tensors
from edgeseg_runtime.bundle.graphs import MAIN
from edgeseg_runtime.bundle.manifest import Manifest
from edgeseg_runtime.picture.image import Image
from edgeseg_runtime.session import Route, Session
from edgeseg_runtime.tasks import create_task

Feeds = dict[str, Tensors]
"""Of the graphs that ran on a picture, all inputs: those from the picture, from other graphs, from frames before."""


def feeds_of(graphs: Graphs, manifest: Manifest, pictures: Iterable[Image]) -> Iterator[Feeds]:
    """Yield what the graphs are fed on each picture; a video model takes the pictures as one clip.

    Args:
        graphs: complete; run only where one of them needs what another one gives.
        manifest: of the model.
        pictures: (H, W, 3) uint8 BGR.
    """
    task = create_task(manifest)
    if set(manifest.graphs) == {MAIN} and not manifest.graphs[MAIN].needs_state:
        for picture in pictures:
            yield {MAIN: task.preprocess(picture)[0]}
        return
    backend = _Recorder(graphs, manifest)
    route = Route.of(manifest, task, backend)
    with Session(lambda _size: route) as session:
        for picture in pictures:
            backend.feeds = {}
            session(picture)
            yield backend.feeds


class _Recorder(GraphBackend):
    """Keeps what each graph was fed last."""

    feeds: Feeds

    def run_whole(self, feed: Tensors, graph: str = MAIN) -> Tensors:
        """Return all outputs of a graph by name, given all of its inputs."""
        self.feeds[graph] = feed
        return super().run_whole(feed, graph)
