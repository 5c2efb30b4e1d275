/* `file-c`: a file or block device as it is, in C. Its data goes through this guest's memory.
 *
 * Store `data`: the file or device. No options. */
#include "wasmblk.h"

static struct wasmblk_store store;

static int read_disk(wasmblk_u32 tag, wasmblk_u64 offset, wasmblk_u8 *data, wasmblk_u32 bytes) {
    wasmblk_read_store(tag, &store, offset, data, bytes);
    return WASMBLK_PENDING;
}

static int write_disk(wasmblk_u32 tag, wasmblk_u64 offset, const wasmblk_u8 *data, wasmblk_u32 bytes, int fua) {
    (void)fua;
    wasmblk_write_store(tag, &store, offset, data, bytes);
    return WASMBLK_PENDING;
}

static int flush_disk(wasmblk_u32 tag) {
    wasmblk_flush_store(tag, &store);
    return WASMBLK_PENDING;
}

static const char *wasmblk_open(const struct wasmblk_option *options, wasmblk_u32 count, struct wasmblk_disk *disk) {
    (void)options;
    if (count) return "file-c knows no options";
    if (!wasmblk_find_store("data", &store)) return "it needs a store: give --store data=PATH";
    disk->size_bytes = store.size_bytes & ~4095ull;
    disk->logical_block_bytes = store.align_bytes < 512 ? 512 : store.align_bytes;
    disk->features = WASMBLK_FEATURE_RESTARTABLE | (store.read_only ? WASMBLK_FEATURE_READ_ONLY : 0);
    disk->read = read_disk;
    disk->write = write_disk;
    disk->flush = flush_disk;
    return 0;
}
