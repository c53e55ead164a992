# What nbdsh is asked to do with a fresh disk: the corners of the protocol. Ends by printing "all good".
# Given: NBD_URI, NBD_KIND (plain, replicating, promoted, locked).
import errno
import os

URI, KIND = os.environ["NBD_URI"], os.environ["NBD_KIND"]
K, M = 1024, 1024 * 1024


def connect(contexts=("base:allocation",), prepare=lambda handle: None):
    handle = nbd.NBD()
    for context in contexts:
        handle.add_meta_context(context)
    prepare(handle)
    handle.connect_uri(URI)
    handle.set_strict_mode(0)       # let us ask for what libnbd knows to be wrong
    return handle


def fails(number, ask, *arguments, **named):
    try:
        ask(*arguments, **named)
    except nbd.Error as error:
        assert error.errnum == number, f"{ask} gave {error.errno} for {arguments}: {error}"
        return
    raise AssertionError(f"{ask} {arguments} was not refused")


def status(handle, length, offset, flags=0, context="base:allocation"):
    seen = []
    def extent(name, at, entries, error):
        if name == context:
            seen.extend(zip(entries[::2], entries[1::2]))
    handle.block_status(length, offset, extent, flags)
    return seen


def chunks(handle, length, offset, flags=0):
    seen = []
    buf = handle.pread_structured(length, offset, lambda data, at, kind, error: seen.append((at, len(data), kind)), flags)
    return bytes(buf), seen


def terms(h, size):
    assert h.get_protocol() == "newstyle-fixed" and h.get_structured_replies_negotiated()
    assert size % 512, "an odd size is what is tested"
    sizes = [h.get_block_size(it) for it in (nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM)]
    assert sizes == [1, 4096, 32 * M], sizes
    for can in (h.can_flush, h.can_fua, h.can_trim, h.can_zero, h.can_fast_zero, h.can_df, h.can_cache, h.can_multi_conn):
        assert can(), can
    assert not h.is_read_only() and not h.is_rotational()
    assert h.can_meta_context("base:allocation")


def reads_and_writes(h, size):
    for offset, data in [(0, b"first"), (size - 3, b"end"), (4095, b"xy"), (12345, bytes(range(256)) * 31)]:
        h.pwrite(data, offset)
        assert h.pread(len(data), offset) == data
    h.pwrite(b"durable", 999, nbd.CMD_FLAG_FUA)
    h.flush()
    assert h.pread(7, 999) == b"durable"
    big = os.urandom(1 * M) * 32
    h.pwrite(big, 5 * M + 1)
    assert h.pread(32 * M, 5 * M + 1) == big
    assert h.pread(7, 5 * M + 1 + 31 * M) == big[31 * M:31 * M + 7]


def many_connections(h):
    assert h.can_multi_conn()
    others = [connect() for _ in range(4)]
    for number, other in enumerate(others):
        other.pwrite(bytes([number + 1]) * 8192, 40 * M + number * 8192)
    h.flush()
    for number, other in enumerate(reversed(others)):
        place = 3 - number
        assert h.pread(8192, 40 * M + place * 8192) == bytes([place + 1]) * 8192
        other.shutdown()


def zeroes(h):
    area = 42 * M
    h.pwrite(b"\xee" * M, area)
    h.zero(100 * K + 1, area + 1, nbd.CMD_FLAG_NO_HOLE)
    h.zero(100 * K, area + 200 * K, nbd.CMD_FLAG_FUA)
    h.trim(100 * K, area + 400 * K, nbd.CMD_FLAG_FUA)
    expected = bytearray(b"\xee" * M)
    for start, length in [(1, 100 * K + 1), (200 * K, 100 * K), (400 * K, 100 * K)]:
        expected[start:start + length] = bytes(length)
    assert h.pread(M, area) == expected
    if KIND == "plain":
        holes = status(h, 64 * K, area + 416 * K)
        assert holes == [(64 * K, nbd.STATE_HOLE | nbd.STATE_ZERO)], holes
        kept = status(h, 64 * K, area + 16 * K)
        assert all(not flags & nbd.STATE_HOLE for _, flags in kept), kept
    try:
        h.zero(4096, area + 600 * K, nbd.CMD_FLAG_FAST_ZERO)
        assert h.pread(4096, area + 600 * K) == bytes(4096)
    except nbd.Error as error:
        assert error.errnum == errno.ENOTSUP, error
        assert h.pread(4096, area + 600 * K) == b"\xee" * 4096, "a refused fast zero changes nothing"
    h.zero(40 * M, 0)               # far beyond the longest payload
    assert not any(h.pread(32 * M, 8 * M))


def extents(h, size):
    h.pwrite(b"\x11" * (256 * K), 48 * M)
    h.pwrite(b"\x11" * (256 * K), 49 * M)
    one = status(h, 4 * M, 47 * M, nbd.CMD_FLAG_REQ_ONE)
    assert len(one) == 1 and one[0][0] <= 4 * M, one
    whole = status(h, size, 0)
    assert sum(length for length, _ in whole) == size, "a whole disk is described in one reply"
    at = 0
    for length, flags in whole:
        if flags & nbd.STATE_ZERO:
            assert not any(h.pread(min(length, 16 * M), at)), "what is called zero is zero"
        at += length
    for offset in (48 * M, 49 * M):
        assert status(h, 256 * K, offset) == [(256 * K, 0)]
    if KIND != "promoted":
        assert any(flags & nbd.STATE_HOLE for _, flags in status(h, 4 * M, 47 * M))


