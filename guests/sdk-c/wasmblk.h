/* Block devices as WebAssembly components, in C: the contract `ring` of wit/ring.wit by callbacks.
 *
 * One file, no libraries: include it in one source file of the guest, define wasmblk_open, and build with
 *
 *     clang --target=wasm32 -O2 -nostdlib -mbulk-memory -Wl,--no-entry -o guest.wasm guest.c
 *
 * (copy and fill with __builtin_memcpy and __builtin_memset, which are instructions then)
 *
 * then make a component of it with the world ring-disk of wit/ (cargo xtask guests does it for the guests
 * here; elsewhere: wasm-tools component embed wit --world ring-disk, then wasm-tools component new).
 *
 * Nothing here may wait. A callback that cannot answer yet returns WASMBLK_PENDING and makes sure that a
 * timer runs or a store is used; the guest calls wasmblk_complete later, from a callback. A request that is
 * pending while there is neither, or for longer than --deadline, is the end of the guest. Sizes and offsets are in
 * bytes.
 */
#ifndef WASMBLK_H
#define WASMBLK_H

typedef unsigned char wasmblk_u8;
typedef unsigned int wasmblk_u32;
typedef unsigned long long wasmblk_u64;

/* How a request ends: 0, or 1 + the case of types.errno in the WIT. */
enum wasmblk_status {
    WASMBLK_OK = 0,
    WASMBLK_IO = 1,
    WASMBLK_NO_SPACE = 2,
    WASMBLK_INVALID = 3,
    WASMBLK_NOT_SUPPORTED = 4,
    WASMBLK_READ_ONLY = 5,
    WASMBLK_TIMED_OUT = 6,
    WASMBLK_MEDIUM = 7,
    WASMBLK_CORRUPT = 8,
    /* Not an end: wasmblk_complete is called later. */
    WASMBLK_PENDING = -1
};

/* What a disk declares about itself: bits of types.features in the WIT. */
enum wasmblk_feature {
    WASMBLK_FEATURE_READ_ONLY = 1 << 0,
    WASMBLK_FEATURE_WRITE_THROUGH = 1 << 1,
    WASMBLK_FEATURE_FUA = 1 << 2,
    WASMBLK_FEATURE_ROTATIONAL = 1 << 3,
    WASMBLK_FEATURE_REPLICATED = 1 << 4,
    WASMBLK_FEATURE_RESTARTABLE = 1 << 5
};

/* An option of the operator, --set key=value. The words end with a zero byte as well. */
struct wasmblk_option {
    const char *key;
    wasmblk_u32 key_bytes;
    const char *value;
    wasmblk_u32 value_bytes;
};

/* The disk. What is 0 has the default of the WIT, but max_transfer_bytes, where 0 is 512 KiB: each request in
 * flight has a slot of that size. A callback that is 0 answers WASMBLK_NOT_SUPPORTED, a flush
 * that is 0 WASMBLK_OK. `data` belongs to the callback until it completes the request with this tag. */
struct wasmblk_disk {
    wasmblk_u64 size_bytes;
    wasmblk_u32 logical_block_bytes;
    wasmblk_u32 physical_block_bytes;
    wasmblk_u32 max_transfer_bytes;
    wasmblk_u32 features;
    wasmblk_u32 discard_granularity_bytes;
    wasmblk_u32 max_discard_bytes;
    wasmblk_u32 max_write_zeroes_bytes;
    int (*read)(wasmblk_u32 tag, wasmblk_u64 offset, wasmblk_u8 *data, wasmblk_u32 bytes);
    int (*write)(wasmblk_u32 tag, wasmblk_u64 offset, const wasmblk_u8 *data, wasmblk_u32 bytes, int fua);
    int (*flush)(wasmblk_u32 tag);
    int (*discard)(wasmblk_u32 tag, wasmblk_u64 offset, wasmblk_u32 bytes);
    int (*write_zeroes)(wasmblk_u32 tag, wasmblk_u64 offset, wasmblk_u32 bytes, int may_discard);
    /* A timer that wasmblk_start_timer started is due. */
    void (*timer)(wasmblk_u32 token);
    /* What wasmblk_read_store and the like began for the request with this tag has ended, with a status. A
     * callback that is 0 completes the request with it. */
    void (*transferred)(wasmblk_u32 tag, int status);
};

