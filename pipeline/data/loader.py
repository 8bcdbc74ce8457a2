"""The rank's side of loading: worker processes make micro-batches ahead, in a ring; the rank takes them in order.

A row of a micro-batch is a pure function of (feed, item, row), so any worker of any attempt may make it. Each worker
makes the same rows of every item: with the order's lanes, that is the same lanes, so that what it reads ahead serves
itself. Workers and threads change the speed and nothing else.
"""

import select
import time
from collections import deque
from collections.abc import Iterator

import numpy as np
import torch

from pipeline.data import nursery, worker
from pipeline.data.batch import MicroBatch, Mix, StageTimes
from pipeline.data.feed import TrainFeed
from pipeline.data.giving_up import LOOK_S, GaveUp, GiveUp, never
from pipeline.data.ledger import Account
from pipeline.data.mix import mix_plan, without_holes
from pipeline.data.part import Part
from pipeline.data.recipe import Recipe
from pipeline.data.ring import Ring, Shape, Slot
from pipeline.dataset.errors import WorkFailed
from pipeline.dataset.keys import as_int64
from pipeline.dataset.remote.traffic import Fetched

STALL_S = 3600.0  # workers give up on a storage long before: one that says nothing for so long has stopped


class Loader:
    """The micro-batches of a recipe, in order, on `device`. An iterator; its workers start at once."""

    def __init__(
        self,
        recipe: Recipe,
        workers: int,
        prefetch: int,
        in_use: int,
        device: torch.device,
        give_up: GiveUp = never,
    ) -> None:
        """
        Args:
            workers: processes; 0 makes everything in this one.
            prefetch: micro-batches that are made ahead.
            in_use: micro-batches of a step: so many, the newest, stay as they are.
            give_up: whether waiting is to end without a micro-batch.
        """
        self.recipe, self.feed, self.device = recipe, recipe.feed, device
        self._prefetch, self._in_use = prefetch, in_use
        self._ring = Ring(Shape(prefetch + in_use, self.feed.rows, recipe.image_size, recipe.corpus.several))
        self._next = 0
        self._held: deque[torch.cuda.Event | None] = deque()  # of the newest items taken: when they are copied
        self._pinned: int | None = None
        if device.type == "cuda":
            self._copies = torch.cuda.Stream()
            self._pinned = _pin(self._ring)
        workers = min(workers, self.feed.rows)
        crew = Crew if workers else Alone
        self._crew: Crew | Alone = crew(recipe, workers, self._ring, give_up)
        self._crew.allow(prefetch)

    def __iter__(self) -> Iterator[MicroBatch]:
        return self

    def __next__(self) -> MicroBatch:
        """Waits for the next micro-batch.

        Raises:
            WorkFailed: a shard's index cannot be used; or a worker died.
            GaveUp: it did not come, and is not to be waited for.
        """
        if self._next == self.feed.items:
            raise StopIteration
        began = time.perf_counter()
        item, self._next = self._next, self._next + 1
        self._release()
        batch = self._on_device(self._gather(item, self._crew.parts(item)))
        batch.times.copy_s = time.perf_counter() - began - self._crew.waited_s
        return batch

    def close(self) -> None:
        """Ends the workers."""
        self._crew.close()
        if self._pinned is not None:
            self._copies.synchronize()
            torch.cuda.check_error(torch.cuda.cudart().cudaHostUnregister(self._pinned))
            self._pinned = None

    def _release(self) -> None:
        """Lets the workers have the slots that are not used any more."""
        while self._held:
            copied = self._held[0]
            if copied is None or not copied.query():
                if len(self._held) < self._in_use:
                    break
                if copied is not None:
                    copied.synchronize()  # of a step that is long over
            self._held.popleft()
        self._crew.allow(self._next + self._prefetch)

    def _on_device(self, batch: MicroBatch) -> MicroBatch:
        """Copied beside what the device is doing, which waits for it when it comes to it."""
        if self.device.type != "cuda":
            self._held.append(None)
            return batch
        with torch.cuda.stream(self._copies):
            copied = batch.to(self.device)
            done = torch.cuda.Event()
            done.record()
        torch.cuda.current_stream().wait_event(done)
        for tensor in copied.tensors():
            tensor.record_stream(torch.cuda.current_stream())
        self._held.append(done)
        return copied

    def _gather(self, item: int, parts: list[Part]) -> MicroBatch:
        slot, batch = self._ring.slot(item), self.feed.batch
        everyones = zip(*(part.rows for part in parts), strict=True)  # of each account
        rows = [[as_int64(sum(column)) for column in zip(*each, strict=True)] for each in everyones]
        holes = [(Account(part, epoch), hole) for each in parts for part, epoch, hole in each.holes]
        slowest = max(parts, key=lambda part: part.read_s + part.decode_s)
        return MicroBatch(
            images=torch.from_numpy(slot.images),
            labels=torch.from_numpy(slot.labels),
            weights=torch.from_numpy(slot.weights[:batch]),
            rows=torch.tensor(rows),
            holes=holes,
            times=StageTimes(slowest.read_s, slowest.decode_s, images=sum(part.images for part in parts)),
            fetched=Fetched.total(part.fetched for part in parts),
            mix=self._mix(item, slot),
        )

    def _mix(self, item: int, slot: Slot) -> Mix | None:
        feed, augment = self.feed, self.recipe.augment
        if augment is None or not augment.mixes or not isinstance(feed, TrainFeed):
            return None
        step, micro = divmod(item, feed.accumulation)
        slots, batch = feed.slots_and_guests[micro], feed.batch
        positions = feed.consumed_before(step) + slots[:batch]
        plan = mix_plan(augment, feed.seed, positions, slots[:batch], feed.count(step), self.recipe.image_size)
        partner = feed.rows_of(micro, plan.partner_slot)
        lam, box, partner = without_holes(plan.lam, plan.box, partner, slot.weights > 0)
        return Mix(torch.from_numpy(partner), torch.from_numpy(lam), torch.from_numpy(box))