def structured(h):
    data, parts = chunks(h, 2 * M, 48 * M)
    assert data == h.pread(2 * M, 48 * M) and data[:4] == b"\x11" * 4 and not any(data[512 * K:M])
    assert sorted(at for at, _, _ in parts)[0] == 48 * M
    if KIND == "plain":
        assert any(kind == nbd.READ_HOLE for _, _, kind in parts), parts
    data, parts = chunks(h, 2 * M, 48 * M, nbd.CMD_FLAG_DF)
    assert len(parts) == 1 and parts[0][2] == nbd.READ_DATA, parts


def refusals(h, size):
    fails(errno.EINVAL, h.pread, 2, size - 1)
    fails(errno.EINVAL, h.pread, 1, 1 << 62)
    fails(errno.ENOSPC, h.pwrite, b"xx", size - 1)
    fails(errno.ENOSPC, h.zero, 4096, size)
    fails(errno.ENOSPC, h.zero, 4096 + 512, size - 4095)
    fails(errno.EINVAL, h.trim, 4096 + 512, size - 4095)
    fails(errno.EINVAL, h.cache, 4096, size)
    fails(errno.EINVAL, h.block_status, 4096, size, lambda *_: None)
    fails(errno.EINVAL, h.pread, 0, 0)
    fails(errno.EINVAL, h.pread, 32 * M + 1, 0)
    fails(errno.EINVAL, h.pwrite, bytes(32 * M + 1), 0)
    fails(errno.EINVAL, h.pread, 1, 0, flags=nbd.CMD_FLAG_FAST_ZERO)
    h.pwrite(b"alive", 3)
    assert h.pread(5, 3) == b"alive", "a refused request ends nothing"
    h.cache(M, 0)


def in_flight(h):
    """Many requests at once; each answer belongs to its own request."""
    writes = [h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([n % 256]) * 4096), 50 * M + n * 4096) for n in range(256)]
    drain(h, writes)
    buffers = [nbd.Buffer(4096) for _ in range(256)]
    reads = [h.aio_pread(buffer, 50 * M + n * 4096) for n, buffer in enumerate(buffers)]
    mixed = [h.aio_flush(), h.aio_trim(4096, 60 * M), h.aio_zero(4096, 61 * M), h.aio_cache(4096, 0)]
    drain(h, reads + mixed)
    for n, buffer in enumerate(buffers):
        assert buffer.to_bytearray() == bytearray([n % 256]) * 4096


def drain(h, cookies):
    left = set(cookies)
    while left:
        h.poll(-1)
        left = {cookie for cookie in left if not h.aio_command_completed(cookie)}


def plain_replies():
    """Clients that know less: no structured replies, no GO, no contexts."""
    old = connect(contexts=(), prepare=lambda h: h.set_request_structured_replies(False))
    assert not old.get_structured_replies_negotiated()
    old.pwrite(b"old", 70 * M)
    assert old.pread(3, 70 * M) == b"old"
    fails(errno.EINVAL, old.pread, 3, old.get_size())
    fails(errno.ENOSPC, old.pwrite, b"old", old.get_size())
    assert old.pread(3, 70 * M) == b"old"
    assert len(old.pread(4 * M, 46 * M)) == 4 * M
    old.shutdown()


def dirty():
    h = connect(contexts=("base:allocation", "farshore:dirty", "nobody:knows"))
    assert not h.can_meta_context("nobody:knows")
    assert h.can_meta_context("farshore:dirty") == (KIND in ("replicating", "promoted")), KIND
    if h.can_meta_context("farshore:dirty"):
        h.pwrite(b"x" * 4096, 65 * M)
        described = status(h, h.get_size(), 0, context="farshore:dirty")
        assert sum(length for length, _ in described) == h.get_size(), described
        assert all(flags in (0, 1) for _, flags in described)
    h.shutdown()


def unknown_name():
    h = nbd.NBD()
    try:
        h.set_export_name("nobody/home")
        h.connect_unix(URI.split("socket=")[1])
    except nbd.Error as error:
        assert "no export of this name" in str(error) or error.errnum == errno.ENOENT, error
        return
    raise AssertionError("an unknown name was served")


def locked():
    h = connect()
    assert h.is_read_only()
    assert h.pread(4096, 0) == bytes(4096)
    for ask, arguments in [(h.pwrite, (b"no", 0)), (h.zero, (4096, 0)), (h.trim, (4096, 0)), (h.pwrite, (bytes(M), 0))]:
        fails(errno.EPERM, ask, *arguments)
    h.flush()
    assert h.pread(4096, 0) == bytes(4096)
    assert sum(length for length, _ in status(h, M, 0)) == M
    h.shutdown()


def all_of_it():
    h = connect()
    size = h.get_size()
    terms(h, size)
    reads_and_writes(h, size)
    many_connections(h)
    zeroes(h)
    extents(h, size)
    structured(h)
    refusals(h, size)
    in_flight(h)
    h.shutdown()
    plain_replies()
    dirty()
    unknown_name()


locked() if KIND == "locked" else all_of_it()
print("all good")