/* A file or block device that the operator granted with --store NAME=PATH. */
struct wasmblk_store {
    wasmblk_u32 number;
    wasmblk_u64 size_bytes;
    wasmblk_u32 block_bytes;
    /* What offsets, lengths and places in memory must be multiples of. */
    wasmblk_u32 align_bytes;
    wasmblk_u8 read_only;
};

/* Defined by the guest: fills in the disk. Returns 0, or what is wrong, in words for the operator. */
static const char *wasmblk_open(const struct wasmblk_option *options, wasmblk_u32 count, struct wasmblk_disk *disk);

/* What a guest may leave unused. */
#define WASMBLK_OPTIONAL __attribute__((unused)) static

/* Completes a request that was left pending. */
WASMBLK_OPTIONAL void wasmblk_complete(wasmblk_u32 tag, int status);

/* Timers have tokens 0 to WASMBLK_TIMERS - 1; one that runs must not be started again. Not from
 * wasmblk_open: nothing is polled before that is done. */
#define WASMBLK_TIMERS 16
WASMBLK_OPTIONAL void wasmblk_start_timer(wasmblk_u32 token, wasmblk_u64 after_ms);

/* Looks for a store, from wasmblk_open; 0 where it was not granted. */
WASMBLK_OPTIONAL int wasmblk_find_store(const char *name, struct wasmblk_store *store);

/* For a request that is left pending: bytes go from or to its `data`, or a store becomes durable. Of each request
 * one such thing is under way at a time; then comes `transferred`. */
WASMBLK_OPTIONAL void wasmblk_read_store(
    wasmblk_u32 tag, const struct wasmblk_store *store, wasmblk_u64 offset, wasmblk_u8 *data, wasmblk_u32 bytes);
WASMBLK_OPTIONAL void wasmblk_write_store(
    wasmblk_u32 tag, const struct wasmblk_store *store, wasmblk_u64 offset, const wasmblk_u8 *data, wasmblk_u32 bytes);
WASMBLK_OPTIONAL void wasmblk_flush_store(wasmblk_u32 tag, const struct wasmblk_store *store);

/* Takes memory that is never given back and begins on a multiple of 16; 0 where there is none left. It is
 * zeros. */
WASMBLK_OPTIONAL void *wasmblk_allocate(wasmblk_u32 bytes);

/* Writes a message (level 0 error to 4 trace) to the log of the device. */
WASMBLK_OPTIONAL void wasmblk_log(int level, const char *text);

/* ---- What follows is how it is done: the canonical ABI of the component model by hand. ---- */

#define WASMBLK_IMPORT(name) \
    __attribute__((import_module("wasmblk:block/host@0.1.0"), import_name(name)))
#define WASMBLK_EXPORT(name) __attribute__((export_name(name)))
#define WASMBLK_PAGE_BYTES 4096u
#define WASMBLK_WASM_PAGE_BYTES 65536u
#define WASMBLK_TRANSFER_BYTES_DEFAULT (512u << 10)
#define WASMBLK_KIND_TIMER 16u
#define WASMBLK_KIND_ENDED 17u
#define WASMBLK_IN_ARENA 0xffffffffu

WASMBLK_IMPORT("log") void wasmblk_import_log(int level, const char *text, wasmblk_u32 bytes);
WASMBLK_IMPORT("lend") void wasmblk_import_lend(const wasmblk_u8 *arena, wasmblk_u32 bytes);

/* Where the host puts what it found, as option<shape> lies in memory. */
struct wasmblk_found {
    wasmblk_u8 is_there;
    struct wasmblk_store store;
};
__attribute__((import_module("wasmblk:block/store@0.1.0"), import_name("find")))
void wasmblk_import_find(const char *name, wasmblk_u32 bytes, struct wasmblk_found *found);