class Alone:
    """No workers: items are made when they are asked for."""

    def __init__(self, recipe: Recipe, workers: int, ring: Ring, give_up: GiveUp) -> None:
        from pipeline.data.maker import Maker  # with its decoders

        self._maker, self._ring = Maker(recipe, 0, 1, give_up), ring
        self.waited_s = 0.0  # for the last item

    def allow(self, items: int) -> None:
        """Nothing is made ahead."""

    def parts(self, item: int) -> list[Part]:
        """Makes an item."""
        began = time.perf_counter()
        made = [self._maker.make(item, self._ring.slot(item))]
        self.waited_s = time.perf_counter() - began
        return made

    def close(self) -> None:
        """Nothing more is read."""
        self._maker.close()


class Crew:
    """Worker processes, each of which makes its rows of every item."""

    def __init__(self, recipe: Recipe, workers: int, ring: Ring, give_up: GiveUp) -> None:
        self._give_up = give_up
        self._items = recipe.feed.items
        self._children: list[nursery.Child] = []
        self._answers: list[deque[Part]] = [deque() for _ in range(workers)]
        self._allowed = 0
        self._poll = select.poll()  # made once: multiprocessing's `wait` makes one for every call
        self._numbers: dict[int, int] = {}  # file descriptor -> worker
        self.waited_s = 0.0  # for the last item; what lies there already is not waited for
        for number in range(workers):
            child = nursery.bear(ring.fd)
            self._children.append(child)
            self._poll.register(child.connection, select.POLLIN)
            self._numbers[child.connection.fileno()] = number
            worker.Birth(recipe, number, workers, ring.shape).tell(child.connection)

    def allow(self, items: int) -> None:
        """Items up to this number may be made: their slots are free."""
        items = min(items, self._items)
        if items > self._allowed:
            self._allowed = items
            for number, child in enumerate(self._children):
                try:
                    child.connection.send_bytes(items.to_bytes(8, "little"))
                except OSError:
                    self._receive(number)  # what it had to say before it ended

    def parts(self, item: int) -> list[Part]:
        """What all workers say of an item; waits for them. Raises GaveUp."""
        deadline, self.waited_s = time.monotonic() + STALL_S, 0.0
        while missing := [n for n, answers in enumerate(self._answers) if not answers]:
            ready = self._poll.poll(0)
            if not ready:
                began = time.monotonic()
                ready = self._poll.poll(LOOK_S * 1000)
                self.waited_s += time.monotonic() - began
            if not ready and self._give_up():
                raise GaveUp
            if not ready and time.monotonic() >= deadline:
                raise WorkFailed(f"loader workers {missing} have not answered for {STALL_S:.0f} s", cause="hang")
            for fd, _ in ready:
                self._receive(self._numbers[fd])
        return [answers.popleft() for answers in self._answers]

    def close(self) -> None:
        """Hangs up, upon which they end."""
        for child in self._children:
            child.connection.close()
        for child in self._children:
            child.exit_code(patience_s=5.0)

    def _receive(self, number: int) -> None:
        try:
            self._answers[number].append(worker.receive(self._children[number].connection))
        except (EOFError, OSError):
            child = self._children[number]
            code = child.exit_code(patience_s=5.0) or 0
            how = f"was killed by signal {-code}" if code < 0 else "ended"
            raise WorkFailed(
                f"loader worker {number} (process {child.pid}) {how}; often that is memory that ran out: lower "
                "loader.workers, loader.memory or loader.prefetch"
            ) from None


def _pin(ring: Ring) -> int:
    """Page-locks the ring, so that copies to the GPU need no detour, and do not wait. Returns its address."""
    memory = torch.from_numpy(np.frombuffer(ring.memory, np.uint8))
    torch.cuda.check_error(torch.cuda.cudart().cudaHostRegister(memory.data_ptr(), memory.numel(), 0))
    return memory.data_ptr()
