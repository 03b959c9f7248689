// SHA-256 (FIPS 180-4), to name a model by its bytes.
//
// This room owns: the hash of bytes in memory, piece by piece. It leaves to others: where the
// bytes come from. No secrets pass through here: nothing is constant-time or wiped.
#ifndef PLUMB_BASE_SHA256_H
#define PLUMB_BASE_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    uint32_t h[8];
    uint64_t n_bytes;
    uint8_t tail[64];  // the last n_bytes % 64 bytes, not hashed yet
} Sha256;

void sha256_start(Sha256 *s);
void sha256_add(Sha256 *s, const void *bytes, size_t len);
// 64 lower-case hexadecimal digits and a NUL; s must be started anew after it. Returns out.
const char *sha256_hex(Sha256 *s, char out[65]);

// Does this processor hash in hardware? sha256_add then uses it; tests turn it off to run both.
bool sha256_accelerated(void);
void sha256_use_acceleration(bool on);

#endif