/* An event or action: fields as wit/ring.wit has them. Of a transfer, `flags` has the number of the store. */
struct wasmblk_record {
    wasmblk_u32 kind;
    wasmblk_u32 tag;
    wasmblk_u64 offset;
    wasmblk_u32 length;
    wasmblk_u32 flags;
    wasmblk_u32 place;
    wasmblk_u32 place_tag;
};

static struct {
    struct wasmblk_disk disk;
    wasmblk_u8 *arena;
    struct wasmblk_record *events;
    struct wasmblk_record *actions;
    /* Where the next action belongs. */
    struct wasmblk_record *next;
    wasmblk_u8 *slots;
    wasmblk_u32 stride;
    wasmblk_u8 *free;
    wasmblk_u8 *end;
} wasmblk_state;

static wasmblk_u32 wasmblk_text_bytes(const char *text) {
    wasmblk_u32 bytes = 0;
    while (text[bytes]) bytes++;
    return bytes;
}

WASMBLK_OPTIONAL void wasmblk_log(int level, const char *text) {
    wasmblk_import_log(level, text, wasmblk_text_bytes(text));
}

/* Fresh memory at the end of what there is. */
static wasmblk_u8 *wasmblk_grow(wasmblk_u64 bytes) {
    wasmblk_u64 pages = (bytes + WASMBLK_WASM_PAGE_BYTES - 1) / WASMBLK_WASM_PAGE_BYTES;
    if (pages > 65536) return 0;
    unsigned long before = __builtin_wasm_memory_grow(0, (unsigned long)pages);
    return before == (unsigned long)-1 ? 0 : (wasmblk_u8 *)(before * WASMBLK_WASM_PAGE_BYTES);
}

WASMBLK_OPTIONAL void *wasmblk_allocate(wasmblk_u32 bytes) {
    wasmblk_u64 rounded = ((wasmblk_u64)bytes + 15) & ~15ull;
    if ((wasmblk_u64)(wasmblk_state.end - wasmblk_state.free) < rounded) {
        wasmblk_u8 *fresh = wasmblk_grow(rounded);
        if (!fresh) return 0;
        /* What was left is joined where it ends at the fresh memory. */
        if (fresh != wasmblk_state.end) wasmblk_state.free = fresh;
        wasmblk_u64 whole = (rounded + WASMBLK_WASM_PAGE_BYTES - 1) & ~(wasmblk_u64)(WASMBLK_WASM_PAGE_BYTES - 1);
        wasmblk_state.end = fresh + whole;
    }
    wasmblk_u8 *begin = wasmblk_state.free;
    wasmblk_state.free += rounded;
    return begin;
}

/* The host puts the options there, once; nothing else comes this way. */
WASMBLK_EXPORT("cabi_realloc")
void *wasmblk_cabi_realloc(void *old, wasmblk_u32 old_bytes, wasmblk_u32 align, wasmblk_u32 bytes) {
    (void)align;
    /* One more for the zero byte behind a string. */
    wasmblk_u8 *fresh = wasmblk_allocate(bytes + 1);
    if (!fresh) __builtin_trap();
    for (wasmblk_u32 i = 0; old && i < old_bytes && i < bytes; i++) fresh[i] = ((wasmblk_u8 *)old)[i];
    return fresh;
}

/* An action, whose other fields are those of the one before in this place: the caller sets the fields of its kind. */
static struct wasmblk_record *wasmblk_act(wasmblk_u32 kind, wasmblk_u32 tag) {
    struct wasmblk_record *action = wasmblk_state.next++;
    action->kind = kind;
    action->tag = tag;
    return action;
}

WASMBLK_OPTIONAL void wasmblk_complete(wasmblk_u32 tag, int status) {
    wasmblk_act(0, tag)->length = (wasmblk_u32)status;
}

WASMBLK_OPTIONAL void wasmblk_start_timer(wasmblk_u32 token, wasmblk_u64 after_ms) {
    wasmblk_act(WASMBLK_KIND_TIMER, token)->offset = after_ms;
}

