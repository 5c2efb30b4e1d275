/* `memory-c`: a RAM disk in C, all of it allocated at once. Everything is lost with the instance.
 *
 * Options: `size` in bytes, with K, M or G (required). */
#include "wasmblk.h"

static wasmblk_u8 *content;

static int read_disk(wasmblk_u32 tag, wasmblk_u64 offset, wasmblk_u8 *data, wasmblk_u32 bytes) {
    (void)tag;
    __builtin_memcpy(data, content + offset, bytes);
    return WASMBLK_OK;
}

static int write_disk(wasmblk_u32 tag, wasmblk_u64 offset, const wasmblk_u8 *data, wasmblk_u32 bytes, int fua) {
    (void)tag, (void)fua;
    __builtin_memcpy(content + offset, data, bytes);
    return WASMBLK_OK;
}

static int zero_disk(wasmblk_u32 tag, wasmblk_u64 offset, wasmblk_u32 bytes, int may_discard) {
    (void)tag, (void)may_discard;
    __builtin_memset(content + offset, 0, bytes);
    return WASMBLK_OK;
}

static int discard_disk(wasmblk_u32 tag, wasmblk_u64 offset, wasmblk_u32 bytes) {
    return zero_disk(tag, offset, bytes, 1);
}

/* A number with K, M or G behind it; 0 where it is none. */
static wasmblk_u64 parse_size(const struct wasmblk_option *option) {
    wasmblk_u64 number = 0;
    wasmblk_u32 at = 0;
    for (; at < option->value_bytes && option->value[at] >= '0' && option->value[at] <= '9'; at++) {
        number = number * 10 + (wasmblk_u64)(option->value[at] - '0');
        /* That fits even with a G behind it. */
        if (number >> 32) return 0;
    }
    switch (option->value_bytes - at ? option->value[at] : 'B') {
    case 'G': number <<= 10; /* fall through */
    case 'M': number <<= 10; /* fall through */
    case 'K': number <<= 10; /* fall through */
    case 'B': return option->value_bytes - at > 1 ? 0 : number;
    default: return 0;
    }
}

static int is(const char *word, wasmblk_u32 bytes, const char *other) {
    wasmblk_u32 at = 0;
    while (at < bytes && word[at] == other[at]) at++;
    return at == bytes && !other[at];
}

static const char *wasmblk_open(const struct wasmblk_option *options, wasmblk_u32 count, struct wasmblk_disk *disk) {
    for (wasmblk_u32 i = 0; i < count; i++) {
        if (!is(options[i].key, options[i].key_bytes, "size")) return "unknown option; memory-c knows: size";
        disk->size_bytes = parse_size(&options[i]);
        if (!disk->size_bytes || disk->size_bytes >> 32) return "size: expected a number such as 64M, below 4G";
    }
    if (!disk->size_bytes) return "'size' is missing: give --set size=64M";
    content = wasmblk_allocate((wasmblk_u32)disk->size_bytes);
    if (!content) return "size: that is more memory than this guest may have";
    disk->features = WASMBLK_FEATURE_WRITE_THROUGH;
    disk->max_discard_bytes = 1u << 30;
    disk->max_write_zeroes_bytes = 1u << 30;
    disk->read = read_disk;
    disk->write = write_disk;
    disk->discard = discard_disk;
    disk->write_zeroes = zero_disk;
    wasmblk_log(2, "a disk in C is open");
    return 0;
}