WASMBLK_OPTIONAL int wasmblk_find_store(const char *name, struct wasmblk_store *store) {
    struct wasmblk_found found;
    wasmblk_import_find(name, wasmblk_text_bytes(name), &found);
    if (found.is_there) *store = found.store;
    return found.is_there;
}

/* Tokens behind those of timers belong to the requests. */
static void wasmblk_transfer(wasmblk_u32 kind, wasmblk_u32 tag, const struct wasmblk_store *store, wasmblk_u64 offset,
    const wasmblk_u8 *data, wasmblk_u32 bytes) {
    struct wasmblk_record *action = wasmblk_act(kind, WASMBLK_TIMERS + tag);
    action->offset = offset;
    action->length = bytes;
    action->flags = store->number;
    action->place = data ? (wasmblk_u32)(data - wasmblk_state.arena) : 0;
    action->place_tag = WASMBLK_IN_ARENA;
}

WASMBLK_OPTIONAL void wasmblk_read_store(
    wasmblk_u32 tag, const struct wasmblk_store *store, wasmblk_u64 offset, wasmblk_u8 *data, wasmblk_u32 bytes) {
    wasmblk_transfer(1, tag, store, offset, data, bytes);
}

WASMBLK_OPTIONAL void wasmblk_write_store(
    wasmblk_u32 tag, const struct wasmblk_store *store, wasmblk_u64 offset, const wasmblk_u8 *data, wasmblk_u32 bytes) {
    wasmblk_transfer(2, tag, store, offset, data, bytes);
}

WASMBLK_OPTIONAL void wasmblk_flush_store(wasmblk_u32 tag, const struct wasmblk_store *store) {
    wasmblk_transfer(3, tag, store, 0, 0, 0);
}

static void wasmblk_transfer_ended(wasmblk_u32 token, int status) {
    wasmblk_u32 tag = token - WASMBLK_TIMERS;
    if (wasmblk_state.disk.transferred) {
        wasmblk_state.disk.transferred(tag, status);
    } else {
        wasmblk_complete(tag, status);
    }
}

/* With which status a request is done; an event of another kind leaves nothing to be said. */
static int wasmblk_take(const struct wasmblk_record *event) {
    const struct wasmblk_disk *disk = &wasmblk_state.disk;
    wasmblk_u8 *data = wasmblk_state.slots + event->tag * wasmblk_state.stride;
    int none = WASMBLK_NOT_SUPPORTED;
    switch (event->kind) {
    case 0: return disk->read ? disk->read(event->tag, event->offset, data, event->length) : none;
    case 1: return disk->write ? disk->write(event->tag, event->offset, data, event->length, event->flags & 1) : none;
    case 2: return disk->flush ? disk->flush(event->tag) : WASMBLK_OK;
    case 3: return disk->discard ? disk->discard(event->tag, event->offset, event->length) : none;
    case 4: return disk->write_zeroes
        ? disk->write_zeroes(event->tag, event->offset, event->length, event->flags >> 1 & 1) : none;
    case WASMBLK_KIND_TIMER:
        if (disk->timer) disk->timer(event->tag);
        return WASMBLK_PENDING;
    case WASMBLK_KIND_ENDED:
        wasmblk_transfer_ended(event->tag, (int)event->length);
        return WASMBLK_PENDING;
    default: return none;
    }
}

WASMBLK_EXPORT("wasmblk:block/ring@0.1.0#poll")
wasmblk_u32 wasmblk_export_poll(wasmblk_u32 events) {
    const struct wasmblk_record *event = wasmblk_state.events, *end = event + events;
    wasmblk_state.next = wasmblk_state.actions;
    for (; event != end; event++) {
        int status = wasmblk_take(event);
        if (status != WASMBLK_PENDING) wasmblk_complete(event->tag, status);
    }
    return (wasmblk_u32)(wasmblk_state.next - wasmblk_state.actions);
}

/* result<disk, open-error> as it lies in memory. */
struct wasmblk_result {
    wasmblk_u8 is_error;
    union {
        struct {
            struct {
                wasmblk_u64 size_bytes;
                wasmblk_u32 logical_block_bytes;
                wasmblk_u32 physical_block_bytes;
                wasmblk_u32 max_transfer_bytes;
                wasmblk_u8 features;
            } geometry;
            wasmblk_u8 has_trim;
            wasmblk_u32 trim[3];
            wasmblk_u32 layout[7];
            wasmblk_u8 data;
        } disk;
        struct {
            wasmblk_u8 which;
            const char *text;
            wasmblk_u32 text_bytes;
        } error;
    } of;
};

static struct wasmblk_result *wasmblk_refuse(wasmblk_u8 which, const char *text) {
    static struct wasmblk_result result;
    result.is_error = 1;
    result.of.error.which = which;
    result.of.error.text = text;
    result.of.error.text_bytes = wasmblk_text_bytes(text);
    return &result;
}

WASMBLK_EXPORT("wasmblk:block/ring@0.1.0#open")
struct wasmblk_result *wasmblk_export_open(
    const struct wasmblk_option *options, wasmblk_u32 count, wasmblk_u32 depth, wasmblk_u32 max_transfer_bytes) {
    static struct wasmblk_result result;
    struct wasmblk_disk *disk = &wasmblk_state.disk;
    const char *wrong = wasmblk_open(options, count, disk);
    if (wrong) return wasmblk_refuse(0, wrong);
    if (!disk->max_transfer_bytes) {
        disk->max_transfer_bytes = WASMBLK_TRANSFER_BYTES_DEFAULT;
    }
    if (disk->max_transfer_bytes > max_transfer_bytes) {
        disk->max_transfer_bytes = max_transfer_bytes;
    }
    /* A page more from slot to slot, so that they do not share lines of the caches. */
    wasmblk_u64 stride = (wasmblk_u64)disk->max_transfer_bytes + WASMBLK_PAGE_BYTES;
    wasmblk_u32 ops_max = WASMBLK_TIMERS + depth;
    wasmblk_u64 records = ((wasmblk_u64)depth + ops_max) * sizeof(struct wasmblk_record);
    wasmblk_u64 slots = (2 * records + WASMBLK_PAGE_BYTES - 1) & ~(wasmblk_u64)(WASMBLK_PAGE_BYTES - 1);
    wasmblk_u64 bytes = (slots + depth * stride + WASMBLK_PAGE_BYTES - 1) & ~(wasmblk_u64)(WASMBLK_PAGE_BYTES - 1);
    wasmblk_u8 *arena = wasmblk_grow(bytes);
    if (!arena) {
        return wasmblk_refuse(1, "no memory for the data of so many requests; give more with --memory-mib, or, "
            "with 'add', ask for less with --depth");
    }
    wasmblk_import_lend(arena, (wasmblk_u32)bytes);
    wasmblk_state.arena = arena;
    wasmblk_state.events = (struct wasmblk_record *)arena;
    wasmblk_state.actions = (struct wasmblk_record *)(arena + records);
    wasmblk_state.slots = arena + slots;
    wasmblk_state.stride = (wasmblk_u32)stride;
    result.is_error = 0;
    result.of.disk.geometry.size_bytes = disk->size_bytes;
    result.of.disk.geometry.logical_block_bytes = disk->logical_block_bytes;
    result.of.disk.geometry.physical_block_bytes = disk->physical_block_bytes;
    result.of.disk.geometry.max_transfer_bytes = disk->max_transfer_bytes;
    result.of.disk.geometry.features = (wasmblk_u8)disk->features;
    result.of.disk.has_trim = 1;
    result.of.disk.trim[0] = disk->discard_granularity_bytes;
    result.of.disk.trim[1] = disk->max_discard_bytes;
    result.of.disk.trim[2] = disk->max_write_zeroes_bytes;
    wasmblk_u32 layout[7] = {1, 0, (wasmblk_u32)records, depth + ops_max, ops_max,
        (wasmblk_u32)slots, (wasmblk_u32)stride};
    for (int i = 0; i < 7; i++) result.of.disk.layout[i] = layout[i];
    /* The data of requests is in the arena. */
    result.of.disk.data = 0;
    return &result;
}

#endif
